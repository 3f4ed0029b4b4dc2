"""A gateway that logs how much it holds when it gets SIGUSR1: `python -m tests.faults.observed_gateway …`."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from rpc import log
from rpc.process import run
from rpc.settings import from_command_line

PROGRAM = "observed_gateway"
HELD = "held"  # the line's message
LOGGER = logging.getLogger("tokenmill.gateway")


class ObservedGateway(GatewayService):
    async def start(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._tell)
        await super().start()

    def _tell(self) -> None:
        gc.collect()  # what is only waiting to be collected is no leak
        admission = self._admission
        held = {"tasks": len(asyncio.all_tasks()), "inflight": admission.inflight + admission.queued}
        log.event(LOGGER, logging.ERROR, HELD, **held)  # at any level


def main() -> None:
    settings = from_command_line(GatewaySettings, PROGRAM, sys.argv[1:])
    run(lambda: ObservedGateway(settings), settings, PROGRAM)


if __name__ == "__main__":
    main()
