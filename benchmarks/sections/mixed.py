"""How fast is a workload of mixed lengths done, beside what people would use instead?"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.load.requests import PromptWords, Request
from benchmarks.load.statistics import Summary, median_ratio
from benchmarks.options import BenchOptions
from benchmarks.report.results import Cell, Check, Section, Table
from benchmarks.sections.baseline import best_environment
from benchmarks.sections.side_by_side import CONTINUOUS, GENERATE, Contest, start_engines
from benchmarks.subjects.continuous import ContinuousSubject
from benchmarks.subjects.engine import EngineSubject
from benchmarks.subjects.generate import BatchesRun, GenerateSubject
from benchmarks.subjects.remote import Remote
from benchmarks.subjects.transformers_serve import CONTINUOUS as SERVE_CONTINUOUS
from benchmarks.subjects.transformers_serve import ServeClient, TransformersServer

IN_FLIGHT = 16
FLOOR, GOAL = 3.0, 6.0  # times generate()
SERVE = "transformers serve"
SERVE_BATCHING = "transformers serve --continuous-batching"
Run: TypeAlias = Summary | BatchesRun
COLUMNS = [
    f"mixed lengths, {IN_FLIGHT} in flight",
    "runs",
    "requests",
    "tokens/s",
    "times generate()",
    "first token p50 ms",
    "p99 ms",
    "between tokens p50 ms",
    "p99 ms ",
]


def measure(options: BenchOptions, words: PromptWords) -> Section:
    """Throughput and latencies: what is promised in turns, the rest once."""
    section = Section("Mixed lengths")
    workload = _Workload(options, words, best_environment(options, words, section))
    with ExitStack() as stack:
        engines = start_engines(stack, options, section)
        generate = stack.enter_context(Remote(GenerateSubject, options.model, environment=workload.environment))
        side_by_side: dict[str, Callable[[int], Run]] = {GENERATE: functools.partial(workload.generate, generate)}
        for name, engine in engines.items():
            count = options.mixed_requests if name == options.served else options.mixed_once
            side_by_side[name] = functools.partial(workload.engine, engine, count)
        runs = Contest(section, side_by_side).run(options.repetitions, promised=(GENERATE, options.served))
    others: dict[str, Callable[[int], Run]] = {
        CONTINUOUS: workload.continuous,
        SERVE: functools.partial(workload.server, (), options.mixed_one_by_one),
        SERVE_BATCHING: functools.partial(workload.server, SERVE_CONTINUOUS, options.mixed_once),
    }
    runs |= Contest(section, others).run(1)
    section.tables = [Table("One workload, by subject", COLUMNS, [_row(name, runs) for name in runs])]
    section.checks = [_check(options.served, runs)]
    return section


@dataclass(frozen=True, slots=True)
class _Workload:
    """What each subject is asked to do."""

    options: BenchOptions
    words: PromptWords
    environment: Mapping[str, str]  # of the baselines

    def requests(self, count: int, repetition: int) -> list[Request]:
        """New words in each repetition."""
        return self.words.requests(count, self.options.mixed, variant=repetition)

    def engine(self, engine: Remote[EngineSubject], count: int, repetition: int) -> Run:
        """Callers who send their next request when their last one has ended."""
        return engine.ask(EngineSubject.closed, self.requests(count, repetition), IN_FLIGHT)

    def generate(self, generate: Remote[GenerateSubject], repetition: int) -> Run:
        """Static batches, as large as others have requests in flight."""
        return generate.ask(GenerateSubject.batches, self.requests(self.options.mixed_requests, repetition), IN_FLIGHT)

    def continuous(self, repetition: int) -> Run:
        """All requests at once, of which it takes as many as others have in flight."""
        with Remote(ContinuousSubject, self.options.model, environment=self.environment) as continuous:
            return continuous.ask(
                ContinuousSubject.closed, self.requests(self.options.mixed_once, repetition), IN_FLIGHT
            )

    def server(self, flags: Sequence[str], count: int, repetition: int) -> Run:
        """Callers over HTTP. The first request, which is not counted, loads the model."""
        log = self.options.logs / "transformers-serve.log"
        with (
            TransformersServer(self.options.model, flags, log, self.environment) as server,
            Remote(ServeClient, server.address, self.options.model) as client,
        ):
            client.ask(ServeClient.closed, self.requests(1, -1), 1)
            return client.ask(ServeClient.closed, self.requests(count, repetition), IN_FLIGHT)


def _row(name: str, runs: Mapping[str, list[Run]]) -> list[Cell]:
    own = runs[name]
    throughput = statistics.median(run.tokens_per_second for run in own)
    beside = statistics.median(run.tokens_per_second for run in runs[GENERATE]) if GENERATE in runs else None
    summaries = [run for run in own if isinstance(run, Summary)]
    times = [
        statistics.median(getattr(run, field) for run in summaries) * 1000 if summaries else None
        for field in ("first_token_p50", "first_token_p99", "gap_p50", "gap_p99")
    ]
    return [name, len(own), own[0].requests, throughput, throughput / beside if beside else None, *times]


def _check(served: str, runs: Mapping[str, list[Run]]) -> Check:
    """Runs of one repetition stood side by side, so they are compared in pairs."""
    both = served in runs and GENERATE in runs
    rates = [[run.tokens_per_second for run in runs[name]] for name in (served, GENERATE)] if both else None
    ratio = median_ratio(*rates) if rates else None
    return Check(f"{served} on mixed lengths, times generate()", ratio, at_least=FLOOR, goal=GOAL)
