"""A caller of the gateway, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx2
import uvloop

from benchmarks.load.generator import closed_loop
from benchmarks.load.requests import Request
from benchmarks.load.statistics import Summary, summarize
from benchmarks.load.trace import Trace
from benchmarks.subjects.remote import SubjectError

_CALL_SECONDS = 900.0
_DATA, _DONE = "data: ", "[DONE]"


class HttpClient:
    """Streams completions from one gateway, a connection for each that runs."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._client = httpx2.AsyncClient(
            base_url=f"http://{address}",
            timeout=_CALL_SECONDS,
            trust_env=False,
            limits=httpx2.Limits(max_connections=None),
        )

    def closed(self, requests: Sequence[Request], in_flight: int) -> Summary:
        """`requests`, `in_flight` of them at a time."""
        return summarize(self._runner.run(closed_loop(self._send, requests, in_flight)))

    async def _send(self, request: Request) -> Trace:
        trace = Trace(len(request.ids))
        async with self._client.stream("POST", "/v1/completions", json=_body(request)) as response:
            if response.status_code != httpx2.codes.OK:
                raise SubjectError((await response.aread()).decode())
            async for line in response.aiter_lines():
                if line.startswith(_DATA) and not line.endswith(_DONE):
                    _hear(trace, json.loads(line.removeprefix(_DATA)))
        if trace.ended_at is None:
            raise SubjectError("a stream ended without its usage")
        return trace


def _body(request: Request) -> dict[str, Any]:
    return {
        "prompt": request.text,
        "temperature": 0,
        "max_tokens": request.max_new_tokens,
        "ignore_eos": True,
        "add_special_tokens": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _hear(trace: Trace, chunk: Any) -> None:
    """As a caller over gRPC counts: a delta is a token, until the end says how many there were."""
    if chunk["usage"] is not None:
        trace.end()
        trace.tokens = chunk["usage"]["completion_tokens"]
    elif chunk["choices"][0]["text"]:
        trace.hear(1)
