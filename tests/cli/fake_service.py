"""The smallest service that the shared lifecycle can run, with ways to misbehave."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from typing import Literal

import grpc

from rpc.process import run
from rpc.service import Surroundings
from rpc.settings import ServiceSettings, from_command_line, option
from rpc.start_error import StartError

Behaviour = Literal["normal", "fails-to-load", "never-ready", "dies-when-ready", "ignores-sigterm"]


@dataclass(frozen=True, kw_only=True)
class FakeSettings(ServiceSettings):
    """What any of the three services is told by a stack."""

    model: str = option("ignored", "")
    served_model_name: str = option("ignored", "")
    tokenizer: str = option("ignored", "")
    worker: str = option("ignored", "")
    quantization: str = option("ignored", "")
    http_port: int | None = option("ignored", None)
    behaviour: Behaviour = option("how it misbehaves", "normal")


class FakeService:
    """Serves nothing, but lives as every service does."""

    name = "fake"
    full_name = "tokenmill.tests.Fake"

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    def register(self, server: grpc.aio.Server) -> None:
        """Nothing to add."""

    def check_caller(self, metadata: object) -> None:
        pass

    async def listen(self, surroundings: Surroundings) -> None:
        pass

    async def start(self) -> None:
        """Load, in the way that was asked for."""
        if self.behaviour == "fails-to-load":
            raise StartError("the model folder lacks config.json")
        if self.behaviour == "never-ready":
            await asyncio.Event().wait()
        if self.behaviour == "ignores-sigterm":
            asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def wait_broken(self) -> str:
        """Break at once, or never."""
        if self.behaviour != "dies-when-ready":
            await asyncio.Event().wait()
        return "the engine is broken"

    def describe(self) -> dict[str, object]:
        return {}

    def stop_accepting(self) -> None:
        """Nothing is accepted anyway."""

    async def close(self) -> None:
        """Nothing is held."""


def main(service: type[FakeService]) -> None:
    """The `__main__` of a fake service."""
    settings = from_command_line(FakeSettings, "fake", sys.argv[1:])
    run(lambda: service(settings.behaviour), settings, "fake")
