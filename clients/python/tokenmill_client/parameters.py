"""What a caller can ask for, as keyword arguments, and how that is said in the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

from tokenmill.v1 import gateway_pb2, generation_pb2


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat. `role`: "system", "developer", "user", "assistant" or "tool"."""

    role: str
    content: str


Messages: TypeAlias = str | Sequence[Message | Mapping[str, str]]
Prompts: TypeAlias = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]


class Parameters(TypedDict, total=False):
    """Parameters of a generation; what is left out is the service's default, documented in generation.proto."""

    model: str
    n: int
    # How tokens are chosen.
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    logit_bias: Mapping[int, float]
    # When an output ends.
    max_new_tokens: int
    min_new_tokens: int
    stop_strings: Sequence[str]
    stop_token_ids: Sequence[int]
    include_stop: bool
    ignore_eos: bool
    time_limit_seconds: float
    # What is returned beside the text.
    logprobs: bool
    top_logprobs: int
    prompt_logprobs: bool
    token_ids: bool
    keep_special_tokens: bool
    # About the request.
    priority: int
    cache_salt: str
    parse_special_tokens: bool
    add_special_tokens: bool
    truncate_prompt_tokens: int


_SAMPLING = frozenset(field.name for field in generation_pb2.SamplingParams.DESCRIPTOR.fields)
_STOPPING = frozenset(field.name for field in generation_pb2.StoppingCriteria.DESCRIPTOR.fields)
_OUTPUT = frozenset(field.name for field in generation_pb2.OutputOptions.DESCRIPTOR.fields)


def chat_request(messages: Messages, parameters: Parameters) -> gateway_pb2.ChatRequest:
    """A chat; a text alone is what its user says."""
    if isinstance(messages, str):
        messages = [Message("user", messages)]
    return gateway_pb2.ChatRequest(messages=[_message(one) for one in messages], **_fields(parameters))


def generate_request(prompts: Prompts, parameters: Parameters) -> gateway_pb2.GenerateRequest:
    """Prompts, one or several, as texts or as token ids."""
    request = gateway_pb2.GenerateRequest(**_fields(parameters))
    if isinstance(prompts, str):
        request.prompts.texts.append(prompts)
    elif prompts and isinstance(prompts[0], int):
        request.token_prompts.prompts.add().ids.extend(_ids(prompts))
    elif prompts and isinstance(prompts[0], str):
        request.prompts.texts.extend(str(text) for text in prompts)
    else:
        rows: Iterable[Any] = prompts
        for ids in rows:
            request.token_prompts.prompts.add().ids.extend(_ids(ids))
    return request


def _message(message: Message | Mapping[str, str]) -> gateway_pb2.ChatMessage:
    if isinstance(message, Message):
        return gateway_pb2.ChatMessage(role=message.role, content=message.content)
    given: dict[str, Any] = dict(message)
    return gateway_pb2.ChatMessage(**given)


def _fields(parameters: Parameters) -> dict[str, Any]:
    """The fields of a request, each where the contract has it."""
    given: dict[str, Any] = dict(parameters)
    stopping = _taken(given, _STOPPING)
    if (seconds := given.pop("time_limit_seconds", None)) is not None:
        stopping["time_limit"] = _duration(seconds)
    return {
        "sampling": generation_pb2.SamplingParams(**_taken(given, _SAMPLING)),
        "stopping": generation_pb2.StoppingCriteria(**stopping),
        "output": generation_pb2.OutputOptions(**_taken(given, _OUTPUT)),
        **given,
    }


def _taken(given: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: given.pop(name) for name in names & given.keys()}


def _duration(seconds: float) -> Any:
    duration = generation_pb2.StoppingCriteria().time_limit
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _ids(ids: Iterable[Any]) -> list[int]:
    return [int(one) for one in ids]
