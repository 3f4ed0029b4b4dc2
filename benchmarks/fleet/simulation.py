"""Gateways and workers on a clock of their own: arrivals by chance, steps as of continuous batching, late reports.

A step of a worker takes a fixed time, more for each row that decodes, and more for each token of a prompt, of which it
computes so many per step. Gateways know what they sent themselves and what the reports say, which come now and then.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.fleet.choice import Candidate
from gateway.fleet.worker_load import Report, Sent, Work, WorkerLoad

STEP_SECONDS = 0.020
ROW_SECONDS = 0.001  # more, for each row that decodes
PROMPT_TOKEN_SECONDS = 0.0003  # more, for each token of a prompt
STEP_PROMPT_TOKENS = 256
MAX_ROWS = 16
KV_TOKENS = 65536
REPORT_SECONDS = 0.25


@dataclass(slots=True, eq=False)
class Job:
    """One request: a row, and when what happened to it."""

    arrived: float
    prompt: int
    output: int
    prompt_left: int = 0
    generated: int = 0
    first_token: float = 0.0
    ended: float = 0.0
    counted: tuple[WorkerLoad, Sent] | None = None  # where its gateway counts it

    @property
    def work(self) -> Work:
        """What a gateway counts."""
        return Work(1, self.prompt)


@dataclass(slots=True, eq=False)
class Worker:
    """Continuous batching at so many times the usual speed."""

    speed: float
    waiting: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    steps: int = 0
    tokens: int = 0
    is_stepping: bool = False

    def step(self) -> float:
        """Take in who waits, and return how long the next step takes."""
        while self.waiting and len(self.running) < MAX_ROWS:
            self.running.append(self.waiting.popleft())
        budget = STEP_PROMPT_TOKENS
        for job in self.running:
            part = min(job.prompt_left, budget)
            job.prompt_left -= part
            budget -= part
        decoding = sum(not job.prompt_left for job in self.running)
        prompt_tokens = STEP_PROMPT_TOKENS - budget
        return (STEP_SECONDS + ROW_SECONDS * decoding + PROMPT_TOKEN_SECONDS * prompt_tokens) / self.speed

    def finish_step(self, now: float) -> list[Job]:
        """Draw a token for each row that decodes, and return the rows that have ended."""
        self.steps += 1
        for job in self.running:
            if job.prompt_left:
                continue
            self.tokens += 1
            job.generated += 1
            if job.generated == 1:
                job.first_token = now
            if job.generated == job.output:
                job.ended = now
        ended = [job for job in self.running if job.ended]
        self.running = [job for job in self.running if not job.ended]
        return ended

    def report(self) -> Report:
        """What it says of itself."""
        queued = sum(job.prompt_left for job in (*self.running, *self.waiting))
        used = sum(job.prompt + job.generated for job in self.running)
        return Report(len(self.running), len(self.waiting), queued, used, KV_TOKENS, self.steps)


Policy = Callable[[Sequence[Candidate], Work, random.Random], int]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is simulated: how fast each worker is, how many gateways there are, what comes."""

    speeds: Sequence[float]
    gateways: int
    requests: int
    per_second: float
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """All requests, in order of arrival, and the tokens that each worker generated."""

    jobs: Sequence[Job]
    tokens: Sequence[int]


def simulate(scene: Scene, policy: Policy) -> Outcome:
    """Let every request arrive and end."""
    return _Simulation(scene, policy).run()


class _Simulation:
    def __init__(self, scene: Scene, policy: Policy) -> None:
        self._scene = scene
        self._policy = policy
        self._random = random.Random(scene.seed)  # noqa: S311 - a workload, not a secret
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._workers = [Worker(speed) for speed in scene.speeds]
        self._loads = [[WorkerLoad(lambda: self._now) for _ in scene.speeds] for _ in range(scene.gateways)]
        self._jobs: list[Job] = []
        self._left = scene.requests

    def run(self) -> Outcome:
        self._at(0.0, self._report)
        self._at(0.0, self._arrive)
        while self._left:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        return Outcome(self._jobs, [worker.tokens for worker in self._workers])

    def _at(self, moment: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), happen))

    def _report(self) -> None:
        for place, worker in enumerate(self._workers):
            report = worker.report()
            for loads in self._loads:
                loads[place].hear(report)
        self._at(self._now + REPORT_SECONDS, self._report)

    def _arrive(self) -> None:
        draw = self._random
        prompt = min(4000, int(draw.lognormvariate(5.5, 1.0)) + 1)
        job = Job(self._now, prompt, draw.randint(8, 400), prompt_left=prompt)
        self._jobs.append(job)
        loads = draw.choice(self._loads)
        candidates = [
            Candidate(load.work, MAX_ROWS, load.report.kv_tokens_total - load.report.kv_tokens_used) for load in loads
        ]
        place = self._policy(candidates, job.work, draw)
        job.counted = loads[place], loads[place].send(job.work)
        worker = self._workers[place]
        worker.waiting.append(job)
        self._go_on(worker)
        if len(self._jobs) < self._scene.requests:
            self._at(self._now + draw.expovariate(self._scene.per_second), self._arrive)

    def _go_on(self, worker: Worker) -> None:
        if not worker.is_stepping:
            worker.is_stepping = True
            self._at(self._now + worker.step(), lambda: self._end_step(worker))

    def _end_step(self, worker: Worker) -> None:
        worker.is_stepping = False
        for job in worker.finish_step(self._now):
            self._left -= 1
            assert job.counted is not None
            load, sent = job.counted
            load.end(sent)
        if worker.running or worker.waiting:
            self._go_on(worker)
