"""How much was tried: one line for each subject, printed at the end of a test run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """What was tried on one subject."""

    schedules: int = 0
    rows: int = 0
    tokens: int = 0
    ties: int = 0
    seen: Counter[str] = field(default_factory=Counter)  # conditions, each with the schedules in which it came up

    def add(self, other: Counts) -> None:
        self.schedules += other.schedules
        self.rows += other.rows
        self.tokens += other.tokens
        self.ties += other.ties
        self.seen += other.seen

    def __str__(self) -> str:
        ties = f"{self.ties} tie{'' if self.ties == 1 else 's'}"
        return f"{self.schedules:5} schedules {self.rows:6} rows {self.tokens:7} tokens {ties:>8}"


class Tally:
    """All subjects of a session."""

    def __init__(self) -> None:
        self.subjects: dict[str, Counts] = {}

    def of(self, subject: str) -> Counts:
        return self.subjects.setdefault(subject, Counts())

    def lines(self) -> list[str]:
        total = Counts()
        for counts in self.subjects.values():
            total.add(counts)
        width = max(map(len, self.subjects), default=0)
        table = [f"{name:{width}} {counts}" for name, counts in [*self.subjects.items(), ("all", total)]]
        seen = ", ".join(f"{name} {count}" for name, count in sorted(total.seen.items()))
        return [*table, f"schedules with: {seen}"]
