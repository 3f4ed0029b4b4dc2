"""The failure matrix: what is struck, how and when, what callers may see of it; and the table of what they saw."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.history import History

FAULTS = ("SIGKILL", "SIGSTOP", "SIGTERM", "blackhole")
MOMENTS = ("before the first token", "during prefill", "mid-stream")
PARTS = ("worker", "tokenizer", "one of two tokenizers", "gateway")
COMPLETED, UNAVAILABLE, DEADLINE = "completed", "UNAVAILABLE", "DEADLINE_EXCEEDED"


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault of one part at one moment."""

    fault: str
    moment: str
    part: str

    def __str__(self) -> str:
        return f"{self.part}, {self.fault}, {self.moment}"

    @property
    def outcomes(self) -> set[str]:
        """What a caller may see."""
        if self.part == "gateway":
            return {
                "SIGKILL": {UNAVAILABLE},
                "SIGTERM": {COMPLETED},
            }.get(self.fault, {DEADLINE})
        if self.part == "tokenizer" and self.moment == MOMENTS[0]:
            return {
                "SIGKILL": {UNAVAILABLE},
                "SIGTERM": {COMPLETED, UNAVAILABLE},  # what has not reached it yet comes too late
            }.get(self.fault, {UNAVAILABLE, DEADLINE})
        return {COMPLETED}


CELLS = [Cell(*names) for names in product(FAULTS, MOMENTS, PARTS)]


@dataclass(slots=True)
class Matrix:
    """What callers saw, cell by cell."""

    seen: dict[Cell, list[History]] = field(default_factory=dict)
    breaches: int = 0

    def lines(self) -> list[str]:
        """As a table in Markdown, and what it comes to."""
        histories = [history for seen in self.seen.values() for history in seen]
        lost = sum(history.outcome == "lost" for history in histories)
        return [
            "| struck | how | when | what callers saw | longest silence, s | longest call, s |",
            "| --- | --- | --- | --- | ---: | ---: |",
            *(self._row(cell) for cell in sorted(self.seen, key=CELLS.index)),
            "",
            f"{len(histories)} calls under faults, {lost} lost, {self.breaches} breaches of a rule.",
        ]

    def _row(self, cell: Cell) -> str:
        seen = self.seen[cell]
        outcomes = Counter(f"{one.outcome} ({one.reason})" if one.reason else one.outcome for one in seen)
        words = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        silence = max(one.longest_silence for one in seen)
        longest = max(one.seconds or 0.0 for one in seen)
        return f"| {cell.part} | {cell.fault} | {cell.moment} | {words} | {silence:.1f} | {longest:.1f} |"
