"""`POST /v1/responses`: the request, as one of the contract's. Text in, text out; nothing is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.generation import Generation
from gateway.http.openai.body import Body, Int32, Several, Table
from gateway.http.openai.chat import Part, text_of
from gateway.http.openai.parameters import Parameters, renamed
from gateway.requests import generation_from_chat
from rpc.errors import invalid_field, not_implemented
from tokenmill.v1 import gateway_pb2

LOGPROBS = "message.output_text.logprobs"


class Item(Body):
    """A message of the conversation."""

    type: str = "message"
    role: str = "user"
    content: str | Several[Part] | None = None


class ResponsesBody(Parameters):
    """A request for a response."""

    input: str | Several[Item]
    instructions: str | None = None
    max_output_tokens: Int32 | None = None
    top_logprobs: Int32 | None = None
    include: Several[str] | None = None
    metadata: Table[str] | None = None
    store: bool | None = None  # nothing is ever kept

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {
        **Parameters.refused,
        "tools": (),
        "tool_choice": ("none", "auto"),
        "previous_response_id": (),
        "conversation": (),
        "background": (),
        "prompt": (),
        "max_tool_calls": (),
        "text": ({"format": {"type": "text"}}, {"verbosity": "medium"}),
        "truncation": ("disabled",),
    }

    @property
    def longest(self) -> int | None:
        """The bound of the output."""
        return self.max_output_tokens

    @property
    def wants_logprobs(self) -> bool:
        """Whether they are to be included, which asking for alternatives says too."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    def names(self) -> Mapping[str, str]:
        """As for all, but for the messages and the bound."""
        offset = 1 if self.instructions else 0
        items = 0 if isinstance(self.input, str) else len(self.input)
        messages = {f"messages[{place + offset}]": f"input[{place}]" for place in range(items)}
        bound = {"stopping.max_new_tokens": "max_output_tokens"}
        return {**messages, "messages": "input", **super().names(), **bound}


def generation_of_response(body: ResponsesBody) -> Generation:
    """A request for a response as a checked request. Errors: ServiceError naming the caller's field."""
    if (body.n or 1) != 1:
        raise invalid_field("n", "must be 1: a response is one output")
    for name in set(body.include or ()) - {LOGPROBS}:
        raise not_implemented("include", f"{name[:64]!r}")
    items = [Item(content=body.input)] if isinstance(body.input, str) else body.input
    messages = [_message(item, f"input[{place}]") for place, item in enumerate(items)]
    if body.instructions:
        messages.insert(0, gateway_pb2.ChatMessage(role="system", content=body.instructions))
    request = gateway_pb2.ChatRequest(
        model=body.model,
        messages=messages,
        sampling=body.sampling(),
        stopping=body.stopping(),
        output=body.output(logprobs=body.wants_logprobs, top_logprobs=body.top_logprobs or 0),
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
    )
    with renamed(body.names):
        return generation_from_chat(request)


def _message(item: Item, path: str) -> gateway_pb2.ChatMessage:
    if item.type != "message":
        raise not_implemented(f"{path}.type", "an item that is no message")
    return gateway_pb2.ChatMessage(role=item.role, content=text_of(item.content, f"{path}.content"))
