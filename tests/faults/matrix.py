"""The failure matrix: what is struck, how and when, what callers may see of it; and the table of what they saw."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.history import History

FAULTS = ("SIGKILL", "SIGSTOP", "SIGTERM", "blackhole", "cut")
MOMENTS = BEFORE, PREFILL, MID_STREAM = ("before the first token", "during prefill", "mid-stream")
PARTS = WORKER, TOKENIZER, ONE_TOKENIZER, GATEWAY = (
    "one of two workers",
    "the only tokenizer",
    "one of two tokenizers",
    "the gateway",
)
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
        if self.part == GATEWAY:
            return {
                "SIGKILL": {UNAVAILABLE},
                "SIGTERM": {COMPLETED},
                "cut": {UNAVAILABLE},
            }.get(self.fault, {DEADLINE})
        if self.part == TOKENIZER and self.moment == BEFORE:
            return {
                "SIGTERM": {COMPLETED, UNAVAILABLE},  # what has not reached it yet comes too late
                "cut": {COMPLETED, UNAVAILABLE},
            }.get(self.fault, {UNAVAILABLE})
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
