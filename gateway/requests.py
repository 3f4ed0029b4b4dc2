"""Public requests, checked and turned into plain values. Every refusal names the field, before anything is started."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from gateway.admission.limits import HIGHEST_PRIORITY, LEAST_PRIORITY
from gateway.generation import Generation, Prompt, Stopping
from gateway.model_description import from_message
from rpc.chat_limits import MAX_MESSAGES, MAX_TOOLS, ROLES
from rpc.errors import invalid_field, not_implemented
from rpc.generation_params import (
    MAX_STOP_TOKEN_IDS,
    alternatives,
    check_output_options,
    check_salt,
    check_sampling,
    check_time_limit,
    check_token_limits,
)
from tokenmill.v1 import gateway_pb2, generation_pb2, tokenizer_pb2

# Outputs of one call: they share one tensor and one RPC, so this bounds both.
MAX_OUTPUTS = 64
MAX_STOP_STRINGS = 8
MAX_STOP_STRING_BYTES = 240
# Ids of all token prompts of one call: more than any context, and converted in milliseconds.
MAX_PROMPT_IDS = 2**20

Request = gateway_pb2.GenerateRequest | gateway_pb2.ChatRequest


class _Prompts(NamedTuple):
    """The prompts of a request: texts, as the tokenizer service will be asked for them, or tokens."""

    path: str  # where the caller wrote prompt `index`
    prompt_count: int
    text: Prompt | None = None
    size_bytes: int = 0  # of the text
    tokens: Sequence[array[int]] = ()


def generation_from_prompts(request: gateway_pb2.GenerateRequest, *, counting: bool = False) -> Generation:
    """A GenerateRequest as a plain value; `counting` looks at its prompts alone.

    Errors: ServiceError naming the field.
    """
    kind = request.WhichOneof("input")
    if kind is None:
        raise invalid_field("input", "one of prompts and token_prompts is required")
    prompt_count = len(request.token_prompts.prompts if kind == "token_prompts" else request.prompts.texts)
    n = _outputs_per_prompt(request, prompt_count, counting=counting)
    prompts = _token_prompts(request) if kind == "token_prompts" else _text_prompts(request)
    return _generation(request, prompts, n, counting=counting)


def generation_from_chat(request: gateway_pb2.ChatRequest, *, counting: bool = False) -> Generation:
    """A ChatRequest as a plain value; `counting` looks at its prompt alone.

    Errors: ServiceError naming the field.
    """
    n = _outputs_per_prompt(request, 1, counting=counting)
    _check_chat(request)
    if request.tools and not counting:
        raise not_implemented("tools", "answering with tool calls")
    chat = tokenizer_pb2.ChatPrompt(
        messages=request.messages,
        tools=request.tools,
        template_kwargs=request.template_kwargs if request.HasField("template_kwargs") else None,
        add_generation_prompt=request.add_generation_prompt if request.HasField("add_generation_prompt") else None,
        continue_final_message=request.continue_final_message,
    )
    encode = _encode_request(request, tokenizer_pb2.EncodeRequest(chat=chat))
    return _generation(request, _Prompts("messages", 1, Prompt(encode), encode.ByteSize()), n, counting=counting)


def _outputs_per_prompt(request: Request, prompt_count: int, *, counting: bool) -> int:
    """`n`, before anything is made of the prompts: their number is bounded with it."""
    n = request.n if request.HasField("n") and not counting else 1
    if n < 1:
        raise invalid_field("n", f"must be at least 1, got {n}")
    if n * prompt_count > MAX_OUTPUTS:
        raise invalid_field("n", f"n x prompts must be at most {MAX_OUTPUTS}, got {n} x {prompt_count}")
    return n


def _check_chat(request: gateway_pb2.ChatRequest) -> None:
    if not request.messages:
        raise invalid_field("messages", "must not be empty")
    if len(request.messages) > MAX_MESSAGES:
        raise invalid_field("messages", f"at most {MAX_MESSAGES}, got {len(request.messages)}")
    if len(request.tools) > MAX_TOOLS:
        raise invalid_field("tools", f"at most {MAX_TOOLS}, got {len(request.tools)}")
    for index, message in enumerate(request.messages):
        if message.role not in ROLES:
            raise invalid_field(f"messages[{index}].role", f"must be one of {', '.join(ROLES)}")


def _text_prompts(request: gateway_pb2.GenerateRequest) -> _Prompts:
    texts = request.prompts.texts
    if not texts:
        raise invalid_field("prompts.texts", "must not be empty")
    for index, text in enumerate(texts):
        if not text:
            raise invalid_field(f"prompts.texts[{index}]", "must not be empty")
    encode = _encode_request(request, tokenizer_pb2.EncodeRequest(prompts=request.prompts))
    return _Prompts("prompts.texts[{index}]", len(texts), Prompt(encode), encode.ByteSize())


def _encode_request(request: Request, encode: tokenizer_pb2.EncodeRequest) -> tokenizer_pb2.EncodeRequest:
    encode.parse_special_tokens = request.parse_special_tokens
    if request.HasField("add_special_tokens"):
        encode.add_special_tokens = request.add_special_tokens
    if (truncate := _truncation(request)) is not None:
        encode.truncate_prompt_tokens = truncate
    return encode


def _truncation(request: Request) -> int | None:
    if not request.HasField("truncate_prompt_tokens"):
        return None
    if request.truncate_prompt_tokens < 1:
        message = f"must be at least 1, got {request.truncate_prompt_tokens}"
        raise invalid_field("truncate_prompt_tokens", message)
    return request.truncate_prompt_tokens


def _token_prompts(request: gateway_pb2.GenerateRequest) -> _Prompts:
    prompts = request.token_prompts.prompts
    if not prompts:
        raise invalid_field("token_prompts.prompts", "must not be empty")
    for field in ("add_special_tokens", "parse_special_tokens"):
        if getattr(request, field):
            raise invalid_field(field, "goes with text: token_prompts are used as they are")
    total = sum(len(prompt.ids) for prompt in prompts)
    if total > MAX_PROMPT_IDS:
        raise invalid_field("token_prompts.prompts", f"at most {MAX_PROMPT_IDS} ids in all, got {total}")
    keep = _truncation(request) or 0
    rows = []
    for index, prompt in enumerate(prompts):
        field = f"token_prompts.prompts[{index}].ids"
        if not prompt.ids:
            raise invalid_field(field, "must not be empty")
        if max(prompt.ids) >= 2**31:
            raise invalid_field(field, f"{max(prompt.ids)} is outside the vocabulary")
        rows.append(array("i", prompt.ids[-keep:]))
    return _Prompts("token_prompts.prompts[{index}].ids", len(rows), tokens=tuple(rows))


def _generation(request: Request, prompts: _Prompts, n: int, *, counting: bool) -> Generation:
    generation = Generation(
        model=request.model,
        prompt=prompts.text,
        prompt_path=prompts.path,
        prompt_bytes=prompts.size_bytes,
        truncate_prompt_tokens=None if prompts.text is None else _truncation(request),
        token_prompts=prompts.tokens,
        prompt_count=prompts.prompt_count,
        is_chat=isinstance(request, gateway_pb2.ChatRequest),
        n=n,
    )
    if counting:
        return generation
    if request.response_format.WhichOneof("format"):
        raise not_implemented("response_format", "constrained output")
    check_sampling(request.sampling, "sampling")
    check_output_options(request.output, "output")
    check_salt(request.cache_salt, "")
    _check_priority(request.priority)
    logprobs, prompt_logprobs = alternatives(request.output)
    return dataclasses.replace(
        generation,
        sampling=from_message(request.sampling),
        stopping=_stopping(request.stopping),
        token_ids=request.output.token_ids,
        keep_special_tokens=request.output.keep_special_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        cache_salt=request.cache_salt,
        priority=request.priority,
    )


def _check_priority(priority: int) -> None:
    if not LEAST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise invalid_field("priority", f"must be {LEAST_PRIORITY} to {HIGHEST_PRIORITY}, got {priority}")


def _stopping(stopping: generation_pb2.StoppingCriteria) -> Stopping:
    max_new_tokens = stopping.max_new_tokens if stopping.HasField("max_new_tokens") else None
    check_token_limits(max_new_tokens, stopping.min_new_tokens, "stopping")
    if len(stopping.stop_strings) > MAX_STOP_STRINGS:
        raise invalid_field("stopping.stop_strings", f"at most {MAX_STOP_STRINGS}, got {len(stopping.stop_strings)}")
    for index, text in enumerate(stopping.stop_strings):
        if not 1 <= len(text.encode()) <= MAX_STOP_STRING_BYTES:
            message = f"must be 1 to {MAX_STOP_STRING_BYTES} bytes, got {len(text.encode())}"
            raise invalid_field(f"stopping.stop_strings[{index}]", message)
    if len(stopping.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        message = f"at most {MAX_STOP_TOKEN_IDS}, got {len(stopping.stop_token_ids)}"
        raise invalid_field("stopping.stop_token_ids", message)
    has_limit = stopping.HasField("time_limit")
    return Stopping(
        max_new_tokens=max_new_tokens,
        min_new_tokens=stopping.min_new_tokens,
        stop_strings=tuple(dict.fromkeys(stopping.stop_strings)),
        stop_token_ids=tuple(stopping.stop_token_ids),
        include_stop=stopping.include_stop,
        ignore_eos=stopping.ignore_eos,
        time_limit_seconds=check_time_limit(stopping.time_limit, "stopping.time_limit") if has_limit else None,
    )
