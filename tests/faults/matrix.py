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
            f"| struck | how | {' | '.join(MOMENTS)} |",
            f"| --- | --- |{' --- |' * len(MOMENTS)}",
            *(self._row(part, fault) for part, fault in product(PARTS, FAULTS) if self._tried(part, fault)),
            "",
            f"{len(histories)} calls under faults, {lost} lost, {self.breaches} breaches of a rule.",
        ]

    def _tried(self, part: str, fault: str) -> bool:
        return any((cell.part, cell.fault) == (part, fault) for cell in self.seen)

    def _row(self, part: str, fault: str) -> str:
        cells = [self._saw(self.seen.get(Cell(fault, moment, part), [])) for moment in MOMENTS]
        return f"| {part} | {fault} | {' | '.join(cells)} |"

    def _saw(self, histories: list[History]) -> str:
        outcomes = Counter(f"{one.outcome} {one.reason}".rstrip() for one in histories)
        words = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        silence = max((one.longest_silence for one in histories), default=0.0)
        return f"{words}; {silence:.1f} s" if histories else "not tried"
