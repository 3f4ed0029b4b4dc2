"""`python -m benchmarks.step_profile --model DIR`: where the time of a decode step goes, as a Markdown table.

The engine that serves (int8, compiled) decodes so many rows at once; torch's profiler says what each kind of work took,
and beside it stands what this machine's memory and arithmetic alone would need, measured in the same process.
"""

# ruff: noqa: E402 - threads are told how to wait before torch is imported

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_worker.engines.waiting_threads import spin_briefly

spin_briefly()  # as a worker does, and like it before torch is there

import torch
from torch.profiler import ProfilerActivity, profile

from cli.demo_model import default_folder
from model_worker.engine import Draw, Segment
from model_worker.sequence import Extent, RowParams
from model_worker.sequence import Sequence as Row
from model_worker.settings import WorkerSettings
from model_worker.torch_engine.int8.linear import int8_product
from model_worker.torch_engine.load_plan import LoadSettings
from model_worker.torch_engine.loader import load_engine
from model_worker.torch_engine.transformers_engine import TransformersEngine
from rpc.cpu import granted_cores

_ROWS = (1, 8, 32)
_HISTORY = 256  # tokens of each row's prompt
_STEPS = 40
_PROFILED_STEPS = 10
# What an event of the profiler is part of, by how its name begins; the first that fits. Only what they took themselves
# counts, so nothing is counted twice.
_KINDS: Mapping[str, tuple[str, ...]] = {
    "int8 layers (C++)": ("tokenmill::int8_linears", "aten::_int_mm"),
    "attention (C++)": ("tokenmill::attend",),
    "fused element-wise": ("graph_", "cpp_fused"),
    "compiled calls": ("## Call", "TorchDynamo", "Torch-Compiled", "Pregraph", "AOTDispatcher"),
}
_REST = "embedding, draw, all else"


@dataclass(frozen=True, slots=True)
class Limits:
    """What this machine can do with the threads that the engine has."""

    bytes_per_second: float  # read from memory
    products_per_second: float  # multiply-adds of `_int_mm`


@dataclass(frozen=True, slots=True)
class StepProfile:
    """One step of `rows` rows: all in milliseconds."""

    rows: int
    total: float  # median, without the profiler
    parts: Mapping[str, float]  # with it, scaled so that they add up to `total`
    memory_bound: float
    compute_bound: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    given = _parse(arguments)
    torch._inductor.config.cpp.enable_kernel_profile = True  # noqa: SLF001 - so that fused kernels have names
    engine = load_engine(
        LoadSettings(
            model=given.model,
            quantization="int8",
            threads=granted_cores(),
            compile=True,
            code_folder=given.compile_cache,
        ),
        lambda _: None,
    )
    try:
        limits = measure_limits()
        profiles = [profile_step(engine, rows, limits) for rows in _ROWS]
    finally:
        engine.close()
    sys.stdout.write(as_markdown(profiles, limits) + "\n")
    return 0


def profile_step(engine: TransformersEngine, rows: int, limits: Limits) -> StepProfile:
    """Decode `rows` rows, first to take the time and then to see where it goes."""
    running = _prefilled(engine, rows)
    _decode(engine, running, 5)
    total = statistics.median(_decode(engine, running, _STEPS))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        _decode(engine, running, _PROFILED_STEPS)
    kv_bytes = sum(len(row.ids) for row in running) * engine.spec.kv_bytes_per_token
    weights = engine.spec.weight_bytes - _embedding_bytes(engine)
    return StepProfile(
        rows,
        total * 1e3,
        _parts(profiler.key_averages(), total * 1e3),
        1e3 * (weights + kv_bytes) / limits.bytes_per_second,
        1e3 * weights * rows / limits.products_per_second,  # one product per int8 weight and row
    )


def measure_limits() -> Limits:
    """Read a gigabyte that is in no cache, and multiply what is in one; the best of a few."""
    large = torch.ones(2**27, dtype=torch.int64)
    square = torch.ones(2048, 2048, dtype=torch.int8)
    product = _best_seconds(lambda: int8_product(square, square, least_rows=1))
    return Limits(large.nbytes / _best_seconds(large.sum), 2048**3 / product)


def as_markdown(profiles: Sequence[StepProfile], limits: Limits) -> str:
    """Return a table with a row for each kind of work."""
    kinds = [*_KINDS, _REST]
    lines = [
        "| ms per step | " + " | ".join(f"{each.rows} row{'s' * (each.rows > 1)}" for each in profiles) + " |",
        "| --- |" + " ---: |" * len(profiles),
        *(_line(kind, [each.parts[kind] for each in profiles]) for kind in kinds),
        _line("**a step**", [each.total for each in profiles]),
        _line("memory alone", [each.memory_bound for each in profiles]),
        _line("arithmetic alone", [each.compute_bound for each in profiles]),
        "",
        f"Memory: {limits.bytes_per_second / 1e9:.1f} GB/s.",
        f"Arithmetic: {limits.products_per_second / 1e9:.0f} billion int8 multiply-adds per second.",
    ]
    return "\n".join(lines)


def _line(name: str, numbers: Iterable[float]) -> str:
    return f"| {name} | " + " | ".join(f"{number:.1f}" for number in numbers) + " |"


def _parts(events: Iterable[Any], total: float) -> dict[str, float]:
    parts = dict.fromkeys([*_KINDS, _REST], 0.0)
    for event in events:
        kind = next((kind for kind, names in _KINDS.items() if any(name in event.key for name in names)), _REST)
        parts[kind] += event.self_cpu_time_total
    scale = total / sum(parts.values())
    return {kind: took * scale for kind, took in parts.items()}


def _prefilled(engine: TransformersEngine, rows: int) -> list[Row]:
    words = random.Random(rows)  # noqa: S311 - prompts, not secrets
    capacity = _HISTORY + _STEPS + _PROFILED_STEPS + 16
    running = []
    for place in range(rows):
        ids = array("i", [words.randrange(engine.spec.vocabulary_size) for _ in range(_HISTORY)])
        row = Row(RowParams(), ids, len(ids), extent=Extent(place * capacity, capacity))
        [outcome] = engine.step([Segment(row, 0, len(ids), draws=True)])
        _take(row, outcome)
        running.append(row)
    return running


def _decode(engine: TransformersEngine, rows: Sequence[Row], steps: int) -> list[float]:
    """Return the seconds of each step."""
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        outcomes = engine.step([Segment(row, row.computed, 1, draws=True) for row in rows])
        seconds.append(time.perf_counter() - began)
        for row, outcome in zip(rows, outcomes, strict=True):
            _take(row, outcome)
    return seconds


def _take(row: Row, outcome: object) -> None:
    assert isinstance(outcome, Draw)
    row.computed = len(row.ids)
    row.ids.append(outcome.token_id)


def _embedding_bytes(engine: TransformersEngine) -> int:
    """Of which a step reads a few rows."""
    embedding = engine._model.get_input_embeddings()  # noqa: SLF001 - only a profile wants to know
    return int(embedding.weight.nbytes)


def _best_seconds(work: Callable[[], object], times: int = 7) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_profile", description=__doc__)
    parser.add_argument("--model", type=Path, default=default_folder(), help="model folder (default: %(default)s)")
    cache = WorkerSettings.__dataclass_fields__["compile_cache"].default
    parser.add_argument("--compile-cache", type=Path, default=cache, help="as of the worker (default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
