"""What does the gateway cost, and how much can one core of it carry, over gRPC and over HTTP?

Its worker is scripted: it computes nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.load.requests import Lengths, PromptWords, Request
from benchmarks.load.statistics import Summary, median_ratio
from benchmarks.options import BenchOptions
from benchmarks.report.results import Cell, Check, Section, Table
from benchmarks.subjects.gateway_client import GatewayClient
from benchmarks.subjects.http_client import HttpClient
from benchmarks.subjects.remote import Remote
from benchmarks.subjects.usage import CpuMeter
from cli.local_stack import FREE_PORTS, LocalStack, Ports, StackOptions
from cli.progress import StartProgress

STREAMS = 64
PROMISED_TOKENS_PER_SECOND = 10_000.0
TEXT = " The old bridge over the river was built of stone, and in summer the children of the village swim below it."
# What is asked for, and how long the worker's steps take. The shortest is more than the gateway can carry.
PACED_MS = (20.0, 6.0)
FASTEST_MS = 1.0
WARM_UP = Lengths((16, 16), (1, 4))
HTTP_CEILING = 1.1  # times the CPU per token of gRPC
Ask = Callable[[list[Request], int], Summary]  # requests, and how many are in flight
COLUMNS = [
    "step ms",
    "tokens/s",
    "tokens a message",
    "gateway's CPU µs per token",
    "share of its core",
    "first token p99 ms",
    "between messages p99 ms",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Carried:
    """One run, and what it cost each process in CPU seconds."""

    summary: Summary
    cpu_seconds: Mapping[str, float]


def measure(options: BenchOptions, words: PromptWords) -> Section:
    """Requests of one token, and long streams, through a gateway that has one core."""
    section = Section("The gateway by itself")
    asyncio.run(_measure(options, words, section))
    return section


async def _measure(options: BenchOptions, words: PromptWords, section: Section) -> None:
    runs = {
        step: await _with_steps_of(step, Lengths.exactly(prompt=16, output=options.gateway_tokens), options, words)
        for step in (*PACED_MS, FASTEST_MS)
    }
    over_http = await _over_both(Lengths.exactly(prompt=16, output=options.gateway_tokens), options, words)
    short = Lengths((64, 64), (1, 2))
    requests = await _with_steps_of(FASTEST_MS, short, options, words)
    section.tables = [_streams_table(runs), _requests_table(requests), _protocols_table(over_http)]
    sustained = statistics.median(run.summary.tokens_per_second for run in runs[FASTEST_MS])
    name = f"tokens/s that a gateway with one core carries, {STREAMS} streams"
    ratio = median_ratio(*(_cpu_per_token(over_http[name]) for name in ("HTTP", "gRPC")))
    section.checks = [
        Check(name, sustained, at_least=PROMISED_TOKENS_PER_SECOND),
        Check(f"the gateway's CPU per token over HTTP, times gRPC's, {STREAMS} streams", ratio, at_most=HTTP_CEILING),
    ]


async def _with_steps_of(step_ms: float, lengths: Lengths, options: BenchOptions, words: PromptWords) -> list[Carried]:
    async with _gateway_on_one_core(step_ms, options, FREE_PORTS) as stack:
        with Remote(GatewayClient, stack.addresses["gateway"]) as client:

            def ask(requests: list[Request], in_flight: int) -> Summary:
                return client.ask(GatewayClient.closed, requests, in_flight)

            await asyncio.to_thread(ask, words.requests(STREAMS, WARM_UP, variant=-1), STREAMS)
            return [
                await _carried(
                    ask, {**stack.pids, "client": client.pid}, _requests(words, lengths, options, repetition)
                )
                for repetition in range(options.repetitions)
            ]


async def _over_both(lengths: Lengths, options: BenchOptions, words: PromptWords) -> dict[str, list[Carried]]:
    """The same streams over gRPC and over HTTP, in turns."""
    async with _gateway_on_one_core(PACED_MS[0], options, dataclasses.replace(FREE_PORTS, http=0)) as stack:
        with Remote(GatewayClient, stack.addresses["gateway"]) as grpc, Remote(HttpClient, stack.http_address) as http:
            asks: dict[str, Ask] = {
                "gRPC": lambda requests, in_flight: grpc.ask(GatewayClient.closed, requests, in_flight),
                "HTTP": lambda requests, in_flight: http.ask(HttpClient.closed, requests, in_flight),
            }
            runs: dict[str, list[Carried]] = {name: [] for name in asks}
            for number, ask in enumerate(asks.values(), start=1):
                await asyncio.to_thread(ask, words.requests(STREAMS, WARM_UP, variant=-number), STREAMS)
            for repetition in range(options.repetitions):
                for place, (name, ask) in enumerate(asks.items()):
                    requests = _requests(words, lengths, options, 2 * repetition + place)
                    runs[name].append(await _carried(ask, stack.pids, requests))
            return runs


@asynccontextmanager
async def _gateway_on_one_core(step_ms: float, options: BenchOptions, ports: Ports) -> AsyncIterator[LocalStack]:
    stack_options = StackOptions(
        model=options.model,
        served_name=options.model.resolve().name,
        ports=ports,
        worker_arguments=(
            *("--engine", "scripted", "--script", str(_script(options, step_ms))),
            *("--max-num-seqs", str(STREAMS)),
        ),
    )
    async with LocalStack(stack_options, StartProgress(sys.stderr)) as stack:
        _keep_to_one_core(stack.pids["gateway"])
        yield stack


async def _carried(ask: Ask, pids: Mapping[str, int], requests: list[Request]) -> Carried:
    meter = CpuMeter(pids)
    summary = await asyncio.to_thread(ask, requests, STREAMS)
    return Carried(summary, meter.seconds())


def _requests(words: PromptWords, lengths: Lengths, options: BenchOptions, variant: int) -> list[Request]:
    return words.requests(STREAMS * options.gateway_rounds, lengths, variant=variant)


def _cpu_per_token(runs: list[Carried]) -> list[float]:
    return [run.cpu_seconds["gateway"] / run.summary.tokens * 1e6 for run in runs]


def _protocols_table(runs: Mapping[str, list[Carried]]) -> Table:
    rows: list[list[Cell]] = [
        [
            name,
            statistics.median(run.summary.tokens_per_second for run in of_one),
            statistics.median(_cpu_per_token(of_one)),
        ]
        for name, of_one in runs.items()
    ]
    title = f"{STREAMS} streams over gRPC and over HTTP, steps of {PACED_MS[0]:g} ms"
    return Table(title, ["protocol", "tokens/s", "gateway's CPU µs per token"], rows)


def _script(options: BenchOptions, step_ms: float) -> Path:
    """A worker that says ordinary text, in a file."""
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    file = options.logs / "script.json"
    script = {"ids": ids, "seconds_per_step": step_ms / 1000, "context_length": 2048, "kv_capacity_tokens": 2**18}
    file.write_text(json.dumps(script), encoding="utf-8")
    return file


def _keep_to_one_core(pid: int) -> None:
    """With all its threads; those it starts later inherit that."""
    core = min(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _streams_table(runs: Mapping[float, list[Carried]]) -> Table:
    rows: list[list[Cell]] = [[step, *_medians(of_step)] for step, of_step in runs.items()]
    return Table(f"{STREAMS} streams, on one core", COLUMNS, rows)


def _medians(runs: list[Carried]) -> list[float]:
    measured = [
        (
            run.summary.tokens_per_second,
            run.summary.tokens / run.summary.messages,
            run.cpu_seconds["gateway"] / run.summary.tokens * 1e6,
            run.cpu_seconds["gateway"] / run.summary.seconds,
            run.summary.first_token_p99 * 1000,
            run.summary.gap_p99 * 1000,
        )
        for run in runs
    ]
    return [statistics.median(values) for values in zip(*measured, strict=True)]


def _requests_table(runs: list[Carried]) -> Table:
    rows: list[list[Cell]] = [
        [name, statistics.median(run.cpu_seconds[name] / run.summary.requests for run in runs) * 1e3]
        for name in runs[0].cpu_seconds
    ]
    rate = statistics.median(run.summary.requests / run.summary.seconds for run in runs)
    title = f"Requests of 64 tokens for one or two, {STREAMS} in flight: {rate:,.0f} a second"
    return Table(title, ["process", "CPU ms per request"], rows)
