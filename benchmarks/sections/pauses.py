"""How long do decoding streams pause when a long prompt arrives, for each bound of a step's tokens?"""

from __future__ import annotations

import functools
import statistics
from contextlib import ExitStack

from benchmarks.load.requests import Lengths, PromptWords
from benchmarks.options import BenchOptions
from benchmarks.report.results import Cell, Plot, Section, Table
from benchmarks.sections.side_by_side import Contest
from benchmarks.subjects.engine import STEADY_TOKENS, EngineSubject, PauseRun
from benchmarks.subjects.remote import Remote

STREAMS = 16
STREAM_PROMPT = 32
COLUMNS = ["max_num_batched_tokens", "before p50 ms", "during p99 ms", "during max ms", "first token of the prompt ms"]


def measure(options: BenchOptions, words: PromptWords) -> Section:
    """The pauses of 16 streams, and the wait of the long prompt itself."""
    section = Section("A long prompt among decoding streams")
    with ExitStack() as stack:
        subjects = {}
        for chunk in options.chunks:
            flags = (*options.flags(options.served), "--max-num-batched-tokens", str(chunk))
            engine = stack.enter_context(Remote(EngineSubject, options.model, flags))
            subjects[str(chunk)] = functools.partial(_run, engine, chunk, options, words)
        runs = Contest(section, subjects).run(options.repetitions)
    rows: list[list[Cell]] = [[chunk, *_medians_ms(of_chunk)] for chunk, of_chunk in runs.items()]
    title = f"A prompt of {options.long_prompt} tokens among {STREAMS} streams, {options.served}"
    section.tables = [Table(title, COLUMNS, rows)]
    lines = {
        "longest pause": [(float(chunk), _medians_ms(of_chunk)[2]) for chunk, of_chunk in runs.items()],
        "wait for the prompt": [(float(chunk), _medians_ms(of_chunk)[3]) for chunk, of_chunk in runs.items()],
    }
    section.plots = [Plot("A long prompt arrives", "tokens per step", "ms", lines)]
    return section


def _run(
    engine: Remote[EngineSubject], chunk: int, options: BenchOptions, words: PromptWords, repetition: int
) -> PauseRun:
    prompts = STREAMS * STREAM_PROMPT // (chunk - STREAMS) + 1  # steps until all streams decode
    steps = options.long_prompt // (chunk - STREAMS) + 1  # while the prompt is computed
    lengths = Lengths.exactly(STREAM_PROMPT, prompts + STEADY_TOKENS + steps + STEADY_TOKENS)
    streams = words.requests(STREAMS, lengths, variant=repetition)
    [long] = words.requests(1, Lengths.exactly(options.long_prompt, 1), variant=-1 - repetition)
    return engine.ask(EngineSubject.pause, streams, long)


def _medians_ms(runs: list[PauseRun]) -> list[float]:
    fields = ("before_p50", "during_p99", "during_max", "first_token")
    return [statistics.median(getattr(run, field) for run in runs) * 1000 for field in fields]
