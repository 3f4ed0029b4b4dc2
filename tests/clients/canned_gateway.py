"""A gateway that answers every chat with the same deltas, and goes on for ever where a request says `ignore_eos`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
from grpc_reflection.v1alpha import reflection

from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, generation_pb2

DELTAS = ("The capital ", "of France ", "is Paris", ". 🗼", "\nIts river is ", "the Seine.")
TEXT = "".join(DELTAS)
ENDLESS_PAUSE_SECONDS = 0.002


class CannedInference(gateway_pb2_grpc.InferenceServiceServicer):
    """Answers StreamChat; remembers what was asked and lets a test wait for a cancelled call."""

    def __init__(self) -> None:
        self.requests: list[gateway_pb2.ChatRequest] = []
        self.cancelled = asyncio.Event()

    async def StreamChat(
        self, request: gateway_pb2.ChatRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[gateway_pb2.StreamChatResponse]:
        """`started`, the deltas, `finished`."""
        self.requests.append(request)
        yield gateway_pb2.StreamChatResponse(started=gateway_pb2.Started(request_id="canned", prompt_tokens=[7]))
        try:
            while True:
                for text in DELTAS:
                    yield gateway_pb2.StreamChatResponse(delta=gateway_pb2.Delta(text=text))
                if not request.stopping.ignore_eos:
                    break
                await asyncio.sleep(ENDLESS_PAUSE_SECONDS)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise
        yield gateway_pb2.StreamChatResponse(finished=finished())


def finished() -> gateway_pb2.Finished:
    """The terminal event of the canned answer."""
    return gateway_pb2.Finished(
        finish=generation_pb2.Finish(reason=generation_pb2.FINISH_REASON_END_OF_SEQUENCE),
        usage=generation_pb2.Usage(prompt_tokens=7, completion_tokens=12),
    )


@contextlib.asynccontextmanager
async def serving(servicer: CannedInference) -> AsyncIterator[str]:
    """Serve `servicer` on a free local port, with reflection; the address."""
    server = grpc.aio.server()
    gateway_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    name = gateway_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
    reflection.enable_server_reflection([name, reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=0)
