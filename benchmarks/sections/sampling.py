"""What do 32 rows with 32 different sampling settings cost, beside batches whose rows are all alike?

What a row asks for has its price, whoever its neighbours are: a wide nucleus, which only a sort of the vocabulary
finds, has the highest. So rows that differ are compared with what equal rows of the same settings cost on average.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.load.requests import PromptWords
from benchmarks.load.statistics import median_ratio
from benchmarks.options import BenchOptions
from benchmarks.report.results import Cell, Section, Table
from benchmarks.sections.side_by_side import Contest
from benchmarks.subjects.engine import GREEDY, EngineSubject
from benchmarks.subjects.remote import Remote
from model_worker.sequence import SamplingParams

ROWS = 32
STRIDE = 5  # of the settings that are measured with all rows alike; prime to the pattern in which they differ


def measure(options: BenchOptions, words: PromptWords) -> Section:
    """Decode throughput with greedy, equal and different rows."""
    section = Section("Sampling settings")
    rows = min(ROWS, options.rows[-1])
    mixed = [different(row) for row in range(rows)]
    equal = {
        f"all as row {chosen}": [replace(mixed[chosen], seed=row) for row in range(rows)]
        for chosen in range(1, rows, STRIDE)
    }
    settings = {"greedy": [GREEDY] * rows, **equal, "all different": mixed}
    with Remote(EngineSubject, options.model, options.flags(options.served)) as engine:

        def run(sampling: Sequence[SamplingParams], repetition: int) -> float:
            """Seconds for a step of all rows."""
            requests = words.requests(rows, options.decode, variant=repetition)
            return rows / engine.ask(EngineSubject.decode, requests, sampling)

        contest = Contest(section, {name: functools.partial(run, sampling) for name, sampling in settings.items()})
        seconds = contest.run(options.repetitions)
    if not all(seconds.get(name) for name in settings):
        return section  # which notes what failed
    averages = [statistics.fmean(round_) for round_ in zip(*(seconds[name] for name in equal), strict=True)]
    seconds = {**seconds, "all alike, on average": averages}
    table: list[list[Cell]] = [
        [name, statistics.median(own) * 1000, median_ratio(own, averages)] for name, own in seconds.items()
    ]
    columns = [f"{rows} rows, {options.served}", "step ms", "times the average of rows all alike"]
    section.tables = [Table("A step by its rows' settings", columns, table)]
    return section


def different(row: int) -> SamplingParams:
    """Other values in every row, and every filter, penalty and bias in some of them."""
    share = row / 32
    return SamplingParams(
        temperature=0.5 + share,
        top_k=(0, 20 + row)[row % 2],
        top_p=(1.0, 0.8 + share / 8)[row % 3 > 0],
        min_p=(0.0, 0.01 + share / 32)[row % 5 > 2],
        typical_p=(1.0, 0.9 + share / 16)[row % 7 == 3],
        repetition_penalty=1.0 + share / 4,
        presence_penalty=share,
        frequency_penalty=share / 2,
        logit_bias=((100 + row, -1.0), (200 + row, 1.0)) if row % 4 == 0 else (),
        seed=row,
    )
