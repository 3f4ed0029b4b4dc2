"""What one caller heard of one call, as plain values: what the rules judge."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Began:
    """The stream's `started`."""


@dataclass(frozen=True, slots=True)
class Said:
    """A delta of one output."""

    index: int
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """An output ended normally, with this usage."""

    index: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """An output failed alone."""

    index: int
    reason: str


Event: TypeAlias = Began | Said | Finished | Failed


@dataclass(frozen=True, slots=True)
class Expected:
    """What one output is in an undisturbed run."""

    prompt_tokens: int
    ids: tuple[int, ...]
    text: str


@dataclass(slots=True)
class History:
    """One call; times are seconds since it was made."""

    expected: tuple[Expected, ...]  # one per output
    deadline_seconds: float
    events: list[Event] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of the events
    code: str | None = None  # of the status; None: the caller heard of none
    reason: str = ""
    seconds: float | None = None  # until the status

    def heard(self, event: Event, seconds: float) -> None:
        self.events.append(event)
        self.times.append(seconds)

    def said(self, index: int) -> list[Said]:
        """The deltas of one output."""
        return [event for event in self.events if isinstance(event, Said) and event.index == index]

    @property
    def has_begun(self) -> bool:
        """Whether a token was heard."""
        return any(isinstance(event, Said) for event in self.events)

    @property
    def outcome(self) -> str:
        """In a word: completed, lost, or the code it ended with."""
        if self.code == "OK":
            return "failed alone" if any(isinstance(event, Failed) for event in self.events) else "completed"
        return self.code or "lost"

    @property
    def longest_silence(self) -> float:
        """Seconds without a word, from the call on."""
        times = [0.0, *self.times, *([] if self.seconds is None else [self.seconds])]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)
