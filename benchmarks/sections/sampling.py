"""What do 32 rows with 32 different sampling settings cost, beside 32 rows with the same ones?"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence

from benchmarks.load.requests import PromptWords
from benchmarks.load.statistics import median_ratio
from benchmarks.options import BenchOptions
from benchmarks.report.results import Cell, Section, Table
from benchmarks.sections.side_by_side import Contest
from benchmarks.subjects.engine import GREEDY, EngineSubject
from benchmarks.subjects.remote import Remote
from model_worker.sequence import SamplingParams

ROWS = 32


def measure(options: BenchOptions, words: PromptWords) -> Section:
    """Decode throughput with greedy, equal and different rows."""
    section = Section("Sampling settings")
    rows = min(ROWS, options.rows[-1])
    settings = {
        "greedy": [GREEDY] * rows,
        "all alike": [alike(row) for row in range(rows)],
        "all different": [different(row) for row in range(rows)],
    }
    with Remote(EngineSubject, options.model, options.flags(options.served)) as engine:

        def run(sampling: Sequence[SamplingParams], repetition: int) -> float:
            return engine.ask(EngineSubject.decode, words.requests(rows, options.decode, variant=repetition), sampling)

        contest = Contest(section, {name: functools.partial(run, sampling) for name, sampling in settings.items()})
        rates = contest.run(options.repetitions)
    alike_rates = rates.get("all alike", [])
    table: list[list[Cell]] = [
        [name, rows / statistics.median(own) * 1000, median_ratio(alike_rates, own) if alike_rates else None]
        for name, own in rates.items()
    ]
    columns = [f"{rows} rows, {options.served}", "step ms", "times the step of rows all alike"]
    section.tables = [Table("A step by its rows' settings", columns, table)]
    return section


def alike(row: int) -> SamplingParams:
    """The same for every row, but for the seed."""
    return SamplingParams(
        temperature=0.8, top_k=50, top_p=0.95, min_p=0.02, repetition_penalty=1.1, presence_penalty=0.1, seed=row
    )


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
