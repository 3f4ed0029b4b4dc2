"""The three services as real processes on the demo model, for tests that ask them as any caller would."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from cli.local_stack import LocalStack, StackOptions
from cli.progress import StartProgress
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc

MODEL = "smollm2"
# Identity is claimed for these; everything else is measured and printed.
EXACT = ("--quantization", "none", "--dtype", "float32")
# Two threads on two busy cores wait for each other more than they compute.
SMALL = ("--threads", "1", "--kv-cache-memory", "512MiB")


@dataclass(frozen=True, slots=True)
class StreamedOutputs:
    """What one streamed call brought: per output its text, ids and terminal event."""

    texts: list[str]
    ids: list[list[int]]
    finished: list[gateway_pb2.Finished]


class Caller:
    """A blocking client of a running gateway; safe to use from several threads."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self.stub = gateway_pb2_grpc.InferenceServiceStub(self._channel)

    def stream_chat(self, request: gateway_pb2.ChatRequest) -> StreamedOutputs:
        return collect(self.stub.StreamChat(request, timeout=300))

    def stream_generate(self, request: gateway_pb2.GenerateRequest) -> StreamedOutputs:
        return collect(self.stub.StreamGenerate(request, timeout=300))

    def at_once(self, requests: list[gateway_pb2.ChatRequest]) -> list[StreamedOutputs]:
        """Send all requests at the same time."""
        with ThreadPoolExecutor(len(requests)) as threads:
            return list(threads.map(self.stream_chat, requests))

    def close(self) -> None:
        self._channel.close()


def collect(responses: Iterator[gateway_pb2.StreamChatResponse]) -> StreamedOutputs:
    """Put a stream together, and check its shape on the way."""
    texts: dict[int, str] = {}
    ids: dict[int, list[int]] = {}
    finished: dict[int, gateway_pb2.Finished] = {}
    for number, response in enumerate(responses):
        kind = response.WhichOneof("event")
        assert (kind == "started") == (number == 0)
        if kind == "delta":
            assert response.delta.index not in finished
            texts[response.delta.index] = texts.get(response.delta.index, "") + response.delta.text
            ids.setdefault(response.delta.index, []).extend(response.delta.token_ids)
        elif kind == "finished":
            assert response.finished.index not in finished
            finished[response.finished.index] = response.finished
    order = sorted(finished)
    assert order == list(range(len(order)))
    return StreamedOutputs(
        [texts.get(i, "") for i in order], [ids.get(i, []) for i in order], [finished[i] for i in order]
    )


@contextmanager
def running_stack(model: Path, *worker_arguments: str) -> Iterator[Caller]:
    """A caller of a stack on free ports; the processes are gone at the end."""
    options = StackOptions(model=model, served_name=MODEL, worker_arguments=(*worker_arguments, *SMALL))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> LocalStack:
        return await LocalStack(options, StartProgress(io.StringIO())).__aenter__()

    try:
        stack = asyncio.run_coroutine_threadsafe(start(), loop).result()
        caller = Caller(stack.addresses["gateway"])
        try:
            yield caller
        finally:
            caller.close()
            asyncio.run_coroutine_threadsafe(stack.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
