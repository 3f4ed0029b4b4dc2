"""A fleet whose processes end and are replaced by others, while nobody who calls it may notice."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.end_to_end.stack import NAME
from tests.faults.callers import Gateways
from tests.faults.fleet import GATEWAY
from tests.processes import TOKENIZER, WORKER, ready_process, scripted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from tests.processes import Process

WORK_SECONDS = 10.0  # until a process that is ready has answered a call
# What each kind is called for, as its log names it.
METHODS = {
    TOKENIZER: "TokenizerService/Encode",
    WORKER: "WorkerService/GenerateMany",
    GATEWAY: "InferenceService/StreamGenerate",
}


@dataclass(eq=False)
class Part:
    """One process of a tier."""

    process: Process
    address: str
    method: str

    async def has_worked(self) -> None:
        """Return once it has answered a call."""
        async with asyncio.timeout(WORK_SECONDS):
            await self.process.has_logged("rpc", 1, method=f"/tokenmill.v1.{self.method}", code="OK")

    async def end(self) -> int:
        """Tell it to end, which it has to do in order. How many calls it has broken off."""
        self.process.signal(signal.SIGTERM)
        assert await self.process.exit_code() == 0
        (stopped,) = [line for line in self.process.lines if '"stopped"' in line]
        return int(json.loads(stopped)["ended_calls"])


class Tier:
    """The processes of one kind; who calls them is told where they are."""

    def __init__(
        self, stack: AsyncExitStack, module: str, flags: Sequence[str], tell: Callable[[Sequence[str]], None]
    ) -> None:
        self.parts: list[Part] = []
        self.ended_calls = 0  # by those that have ended
        self._stack = stack
        self._module = module
        self._flags = flags
        self._tell = tell

    async def grow(self, port: int = 0) -> Part:
        """Start one more."""
        started = ready_process(self._module, *self._flags, "--port", str(port))
        part = Part(*await self._stack.enter_async_context(started), METHODS[self._module])
        self.parts.append(part)
        self._tell([one.address for one in self.parts])
        return part

    async def replace(self, old: Part, *, keeps_port: bool) -> Part:
        """End one, and start another one in its place. Return once that has worked."""
        if not keeps_port:
            self.parts.remove(old)
            self._tell([one.address for one in self.parts])
        self.ended_calls += await old.end()
        if keeps_port:
            self.parts.remove(old)
        new = await self.grow(int(old.address.rpartition(":")[2]) if keeps_port else 0)
        await new.has_worked()
        return new


@dataclass
class RollingFleet:
    tokenizers: Tier
    workers: Tier
    gateways: Tier
    chosen: Gateways  # by callers

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return self.tokenizers, self.workers, self.gateways


def write_list(file: Path, addresses: Sequence[str]) -> None:
    """Put `addresses` into `file`, all at once: a reader might find half of a list that is being written."""
    new = file.with_suffix(".new")
    new.write_text("".join(f"{address}\n" for address in addresses))
    new.rename(file)


@asynccontextmanager
async def rolling_fleet(
    folder: Path, lists: Path, script: dict[str, Any], sizes: tuple[int, int, int], workers: Sequence[str] = ()
) -> AsyncIterator[RollingFleet]:
    """So many tokenizer services, workers and gateways; where the first two are stands in files in `lists`."""
    async with AsyncExitStack() as stack:
        chosen = Gateways()
        stack.push_async_callback(chosen.close)
        tokenizer_list, worker_list = lists / "tokenizers", lists / "workers"
        tokenizer_flags = ["--model", f"{NAME}={folder}", "--threads", "1"]
        worker_flags = [*scripted(folder, **script), "--served-model-name", NAME, *workers]
        gateway_flags = ["--tokenizer", f"file:{tokenizer_list}", "--worker", f"file:{worker_list}"]
        running = RollingFleet(
            Tier(stack, TOKENIZER, tokenizer_flags, partial(write_list, tokenizer_list)),
            Tier(stack, WORKER, worker_flags, partial(write_list, worker_list)),
            Tier(stack, GATEWAY, [*gateway_flags, "--drain-seconds", "1"], chosen.set_addresses),
            chosen,
        )
        *behind_gateways, gateways = zip(running.tiers, sizes, strict=True)
        await asyncio.gather(*(tier.grow() for tier, size in behind_gateways for _ in range(size)))
        await asyncio.gather(*(gateways[0].grow() for _ in range(gateways[1])))
        yield running
