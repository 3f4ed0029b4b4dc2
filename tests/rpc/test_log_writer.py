"""Nobody who logs waits for those who read the log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import sys
import threading

import grpc
import pytest

from rpc import log_writer
from rpc.log import ConsoleFormatter
from rpc.log_writer import LogWriter
from tests.failure import failure

CALLS = 1000  # a line each, together several times what a pipe holds


class HeldStream(io.StringIO):
    """One whose reader has stopped until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.let_go = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.let_go.wait()
        return super().write(text)


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("tokenmill.test", logging.INFO, "", 0, message, (), None)


def test_lines_are_written_in_order_and_those_beyond_the_bound_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MAX_LINES", 3)
    stream = HeldStream()
    writer = LogWriter(stream)
    writer.setFormatter(ConsoleFormatter())
    writer.handle(record("first"))
    stream.entered.wait()
    for number in range(8):
        writer.handle(record(f"number {number}"))
    assert not writer.written(0)
    stream.let_go.set()
    assert writer.written(10)
    lines = [line.partition(": ")[2] for line in stream.getvalue().splitlines()]
    assert lines == ["first", "number 0", "number 1", "number 2", "log lines lost, as they were not read lines=5"]


async def test_a_service_whose_log_nobody_reads_goes_on_and_ends() -> None:
    flags = "--behaviour", "serve", "--drain-seconds", "0", "--log-format", "json"
    read_end, write_end = os.pipe()
    command = sys.executable, "-m", "tests.rpc.mill_service", *flags
    process = await asyncio.create_subprocess_exec(*command, stderr=write_end)
    os.close(write_end)
    with os.fdopen(read_end) as lines:
        while (line := json.loads(await asyncio.to_thread(lines.readline)))["message"] != "ready":
            pass
        await call_often(f"127.0.0.1:{line['port']}")
        process.terminate()
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def call_often(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(30):
        unknown = channel.unary_unary("/of/none")
        failures = await asyncio.gather(*(failure(unknown(b"")) for _ in range(CALLS)))
        assert {one.code() for one in failures} == {grpc.StatusCode.UNIMPLEMENTED}
