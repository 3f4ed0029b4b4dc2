"""What do gateway, tokenizer service and gRPC cost beside the engine alone, and what do callers feel under load?"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.load.requests import PromptWords, Request, poisson_arrivals
from benchmarks.load.statistics import Summary, median_ratio
from benchmarks.options import BenchOptions
from benchmarks.report.results import Cell, Check, Plot, Section, Table
from benchmarks.subjects.engine import EngineSubject
from benchmarks.subjects.gateway_client import GatewayClient
from benchmarks.subjects.remote import Remote
from benchmarks.subjects.usage import CpuMeter, peak_memory_bytes
from cli.local_stack import LocalStack, StackOptions
from cli.progress import StartProgress

PROMISED_ROWS = 16
KEPT_FLOOR = 0.90  # of the engine's own throughput
ADDED_CEILING_MS = 15.0  # to the engine's own time to the first token
LOADS = (0.5, 0.8)  # of the capacity
MIB = 2**20
CLOSED_COLUMNS = [
    "in flight",
    "tokens/s",
    "engine alone",
    "share kept",
    "first token p50 ms",
    "p99 ms",
    "added p50 ms",
    "between tokens p50 ms",
    "p99 ms ",
]
OPEN_COLUMNS = [
    "share of capacity",
    "requests/s",
    "tokens/s",
    "first token p50 ms",
    "p99 ms",
    "added p50 ms",
    "between tokens p50 ms",
    "p99 ms ",
]


@dataclass(frozen=True, slots=True)
class StackRun:
    """One closed loop, and what it cost each process in CPU seconds."""

    summary: Summary
    cpu_seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class OpenRun:
    """One open loop, at a share of the capacity."""

    share: float
    requests_per_second: float
    summary: Summary


# One run per repetition, by what is in flight: so many callers with requests of one length, who soon ask in step, or
# callers with requests of mixed lengths, for whom the promises are made.
MIXED = f"{PROMISED_ROWS}, mixed"
Runs = dict[str, list[StackRun]]


def measure(options: BenchOptions, words: PromptWords) -> Section:
    """Three services and a caller in a process of its own, on the same cores that the engine alone has before."""
    section = Section("The whole stack over gRPC")
    asyncio.run(_measure(options, words, section))
    return section


async def _measure(options: BenchOptions, words: PromptWords, section: Section) -> None:
    stack_options = StackOptions(
        model=options.model, served_name=options.model.resolve().name, worker_arguments=options.flags(options.served)
    )
    with Remote(EngineSubject, options.model, options.flags(options.served)) as engine:
        async with LocalStack(stack_options, StartProgress(sys.stderr)) as stack:
            with Remote(GatewayClient, stack.addresses["gateway"]) as client:
                bench = _Bench(options, words, engine, client, {**stack.pids, "client": client.pid})
                await bench.warm_up()
                through, alone = await bench.closed()
                through[MIXED], alone[MIXED] = await bench.mixed()
                section.tables += [_closed_table(through, alone), _cpu_table(through, alone)]
                opened = await bench.open()
                section.tables.append(_open_table(opened))
                section.checks = _checks(through, alone, opened, options.served)
                section.plots = [_plot(through, alone)]
                section.tables.append(_memory_table(bench.pids))


class _Bench:
    """The stack and the engine alone, asked in turns. Asking is waiting, so it is done beside the event loop."""

    def __init__(
        self,
        options: BenchOptions,
        words: PromptWords,
        engine: Remote[EngineSubject],
        client: Remote[GatewayClient],
        pids: Mapping[str, int],
    ) -> None:
        self._options = options
        self._words = words
        self._engine = engine
        self._client = client
        self.pids = pids

    async def warm_up(self) -> None:
        """A few requests, so that connections stand and the tokenizer has reached the gateway."""
        requests = self._words.requests(4, self._options.stack, variant=-1)
        await asyncio.to_thread(self._client.ask, GatewayClient.closed, requests, 2)
        await asyncio.to_thread(self._engine.ask, EngineSubject.closed, requests, 2)

    async def closed(self) -> tuple[Runs, Runs]:
        """The same requests through the stack and to the engine alone, in turns; what promises nothing once."""
        through: Runs = {str(rows): [] for rows in self._options.rows}
        alone: Runs = {str(rows): [] for rows in self._options.rows}
        for repetition in range(self._options.repetitions):
            for rows in [rows for rows in self._options.rows if not repetition or rows == PROMISED_ROWS]:
                count = rows * self._options.stack_rounds
                requests = self._words.requests(count, self._options.stack, variant=repetition)
                through[str(rows)].append(await self._through(requests, rows))
                alone[str(rows)].append(await self._alone(requests, rows))
        return through, alone

    async def mixed(self) -> tuple[list[StackRun], list[StackRun]]:
        """The same with requests of mixed lengths, as the engine is measured with."""
        through, alone = [], []
        for repetition in range(self._options.repetitions):
            requests = self._words.requests(self._options.mixed_requests, self._options.mixed, variant=-2 - repetition)
            through.append(await self._through(requests, PROMISED_ROWS))
            alone.append(await self._alone(requests, PROMISED_ROWS))
        return through, alone

    async def open(self) -> list[OpenRun]:
        """Mixed lengths: the capacity in a closed loop, then arrivals by chance at shares of it."""
        options = self._options
        requests = self._words.requests(options.open_requests, options.mixed, variant=0)
        capacity = (await self._through(requests, PROMISED_ROWS)).summary
        runs: list[OpenRun] = []
        for place, share in enumerate(LOADS, start=1):
            rate = share * capacity.requests / capacity.seconds
            arrivals = poisson_arrivals(len(requests), rate, seed=place)
            fresh = self._words.requests(options.open_requests, options.mixed, variant=place)
            heard = await asyncio.to_thread(self._client.ask, GatewayClient.open, fresh, arrivals)
            runs.append(OpenRun(share, rate, heard))
        return runs

    async def _through(self, requests: list[Request], rows: int) -> StackRun:
        meter = CpuMeter(self.pids)
        summary = await asyncio.to_thread(self._client.ask, GatewayClient.closed, requests, rows)
        return StackRun(summary, meter.seconds())

    async def _alone(self, requests: list[Request], rows: int) -> StackRun:
        meter = CpuMeter({"engine alone": self._engine.pid})
        summary = await asyncio.to_thread(self._engine.ask, EngineSubject.closed, requests, rows)
        return StackRun(summary, meter.seconds())


def _rates(runs: list[StackRun]) -> list[float]:
    return [run.summary.tokens_per_second for run in runs]


def _added_ms(runs: list[StackRun]) -> float | None:
    added = [run.summary.added_p50 for run in runs if run.summary.added_p50 is not None]
    return statistics.median(added) * 1000 if added else None


def _latencies_ms(summaries: list[Summary]) -> list[float]:
    fields = ("first_token_p50", "first_token_p99", "gap_p50", "gap_p99")
    return [statistics.median(getattr(summary, field) for summary in summaries) * 1000 for field in fields]


def _closed_table(through: Runs, alone: Runs) -> Table:
    rows: list[list[Cell]] = []
    for in_flight, runs in through.items():
        ours, own = _rates(runs), _rates(alone[in_flight])
        first_p50, first_p99, gap_p50, gap_p99 = _latencies_ms([run.summary for run in runs])
        throughput = [statistics.median(ours), statistics.median(own), median_ratio(ours, own)]
        rows.append([in_flight, *throughput, first_p50, first_p99, _added_ms(runs), gap_p50, gap_p99])
    return Table("Closed loop", CLOSED_COLUMNS, rows)


def _open_table(opened: list[OpenRun]) -> Table:
    rows: list[list[Cell]] = []
    for run in opened:
        first_p50, first_p99, gap_p50, gap_p99 = _latencies_ms([run.summary])
        load: list[Cell] = [f"{run.share:.0%}", run.requests_per_second, run.summary.tokens_per_second]
        rows.append([*load, first_p50, first_p99, _opened_added_ms(run), gap_p50, gap_p99])
    return Table("Open loop, mixed lengths, arrivals by chance (Poisson)", OPEN_COLUMNS, rows)


def _opened_added_ms(run: OpenRun) -> float | None:
    return None if run.summary.added_p50 is None else run.summary.added_p50 * 1000


def _cpu_table(through: Runs, alone: Runs) -> Table:
    names = list(next(iter(through.values()))[0].cpu_seconds)
    rows: list[list[Cell]] = [[name, *(_cpu_per_token(runs, name) for runs in through.values())] for name in names]
    rows.append(["engine alone", *(_cpu_per_token(runs, "engine alone") for runs in alone.values())])
    return Table("CPU", ["CPU µs per token", *(f"{rows} in flight" for rows in through)], rows)


def _cpu_per_token(runs: list[StackRun], name: str) -> float:
    return statistics.median(run.cpu_seconds[name] / run.summary.tokens for run in runs) * 1e6


def _memory_table(pids: Mapping[str, int]) -> Table:
    rows: list[list[Cell]] = [[name, (peak_memory_bytes(pid) or 0) / MIB] for name, pid in pids.items()]
    return Table("Memory of each process", ["process", "most resident MiB"], rows)


def _checks(through: Runs, alone: Runs, opened: list[OpenRun], served: str) -> list[Check]:
    kept = median_ratio(_rates(through[MIXED]), _rates(alone[MIXED]))
    added = _added_ms(through[MIXED])
    return [
        Check(f"share of the engine's throughput, {served}, {MIXED} in flight", kept, at_least=KEPT_FLOOR),
        Check(f"ms added to the first token, {MIXED} in flight", added, at_most=ADDED_CEILING_MS),
        *(
            Check(f"ms added to the first token, {run.share:.0%} load", _opened_added_ms(run), at_most=ADDED_CEILING_MS)
            for run in opened
        ),
    ]


def _plot(through: Runs, alone: Runs) -> Plot:
    lines = {
        name: [(float(rows), statistics.median(_rates(of_rows))) for rows, of_rows in runs.items() if rows != MIXED]
        for name, runs in {"over gRPC": through, "engine alone": alone}.items()
    }
    return Plot("The stack", "requests in flight", "tokens per second", lines)
