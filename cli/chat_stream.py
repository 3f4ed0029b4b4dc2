"""One streamed answer: its text as it arrives, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cli.readiness import open_local_channel
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, generation_pb2

CALL_SECONDS = 600.0  # whoever asks for an answer has left by then


@dataclass(frozen=True, slots=True)
class Answer:
    """How one answer went. Times are of the caller's clock."""

    seconds_to_first_text: float
    seconds_of_text: float  # from the first text to the end
    tokens: int
    prompt_tokens: int
    finish_reason: str  # "MAX_NEW_TOKENS", …

    @property
    def tokens_per_second(self) -> float:
        """After the first token, which the prompt's computation paid for."""
        return (self.tokens - 1) / self.seconds_of_text if self.seconds_of_text > 0 else 0.0


class StreamEndedEarlyError(Exception):
    """The stream ended without `finished`."""


def greedy_chat(prompt: str, max_new_tokens: int) -> gateway_pb2.ChatRequest:
    """A request for the most probable answer to one question."""
    return gateway_pb2.ChatRequest(
        messages=[gateway_pb2.ChatMessage(role="user", content=prompt)],
        sampling=generation_pb2.SamplingParams(temperature=0),
        stopping=generation_pb2.StoppingCriteria(max_new_tokens=max_new_tokens),
    )


async def stream_chat(address: str, request: gateway_pb2.ChatRequest, write: Callable[[str], None]) -> Answer:
    """Send `request` to the gateway at `address` and `write` its text piece by piece.

    Errors: grpc.aio.AioRpcError, StreamEndedEarlyError.
    """
    sent = time.monotonic()
    first_text: float | None = None
    finished: gateway_pb2.Finished | None = None
    async with open_local_channel(address) as channel:
        stub = gateway_pb2_grpc.InferenceServiceStub(channel)
        async for response in stub.StreamChat(request, timeout=CALL_SECONDS):
            if response.delta.text:
                first_text = first_text or time.monotonic()
                write(response.delta.text)
            if response.HasField("finished"):
                finished = response.finished
    ended = time.monotonic()
    if finished is None:
        raise StreamEndedEarlyError("the stream ended without a finish")
    begun = first_text or ended
    return Answer(
        seconds_to_first_text=begun - sent,
        seconds_of_text=ended - begun,
        tokens=finished.usage.completion_tokens,
        prompt_tokens=finished.usage.prompt_tokens,
        finish_reason=generation_pb2.FinishReason.Name(finished.finish.reason).removeprefix("FINISH_REASON_"),
    )
