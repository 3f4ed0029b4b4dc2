"""Calls to a worker without a gateway."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rpc.token_tensors import pack_tensor, unpack_ids
from tokenmill.v1 import generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.end_to_end.stack import Stack

Request = worker_pb2.WorkerServiceGenerateRequest


def start(stack: Stack, prompts: Sequence[Sequence[int]], **given: Any) -> worker_pb2.Start:
    """One row of ten tokens per prompt unless something else is given."""
    fingerprint = stack.worker_service._servicer.generating.model.vocabulary_fingerprint
    defaults = {
        "tokens": pack_tensor(prompts, 0),
        "rows": [worker_pb2.RowParams(max_new_tokens=10) for _ in prompts],
        "vocabulary_fingerprint": fingerprint,
    }
    return worker_pb2.Start(**(defaults | given))


def ask(stack: Stack, begin: worker_pb2.Start) -> Any:
    """A Generate call whose only message is `begin`."""

    async def requests() -> Any:
        yield Request(start=begin)

    return stack.worker.Generate(requests())


@dataclass
class HeardRows:
    """What a worker says about the rows of one call."""

    ids: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    logprobs: dict[int, list[generation_pb2.TokenLogprob]] = field(default_factory=lambda: defaultdict(list))
    prompt_logprobs: dict[int, list[generation_pb2.TokenLogprob]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[int, worker_pb2.RowEvent] = field(default_factory=dict)

    def take(self, response: worker_pb2.WorkerServiceGenerateResponse) -> None:
        assert response.events, "an empty message"
        for event in response.events:
            assert event.row not in self.ends, "something after the row's terminal"
            if event.HasField("tokens"):
                self.ids[event.row] += unpack_ids(event.tokens.ids)
                self.logprobs[event.row] += event.tokens.logprobs
            elif event.HasField("prompt_logprobs"):
                assert event.row not in self.ids, "of the prompt, after a token"
                self.prompt_logprobs[event.row] += event.prompt_logprobs.logprobs
            else:
                self.ends[event.row] = event


async def hear_rows(call: Any) -> HeardRows:
    """A worker's stream to its end."""
    heard = HeardRows()
    async for response in call:
        heard.take(response)
    return heard
