"""The third baseline: `transformers serve`, its own server in a process of its own, and a caller of it over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2
import uvloop

from benchmarks.load.generator import closed_loop
from benchmarks.load.requests import Request
from benchmarks.load.statistics import Summary, summarize
from benchmarks.load.trace import Trace
from benchmarks.subjects.remote import SubjectError

START_SECONDS = 180.0
LOOK_SECONDS = 0.2
CALL_SECONDS = 900.0
END_SECONDS = 10.0
CONTINUOUS = ("--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", "1024")


class TransformersServer:
    """Owns the server's process, from when it answers to when it is gone."""

    def __init__(self, model: Path, flags: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Start it with `environment` beside ours; what it writes goes to the file `log`."""
        self.address = f"127.0.0.1:{_free_port()}"
        host, port = self.address.split(":")
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
        command += ["--host", host, "--port", port, "--device", "cpu", "--dtype", "float32", *flags]
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Wait until it answers. Errors: SubjectError."""
        until = time.monotonic() + START_SECONDS
        try:
            while not self._answers():
                if self._process.poll() is not None:
                    raise SubjectError(f"transformers serve ended: {self._last_line()}")
                if time.monotonic() > until:
                    raise SubjectError(f"transformers serve did not answer within {START_SECONDS:.0f} s")
                time.sleep(LOOK_SECONDS)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._end()

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"http://{self.address}/health", trust_env=False).is_success
        except httpx2.TransportError:
            return False

    def _last_line(self) -> str:
        return (self._log.read_text(errors="replace").strip().splitlines() or ["without a word"])[-1]

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ServeClient:
    """Streams texts from the completions endpoint of one server."""

    def __init__(self, address: str, model: Path) -> None:
        self._url = f"http://{address}/v1/completions"
        self._model = str(model)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._client = httpx2.AsyncClient(
            timeout=CALL_SECONDS, trust_env=False, limits=httpx2.Limits(max_connections=None)
        )

    def closed(self, requests: Sequence[Request], in_flight: int) -> Summary:
        """`requests`, `in_flight` of them at a time."""
        return summarize(self._runner.run(closed_loop(self._send, requests, in_flight)))

    async def _send(self, request: Request) -> Trace:
        trace = Trace(len(request.ids))
        async with self._client.stream("POST", self._url, json=self._body(request)) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    _hear(json.loads(line.removeprefix("data: ")), trace)
        trace.end()
        if trace.tokens != request.max_new_tokens:
            raise SubjectError(f"transformers serve made {trace.tokens} of {request.max_new_tokens} tokens")
        return trace

    def _body(self, request: Request) -> dict[str, object]:
        # As in `greedy_options`: no token -1 ends the output early.
        config = {"do_sample": False, "max_new_tokens": request.max_new_tokens, "eos_token_id": -1, "pad_token_id": 0}
        text, as_json = request.text, json.dumps(config)
        return {"model": self._model, "prompt": text, "stream": True, "generation_config": as_json}


def _hear(event: dict[str, object], trace: Trace) -> None:
    """Note one server-sent event; the last one has the counts. Errors: SubjectError."""
    match event:
        case {"error": error}:
            raise SubjectError(f"transformers serve answered {error}")
        case {"usage": {"completion_tokens": int(tokens)}}:
            trace.tokens = tokens
        case _:
            trace.hear(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
