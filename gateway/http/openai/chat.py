"""`POST /v1/chat/completions`: the request, as one of the contract's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from google.protobuf.struct_pb2 import Struct

from gateway.generation import Generation
from gateway.http.openai.body import Body, Int32, Several, Table
from gateway.http.openai.parameters import Parameters, renamed
from gateway.requests import generation_from_chat
from rpc.errors import invalid_field, not_implemented
from tokenmill.v1 import gateway_pb2

# A template's variables, nested so deep at most: protobuf reads a hundred levels, each of ours is two or three.
MAX_DEPTH = 16


class Part(Body):
    """A part of a message's content."""

    type: str
    text: str | None = None


class CalledFunction(Body):
    """What was called."""

    name: str
    arguments: str = ""


class CalledTool(Body):
    """A call in the history of a chat."""

    id: str = ""
    function: CalledFunction


class Message(Body):
    """A message of a chat."""

    role: str
    content: str | Several[Part] | None = None
    name: str | None = None
    tool_calls: Several[CalledTool] | None = None
    tool_call_id: str | None = None


class ChatBody(Parameters):
    """A request for a chat's next message."""

    messages: Several[Message]
    max_completion_tokens: Int32 | None = None
    logprobs: bool | None = None
    top_logprobs: Int32 | None = None
    # vLLM's.
    chat_template_kwargs: Table[Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {
        **Parameters.refused,
        "tools": (),
        "functions": (),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
        "audio": (),
        "modalities": (["text"],),
        "prediction": (),
        "web_search_options": (),
        "chat_template": (),
        "documents": (),
    }

    @property
    def longest(self) -> int | None:
        """`max_completion_tokens`, OpenAI's newer name, goes before `max_tokens`."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def names(self) -> Mapping[str, str]:
        """As for all, but for the bound, which has two names."""
        bound = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        return {"template_kwargs": "chat_template_kwargs", **super().names(), "stopping.max_new_tokens": bound}


def generation_of_chat(body: ChatBody, *, counting: bool = False) -> Generation:
    """A chat as a checked request. Errors: ServiceError naming the caller's field."""
    body.check_stream()
    top_logprobs = body.top_logprobs or 0
    if top_logprobs and not body.logprobs:
        raise invalid_field("top_logprobs", "goes with logprobs")
    request = gateway_pb2.ChatRequest(
        model=body.model,
        messages=[_message(message, f"messages[{place}]") for place, message in enumerate(body.messages)],
        template_kwargs=_struct(body.chat_template_kwargs),
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message or False,
        n=body.n,
        sampling=body.sampling(),
        stopping=body.stopping(),
        output=body.output(logprobs=body.logprobs or False, top_logprobs=top_logprobs),
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        parse_special_tokens=body.parse_special_tokens or False,
        add_special_tokens=body.add_special_tokens,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
    )
    with renamed(body.names):
        return generation_from_chat(request, counting=counting)


def _message(message: Message, path: str) -> gateway_pb2.ChatMessage:
    calls = [
        gateway_pb2.ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
        for call in message.tool_calls or ()
    ]
    return gateway_pb2.ChatMessage(
        role=message.role,
        content=text_of(message.content, f"{path}.content"),
        name=message.name or "",
        tool_calls=calls,
        tool_call_id=message.tool_call_id or "",
    )


def text_of(content: str | Sequence[Part] | None, path: str) -> str:
    """The text of a message; that of several parts in lines. Errors: ServiceError for what is no text."""
    if content is None or isinstance(content, str):
        return content or ""
    for place, part in enumerate(content):
        if part.type not in {"text", "input_text", "output_text"}:
            raise not_implemented(f"{path}[{place}].type", "content that is not text")
        if part.text is None:
            raise invalid_field(f"{path}[{place}].text", "is required")
    return "\n".join(part.text or "" for part in content)


def _struct(given: Mapping[str, Any] | None) -> Struct | None:
    """Errors: ServiceError for what a Struct cannot hold."""
    if given is None:
        return None
    if _depth(given) > MAX_DEPTH:
        raise invalid_field("chat_template_kwargs", f"may be nested {MAX_DEPTH} deep at most")
    struct = Struct()
    try:
        struct.update(given)
    except (OverflowError, ValueError):
        raise invalid_field("chat_template_kwargs", "has a number that is too large") from None
    return struct


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, children), default=0)
