"""The process of a service: its signals, and the code that it exits with. A second signal exits now."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import uvloop

from rpc import log
from rpc.lifecycle import EXIT_FAILED, Server
from rpc.service import Service
from rpc.settings import ServiceSettings
from rpc.start_error import StartError

LOGGER = logging.getLogger("tokenmill.lifecycle")


def run(make_service: Callable[[], Service], settings: ServiceSettings, program: str) -> NoReturn:
    """The `main` of every service: serve until stopped, then leave with the right exit code."""
    log.configure(settings.log_format, settings.log_level)
    # Where every thread stands, on stderr: the only thing that a process can be asked whose event loop is stuck.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # Never closed: that would wait for threads, and one that is still loading a model cannot be interrupted.
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        code = runner.run(_serve(make_service, settings))
    except StartError as error:
        log.flush()  # the line for people comes last
        sys.stderr.write(f"{program}: {error}\n")
        code = EXIT_FAILED
    except Exception:
        LOGGER.exception("failed")
        code = EXIT_FAILED
    _leave(code)


async def _serve(make_service: Callable[[], Service], settings: ServiceSettings) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log.loop_exception)
    server = Server(make_service(), settings)
    signals_seen = 0

    def on_signal(number: int) -> None:
        nonlocal signals_seen
        signals_seen += 1
        if signals_seen > 1:
            _leave(128 + number)
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return await server.run()


def _leave(code: int) -> NoReturn:
    """End the process now, whatever its threads are doing."""
    if log.flush():  # else nobody reads, and who flushes would wait for ever
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed
                stream.flush()
    os._exit(code)
