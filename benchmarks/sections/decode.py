"""How fast are tokens made while a fixed number of rows decodes, beside the same rows in transformers?"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

from benchmarks.load.requests import PromptWords, Request
from benchmarks.load.statistics import median_ratio
from benchmarks.options import BenchOptions
from benchmarks.report.results import Cell, Check, Plot, Section, Table
from benchmarks.sections.baseline import best_environment
from benchmarks.sections.side_by_side import CONTINUOUS, GENERATE, Contest, start_engines
from benchmarks.subjects.continuous import ContinuousSubject
from benchmarks.subjects.engine import EngineSubject
from benchmarks.subjects.generate import GenerateSubject
from benchmarks.subjects.remote import Remote
from benchmarks.subjects.usage import memory_bytes, peak_memory_bytes

FLOORS_AND_GOALS = {1: (2.0, 3.0), 8: (2.3, 3.5), 32: (2.7, 5.0)}  # times generate(), by rows
WEIGHTS_CEILING = 0.47  # of float32's
Decode = Callable[[Sequence[Request]], float]
Rates = Mapping[int, Mapping[str, list[float]]]  # tokens per second, by rows and subject, one per repetition


def measure(options: BenchOptions, words: PromptWords) -> Section:
    """Decode throughput at each number of rows, and what each subject needs in memory."""
    section = Section("Decoding")
    environment = best_environment(options, words, section)
    with ExitStack() as stack:
        engines = start_engines(stack, options, section)
        generate = stack.enter_context(Remote(GenerateSubject, options.model, environment=environment))
        continuous = stack.enter_context(Remote(ContinuousSubject, options.model, environment=environment))
        subjects: dict[str, Decode] = {
            GENERATE: lambda requests: generate.ask(GenerateSubject.decode, requests),
            CONTINUOUS: lambda requests: continuous.ask(ContinuousSubject.decode, requests),
            **{name: functools.partial(_decode, engine) for name, engine in engines.items()},
        }
        rates = {rows: _in_turns(section, subjects, rows, options, words) for rows in options.rows}
        weights = {name: engine.ask(EngineSubject.weight_bytes) for name, engine in engines.items()}
        pids = {GENERATE: generate.pid, CONTINUOUS: continuous.pid}
        pids |= {name: engine.pid for name, engine in engines.items()}
        section.tables += [_throughput(rates, subjects), _times_generate(rates, subjects), _memory(pids, weights)]
    section.checks = [*_speed_checks(rates, options.served), _weight_check(weights)]
    section.plots = [_plot(rates, subjects)]
    return section


def _decode(engine: Remote[EngineSubject], requests: Sequence[Request]) -> float:
    return engine.ask(EngineSubject.decode, requests)


def _in_turns(
    section: Section, subjects: Mapping[str, Decode], rows: int, options: BenchOptions, words: PromptWords
) -> dict[str, list[float]]:
    def task(decode: Decode, repetition: int) -> float:
        return decode(words.requests(rows, options.decode, variant=repetition))

    contest = Contest(section, {name: functools.partial(task, decode) for name, decode in subjects.items()})
    return contest.run(options.repetitions, promised=(GENERATE, options.served))


def _throughput(rates: Rates, names: Iterable[str]) -> Table:
    columns = ["tokens/s", *(f"{rows} rows" if rows > 1 else "1 row" for rows in rates)]
    cells: list[list[Cell]] = [[name, *(_median(by_name.get(name)) for by_name in rates.values())] for name in names]
    return Table("Tokens per second while all rows decode", columns, cells)


def _times_generate(rates: Rates, names: Iterable[str]) -> Table:
    columns = [f"times {GENERATE}", *(f"{rows} rows" if rows > 1 else "1 row" for rows in rates)]
    cells: list[list[Cell]] = [
        [name, *(_ratio(by_name, name) for by_name in rates.values())] for name in names if name != GENERATE
    ]
    return Table("The same, relative", columns, cells)


def _memory(pids: Mapping[str, int], weights: Mapping[str, int]) -> Table:
    """What is resident at the end, and was at most: loading can take more than serving."""
    rows: list[list[Cell]] = [
        [name, _mib(weights.get(name)), _mib(memory_bytes(pid)), _mib(peak_memory_bytes(pid))]
        for name, pid in pids.items()
    ]
    return Table("Memory", ["MiB", "weights and buffers", "resident", "most resident"], rows)


def _mib(size: int | None) -> float | None:
    return None if size is None else size / 2**20


def _speed_checks(rates: Rates, served: str) -> list[Check]:
    return [
        Check(f"{served}, rows: {rows}, times generate()", _ratio(rates[rows], served), at_least=floor, goal=goal)
        for rows, (floor, goal) in FLOORS_AND_GOALS.items()
        if rows in rates
    ]


def _weight_check(weights: Mapping[str, int]) -> Check:
    both = "int8" in weights and "fp32" in weights
    ratio = weights["int8"] / weights["fp32"] if both else None
    return Check("weights and buffers of int8, times fp32's", ratio, at_most=WEIGHTS_CEILING)


def _plot(rates: Rates, names: Iterable[str]) -> Plot:
    lines = {
        name: [(float(rows), statistics.median(by_name[name])) for rows, by_name in rates.items() if by_name.get(name)]
        for name in names
    }
    return Plot("Decoding", "rows", "tokens per second", lines)


def _median(values: list[float] | None) -> float | None:
    return statistics.median(values) if values else None


def _ratio(by_name: Mapping[str, list[float]], name: str) -> float | None:
    ours, theirs = by_name.get(name), by_name.get(GENERATE)
    return median_ratio(ours, theirs) if ours and theirs else None
