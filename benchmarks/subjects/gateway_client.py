"""A caller of the gateway, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import uvloop

from benchmarks.load.generator import closed_loop, open_loop
from benchmarks.load.requests import Request
from benchmarks.load.statistics import Summary, summarize
from benchmarks.load.trace import Trace
from benchmarks.subjects.remote import SubjectError
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, generation_pb2

# A local address is never reached through a proxy, whatever the environment says.
_CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0)]
_CALL_SECONDS = 900.0


class GatewayClient:
    """Streams texts from one gateway, all over one connection."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._runner.run(self._connect(address))

    def closed(self, requests: Sequence[Request], in_flight: int) -> Summary:
        """`requests`, `in_flight` of them at a time."""
        return summarize(self._runner.run(closed_loop(self._send, requests, in_flight)))

    def open(self, requests: Sequence[Request], arrivals: Sequence[float]) -> Summary:
        """`requests`, each at its time (seconds from now)."""
        return summarize(self._runner.run(open_loop(self._send, requests, arrivals)))

    async def _connect(self, address: str) -> None:
        channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = gateway_pb2_grpc.InferenceServiceStub(channel)

    async def _send(self, request: Request) -> Trace:
        trace = Trace(len(request.ids))
        async for response in self._stub.StreamGenerate(_message(request), timeout=_CALL_SECONDS):
            if response.HasField("delta"):
                trace.hear(1)
            elif response.HasField("finished"):
                _finish(trace, response.finished)
        if trace.ended_at is None:
            raise SubjectError("a stream ended without its finish")
        return trace


def _message(request: Request) -> gateway_pb2.GenerateRequest:
    return gateway_pb2.GenerateRequest(
        prompts=gateway_pb2.TextPrompts(texts=[request.text]),
        sampling=generation_pb2.SamplingParams(temperature=0),
        stopping=generation_pb2.StoppingCriteria(max_new_tokens=request.max_new_tokens, ignore_eos=True),
        add_special_tokens=False,
    )


def _finish(trace: Trace, finished: gateway_pb2.Finished) -> None:
    """Tokens that came merged into one delta were counted as one: what the gateway counted is right."""
    trace.end()
    trace.tokens = finished.usage.completion_tokens
    timing = finished.timing
    trace.engine_first_token_seconds = timing.queue.ToTimedelta().total_seconds() + (
        timing.prefill.ToTimedelta().total_seconds()
    )
