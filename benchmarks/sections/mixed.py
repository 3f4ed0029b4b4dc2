"""How fast is a workload of mixed lengths done, beside what people would use instead?"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
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
    environment = best_environment(options, words, section)

    def requests(count: int, repetition: int) -> list[Request]:
        return words.requests(count, options.mixed, variant=repetition)

    with ExitStack() as stack:
        engines = start_engines(stack, options, section)
        generate = stack.enter_context(Remote(GenerateSubject, options.model, environment=environment))

        def with_generate(repetition: int) -> Run:
            return generate.ask(GenerateSubject.batches, requests(options.mixed_requests, repetition), IN_FLIGHT)

        def with_engine(name: str, repetition: int) -> Run:
            return engines[name].ask(EngineSubject.closed, requests(options.mixed_requests, repetition), IN_FLIGHT)

        ours = {name: functools.partial(with_engine, name) for name in engines}
        promised: dict[str, Callable[[int], Run]] = {
            GENERATE: with_generate,
            **{name: run for name, run in ours.items() if name == options.served},
        }
        runs = Contest[Run](section, promised).run(options.repetitions)
        runs |= Contest[Run](section, {name: run for name, run in ours.items() if name not in promised}).run(1)

    def with_continuous(repetition: int) -> Run:
        with Remote(ContinuousSubject, options.model, environment=environment) as continuous:
            return continuous.ask(ContinuousSubject.closed, requests(options.mixed_once, repetition), IN_FLIGHT)

    def with_server(flags: Sequence[str], count: int, repetition: int) -> Run:
        log = options.logs / "transformers-serve.log"
        with (
            TransformersServer(options.model, flags, log, environment) as server,
            Remote(ServeClient, server.address, options.model) as client,
        ):
            client.ask(ServeClient.closed, requests(1, -1), 1)  # it loads the model with the first request
            return client.ask(ServeClient.closed, requests(count, repetition), IN_FLIGHT)

    others: dict[str, Callable[[int], Run]] = {
        CONTINUOUS: with_continuous,
        SERVE: functools.partial(with_server, (), options.mixed_one_by_one),
        SERVE_BATCHING: functools.partial(with_server, SERVE_CONTINUOUS, options.mixed_once),
    }
    runs |= Contest[Run](section, others).run(1)
    section.tables = [Table("One workload, by subject", COLUMNS, [_row(name, runs) for name in runs])]
    section.checks = [_check(options.served, runs)]
    return section


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
