"""A service for a process of its own, `python -m tests.rpc.mill_service --behaviour …`; see test_lifecycle.py."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sys
import threading
from typing import TYPE_CHECKING, Literal

from rpc import log
from rpc.process import run
from rpc.settings import ServiceSettings, from_command_line, option
from rpc.start_error import StartError
from tests.rpc.scripted_service import ScriptedService
from tokenmill.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = "mill"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MillSettings(ServiceSettings):
    """A service for the tests of the lifecycle."""

    port: int = option("port to listen on", 0, at_least=0, at_most=65535)
    behaviour: Literal["serve", "load for ever", "start error", "start exception", "break", "stuck loop"] = option(
        "what it does"
    )


async def echo(requests: AsyncIterator[worker_pb2.WorkerServiceGenerateRequest], context: object) -> AsyncIterator[
    worker_pb2.WorkerServiceGenerateResponse
]:  # fmt: skip
    """One response per request, until the caller has said everything."""
    async for request in requests:
        yield worker_pb2.WorkerServiceGenerateResponse(events=[worker_pb2.RowEvent(row=request.stop_row.row)])


class Mill(ScriptedService):
    def __init__(self, behaviour: str) -> None:
        super().__init__(worker_generate=echo, start=self.load)
        self.behaviour = behaviour
        if behaviour == "break":
            self.broken.set()

    async def load(self) -> None:
        match self.behaviour:
            case "serve":  # starting a child must not make gRPC write lines of its own
                await (await asyncio.create_subprocess_exec("true")).wait()
            case "load for ever":  # as a model does: in a thread that nobody can interrupt
                await asyncio.to_thread(threading.Event().wait)
            case "start error":
                raise StartError("the millstone is missing")
            case "start exception":
                raise KeyError("secret of the mill")
            case "stuck loop":
                log.event(logging.getLogger("tokenmill.mill"), logging.INFO, "stuck")
                stick_for_ever("secret of the mill")


def stick_for_ever(_secret: str) -> None:
    """As something that should not have been called on an event loop."""
    threading.Event().wait()


if __name__ == "__main__":
    mill_settings = from_command_line(MillSettings, PROGRAM, sys.argv[1:])
    run(lambda: Mill(mill_settings.behaviour), mill_settings, PROGRAM)
