"""How busy a worker is, as far as this gateway knows: its latest report, and what was sent to it since."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

SILENT_SECONDS = 3.0  # reports come at least every second, from a worker's event loop
STUCK_SECONDS = 10.0  # a step of a sound worker, however long a prompt it computes
STUCK_STEPS = 20  # times the usual step
_STEPS_KEPT = 64
_REPORTS_UNTIL_SEEN = 2  # the next report may have been made before what was sent arrived


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks of a worker, or several do together."""

    rows: int = 0
    prompt_tokens: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.rows + other.rows, self.prompt_tokens + other.prompt_tokens)

    def __sub__(self, other: Work) -> Work:
        return Work(self.rows - other.rows, self.prompt_tokens - other.prompt_tokens)


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of itself (contract: LoadReport)."""

    running: int = 0  # rows
    waiting: int = 0  # rows
    queued_prompt_tokens: int = 0
    kv_tokens_used: int = 0
    kv_tokens_total: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent to a worker, to be given back when it ends."""

    work: Work
    after_report: int


class WorkerLoad:
    """Of one start of a worker. Times are seconds of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.report = Report()
        self._reports = 0
        self._unseen: dict[int, Work] = {}  # by the number of reports heard when it was sent
        self._heard_at = self._moved_at = clock()  # the last report, and the last sign that the engine is not stuck
        self._step_seconds: deque[float] = deque(maxlen=_STEPS_KEPT)

    @property
    def work(self) -> Work:
        """Rows it has, and prompt tokens that it has still to compute."""
        report = self.report
        reported = Work(report.running + report.waiting, report.queued_prompt_tokens)
        return sum(self._unseen.values(), reported)

    def send(self, work: Work) -> Sent:
        """Count `work` before it is sent. Whoever sends it gives it back with `end`."""
        sent = Sent(work, self._reports)
        self._unseen[sent.after_report] = self._unseen.get(sent.after_report, Work()) + work
        return sent

    def end(self, sent: Sent) -> None:
        """Stop counting what has ended. Until a report shows that, it counts as reported."""
        if sent.after_report in self._unseen:
            self._unseen[sent.after_report] -= sent.work

    def hear(self, report: Report) -> None:
        """Take a report: what was sent well before is in it."""
        now = self._clock()
        steps = report.step - self.report.step
        if steps > 0 and self.report.running:
            self._step_seconds.append((now - self._moved_at) / steps)
        if steps > 0 or not report.running:
            self._moved_at = now
        self.report, self._heard_at = report, now
        self._reports += 1
        self._unseen.pop(self._reports - _REPORTS_UNTIL_SEEN, None)

    def excuse(self, seconds: float) -> None:
        """Not count the last `seconds`, in which nobody listened to it."""
        now = self._clock()
        self._heard_at = min(now, self._heard_at + seconds)
        self._moved_at = min(now, self._moved_at + seconds)

    def is_silent(self) -> bool:
        """Whether it has not been heard of for too long: the process is gone, stopped or cut off."""
        return self._clock() - self._heard_at > SILENT_SECONDS

    def is_stuck(self) -> bool:
        """Whether it has rows and no step ends: it talks, but its engine hangs."""
        usual = statistics.median(self._step_seconds) if self._step_seconds else 0.0
        patience = max(STUCK_SECONDS, STUCK_STEPS * usual)
        return self.report.running > 0 and self._clock() - self._moved_at > patience
