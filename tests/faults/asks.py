"""What is asked under faults, and what an undisturbed run would say to it; calls, and the histories they leave."""

from __future__ import annotations

import asyncio
import time
from array import array
from typing import TYPE_CHECKING, Any

import grpc

from model_worker.engines.fake_engine import FakeModel
from model_worker.sequence import RowParams, SamplingParams
from rpc.call_record import REQUEST_ID_KEY
from rpc.seeds import mix64
from tests.end_to_end.heard import refusal_of
from tests.end_to_end.requests import OutputOptions, Sampling, Stopping, generate, generate_tokens
from tests.faults.history import Began, Expected, Failed, Finished, History, Said
from tests.faults.rules import ALLOWANCE_SECONDS
from tests.model_worker.generation_support import expected
from tests.tokenizers_for_tests import TEXT, byte_level_tokenizer

if TYPE_CHECKING:
    from tests.faults.history import Event
    from tokenmill.v1 import gateway_pb2

TOKENIZER = byte_level_tokenizer()
MODEL = FakeModel(vocabulary_size=max(TOKENIZER.get_vocab().values()) + 1)  # what a script without ids serves


class Ask:
    """A call with a prompt of its own. Every other one asks for two seeded samples instead of one greedy output."""

    def __init__(self, number: int, prompt_tokens: int, max_new_tokens: int, deadline_seconds: float) -> None:
        words = f"{number}: {''.join(TEXT[:2]) * (prompt_tokens // 40 + 1)}"
        self.ids = TOKENIZER.encode(words).ids[:prompt_tokens]
        self.text = TOKENIZER.decode(self.ids)
        assert TOKENIZER.encode(self.text).ids == self.ids
        self.samples = 1 + number % 2
        self.seed = number
        self.max_new_tokens = max_new_tokens
        self.deadline_seconds = deadline_seconds

    @property
    def in_text(self) -> gateway_pb2.GenerateRequest:
        """For a gateway that has the text tokenized."""
        return generate(self.text, **self._wishes)

    @property
    def in_tokens(self) -> gateway_pb2.GenerateRequest:
        """For one that needs no tokenizer service."""
        return generate_tokens(self.ids, **self._wishes)

    @property
    def expected(self) -> tuple[Expected, ...]:
        """What an undisturbed run says, by output."""
        return tuple(self._expected(sample) for sample in range(self.samples))

    @property
    def _wishes(self) -> dict[str, Any]:
        sampling = Sampling(temperature=0) if self.samples == 1 else Sampling(temperature=1, seed=self.seed)
        stopping = Stopping(max_new_tokens=self.max_new_tokens)
        return {"n": self.samples, "sampling": sampling, "stopping": stopping, "output": OutputOptions(token_ids=True)}

    def _expected(self, sample: int) -> Expected:
        seeded = SamplingParams(temperature=1.0, seed=mix64(self.seed, sample))
        sampling = SamplingParams() if self.samples == 1 else seeded
        params = RowParams(sampling=sampling, max_new_tokens=self.max_new_tokens)
        ids, _ = expected(array("i", self.ids), params, MODEL)
        return Expected(len(self.ids), tuple(ids), TOKENIZER.decode(ids))


class Recorded:
    """A running call and its history so far."""

    def __init__(self, stub: Any, request: Any, ask: Ask, request_id: str | None = None) -> None:
        self.history = History(ask.expected, ask.deadline_seconds)
        self.changed = asyncio.Event()
        self._began = time.monotonic()
        metadata = ((REQUEST_ID_KEY, request_id),) if request_id else None
        self._call = stub.StreamGenerate(request, timeout=ask.deadline_seconds, metadata=metadata)
        self._task = asyncio.create_task(self._listen())

    async def begun(self) -> None:
        """Return once a token was heard, or the call is over."""
        while not (self.history.has_begun or self._task.done()):
            self.changed.clear()
            await self.changed.wait()

    async def over(self) -> History:
        """The history, once the call is over, or long should have been."""
        await asyncio.wait({self._task}, timeout=self.history.deadline_seconds + 2 * ALLOWANCE_SECONDS)
        self._call.cancel()
        if not self._task.done():
            self._task.cancel()
        return self.history

    async def _listen(self) -> None:
        history = self.history
        try:
            async for response in self._call:
                history.heard(_event(response), self._now())
                self.changed.set()
            history.code = "OK"
        except grpc.aio.AioRpcError as error:
            history.code = error.code().name
            history.reason = _reason(error)
        history.seconds = self._now()
        self.changed.set()

    def _now(self) -> float:
        return time.monotonic() - self._began


def _event(response: Any) -> Event:
    kind = response.WhichOneof("event")
    event = getattr(response, kind)
    match kind:
        case "started":
            return Began()
        case "delta":
            return Said(event.index, tuple(event.token_ids), event.text)
        case "finished":
            return Finished(event.index, event.usage.prompt_tokens, event.usage.completion_tokens)
        case _:
            return Failed(event.index, event.error.reason)


def _reason(error: grpc.aio.AioRpcError) -> str:
    """The reason that a service of ours gave; empty where it is gRPC that says so."""
    ours = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
    return refusal_of(error).reason if ours else ""
