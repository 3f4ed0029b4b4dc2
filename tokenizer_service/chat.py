"""A chat as callers give it, and as templates see it. No wire format here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rpc.chat_limits import ROLES
from tokenizer_service.control.marks import Json
from tokenizer_service.errors import InvalidInput

# What every template is given or may call; a variable of that name would silently change what the others mean.
_RESERVED_NAMES = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "additional_special_tokens"}
    | {f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
    | {"raise_exception", "strftime_now", "namespace", "dict", "range"}
)

# Applied to each string a caller wrote before a template sees it.
Hide = Callable[[Json], Json]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the assistant made. `arguments` is JSON."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""

    def variables(self, hide: Hide) -> dict[str, Json]:
        """As templates expect it: the form of the OpenAI API, with the arguments as an object."""
        function = {"name": hide(self.name), "arguments": hide(dict(self.arguments))}
        identity = {"id": hide(self.id)} if self.id else {}
        return {**identity, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat. `role` is one of ROLES."""

    role: str
    content: str
    name: str = ""
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str = ""

    def variables(self, hide: Hide) -> dict[str, Json]:
        """As templates expect it. The role goes in as it is: templates make control tokens of it, and it is checked."""
        variables: dict[str, Json] = {"role": self.role, "content": hide(self.content)}
        if self.name:
            variables["name"] = hide(self.name)
        if self.tool_calls:
            variables["tool_calls"] = [call.variables(hide) for call in self.tool_calls]
        if self.tool_call_id:
            variables["tool_call_id"] = hide(self.tool_call_id)
        return variables


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool the model may call; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def variables(self, hide: Hide) -> dict[str, Json]:
        """As templates expect it: the form of the OpenAI API."""
        function = {
            "name": hide(self.name),
            "description": hide(self.description),
            "parameters": hide(dict(self.parameters)),
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat to be rendered. JSON values in it are finite, Unicode, and not deeper than json_values.MAX_DEPTH."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool | None = None  # default: not continue_final_message
    continue_final_message: bool = False

    @property
    def opens_assistant_turn(self) -> bool:
        """Whether the text ends with the opening of the assistant's turn."""
        given = self.add_generation_prompt
        return not self.continue_final_message if given is None else given

    def check(self) -> None:
        """Errors: InvalidInput."""
        if not self.messages:
            raise InvalidInput("messages", "at least one message is needed")
        for index, message in enumerate(self.messages):
            _check_message(f"messages[{index}]", message)
        if self.continue_final_message and self.opens_assistant_turn:
            text = "excludes add_generation_prompt: the last message is left open, or a new one is begun"
            raise InvalidInput("continue_final_message", text)
        for name in self.template_kwargs:
            if name in _RESERVED_NAMES:
                raise InvalidInput(f"template_kwargs.{name}", "is set by the service and cannot be given")

    def variables(self, hide: Hide) -> dict[str, Json]:
        """Return what the template is given, special tokens aside."""
        return {
            **{name: hide(value) for name, value in self.template_kwargs.items()},
            "messages": [message.variables(hide) for message in self.messages],
            "tools": [tool.variables(hide) for tool in self.tools] or None,
            "add_generation_prompt": self.opens_assistant_turn,
        }


def _check_message(path: str, message: Message) -> None:
    if message.role not in ROLES:
        raise InvalidInput(f"{path}.role", f"{message.role[:40]!r} is not one of {', '.join(ROLES)}")
    if message.tool_calls and message.role != "assistant":
        raise InvalidInput(f"{path}.tool_calls", "only the assistant calls tools")
    if message.tool_call_id and message.role != "tool":
        raise InvalidInput(f"{path}.tool_call_id", "only a message with the role tool answers a call")
