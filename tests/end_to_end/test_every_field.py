"""Every field of a request is acted on or refused by name. A field that is added to the contract fails here first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.end_to_end.heard import refusal
from tests.end_to_end.requests import chat, generate
from tests.end_to_end.worker_calls import ask, start
from tokenmill.v1 import gateway_pb2, generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

    from tests.end_to_end.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

# What a release that acts on all of the contract would take out of here. Each is refused with UNIMPLEMENTED, by name:
# a priority by workers alone, as gateways decide who goes first.
LATER: dict[str, Any] = {
    "tools": [gateway_pb2.Tool(name="clock")],
    "response_format": generation_pb2.ResponseFormat(regex="[0-9]+"),
    "priority": 1,
}
# What is acted on, with where that is tested (paths below tests/).
STREAMS, LIMITS, PARAMETERS, LOGPROBS = (
    "test_streams.py",
    "test_limits.py",
    "test_parameters.py",
    "test_logprobs.py",
)
SHARED = {
    "model": STREAMS,
    "n": STREAMS,
    "cache_salt": PARAMETERS,
    "priority": "test_admission.py",
    "parse_special_tokens": STREAMS,
    "add_special_tokens": STREAMS,
    "truncate_prompt_tokens": STREAMS,
    "sampling.temperature": STREAMS,
    "sampling.top_p": STREAMS,
    "sampling.top_k": STREAMS,
    "sampling.min_p": PARAMETERS,
    "sampling.typical_p": PARAMETERS,
    "sampling.repetition_penalty": PARAMETERS,
    "sampling.presence_penalty": PARAMETERS,
    "sampling.frequency_penalty": PARAMETERS,
    "sampling.logit_bias": PARAMETERS,
    "sampling.seed": STREAMS,
    "stopping.max_new_tokens": LIMITS,
    "stopping.min_new_tokens": LIMITS,
    "stopping.stop_strings": "test_stop_strings.py",
    "stopping.stop_token_ids": LIMITS,
    "stopping.include_stop": "test_stop_strings.py",
    "stopping.ignore_eos": LIMITS,
    "stopping.time_limit": LIMITS,
    "output.logprobs": LOGPROBS,
    "output.top_logprobs": LOGPROBS,
    "output.prompt_logprobs": LOGPROBS,
    "output.token_ids": STREAMS,
    "output.keep_special_tokens": STREAMS,
}
ACTED_ON: dict[type[Message], set[str]] = {
    gateway_pb2.GenerateRequest: {*SHARED, "prompts.texts", "token_prompts.prompts.ids"},
    gateway_pb2.ChatRequest: {
        *SHARED,
        *(f"messages.{name}" for name in ("role", "content", "name", "tool_call_id")),
        *(f"messages.tool_calls.{name}" for name in ("id", "name", "arguments")),
        "template_kwargs",
        "add_generation_prompt",
        "continue_final_message",
    },
    worker_pb2.RowParams: {
        *(path for path in SHARED if path.startswith(("sampling.", "output."))),
        *("stop_token_ids", "ignore_eos", "max_new_tokens", "min_new_tokens", "time_limit"),
        *("seed", "generated_prefix", "cache_salt"),
    },  # with sampling.seed, which is refused, and the output options that are documented to mean nothing to a worker
}
WHOLE = {"google.protobuf.Struct", "google.protobuf.Duration", "tokenmill.v1.ResponseFormat", "tokenmill.v1.Tool"}


def paths(descriptor: Descriptor, prefix: str = "") -> Iterator[str]:
    """The path of every field below a message, those of WHOLE messages as one."""
    for field in descriptor.fields:
        if _is_message(field) and field.message_type.full_name not in WHOLE:
            yield from paths(field.message_type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _is_message(field: FieldDescriptor) -> bool:
    return field.message_type is not None and not field.message_type.GetOptions().map_entry


@pytest.mark.parametrize("kind", ACTED_ON, ids=lambda kind: kind.DESCRIPTOR.name)
async def test_every_field_is_acted_on_or_refused(kind: type[Message]) -> None:
    fields = set(paths(kind.DESCRIPTOR))
    later = {path for path in LATER if path in fields - ACTED_ON[kind]}
    assert fields == ACTED_ON[kind] | later


def with_field(request: Message, path: str) -> Message:
    """A copy of `request` with LATER's value at `path`."""
    *parents, name = path.split(".")
    changed = type(request)()
    changed.CopyFrom(request)
    target: Any = changed
    for parent in parents:
        target = getattr(target, parent)
    value = LATER[path]
    if isinstance(value, list):
        getattr(target, name).extend(value)
    elif hasattr(value, "DESCRIPTOR"):
        getattr(target, name).CopyFrom(value)
    else:
        setattr(target, name, value)
    return changed


@pytest.mark.parametrize("path", LATER)
@pytest.mark.parametrize("request_", [generate(), chat()], ids=["generate", "chat"])
async def test_a_field_of_a_later_release_is_unimplemented_by_name(stack: Stack, request_: Message, path: str) -> None:
    if path in ACTED_ON[type(request_)] or path not in paths(request_.DESCRIPTOR):
        assert path in {"tools", "priority"}
        return
    request = with_field(request_, path)
    method = stack.gateway.StreamChat if isinstance(request, gateway_pb2.ChatRequest) else stack.gateway.StreamGenerate
    before = (await stack.idle()).step
    heard = await refusal(method(request))
    assert (heard.code, heard.field) == (grpc.StatusCode.UNIMPLEMENTED, path)
    assert (await stack.idle()).step == before


@pytest.mark.parametrize("path", sorted(set(LATER) & set(paths(worker_pb2.RowParams.DESCRIPTOR))))
async def test_a_worker_refuses_them_too(stack: Stack, path: str) -> None:
    row = with_field(worker_pb2.RowParams(max_new_tokens=1), path)
    before = (await stack.idle()).step
    heard = await refusal(ask(stack, start(stack, [[1, 2]], rows=[row])))
    assert (heard.code, heard.field) == (grpc.StatusCode.UNIMPLEMENTED, f"start.rows[0].{path}")
    assert (await stack.idle()).step == before


async def test_tools_are_counted_though_they_cannot_be_answered_yet(stack: Stack) -> None:
    request = gateway_pb2.CountTokensRequest(chat=with_field(chat(), "tools"))
    assert (await stack.gateway.CountTokens(request)).total_tokens > 0
