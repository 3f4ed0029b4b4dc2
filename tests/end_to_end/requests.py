"""Requests of a few words, for tests that care about one field of them."""

from __future__ import annotations

from typing import Any

from tokenmill.v1 import gateway_pb2, generation_pb2

Sampling = generation_pb2.SamplingParams
Stopping = generation_pb2.StoppingCriteria
OutputOptions = generation_pb2.OutputOptions
FinishReason = generation_pb2.FinishReason


def effective(**given: Any) -> generation_pb2.SamplingParams:
    """What holds after all defaults: greedy and without adjustments, but for what is given."""
    off = {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "typical_p": 1, "repetition_penalty": 1}
    return Sampling(**(off | {"presence_penalty": 0, "frequency_penalty": 0} | given))


def message(content: str = "A list of colors", role: str = "user", **given: Any) -> gateway_pb2.ChatMessage:
    return gateway_pb2.ChatMessage(role=role, content=content, **given)


def generate(*texts: str, **given: Any) -> gateway_pb2.GenerateRequest:
    """Ten tokens, with their ids, after "The quick brown fox" unless something else is given."""
    prompts = gateway_pb2.TextPrompts(texts=texts or ("The quick brown fox",))
    defaults = {"stopping": Stopping(max_new_tokens=10), "output": OutputOptions(token_ids=True)}
    return gateway_pb2.GenerateRequest(prompts=prompts, **(defaults | given))


def generate_tokens(*prompts: list[int], **given: Any) -> gateway_pb2.GenerateRequest:
    token_prompts = gateway_pb2.TokenPrompts(prompts=[gateway_pb2.TokenIds(ids=ids) for ids in prompts])
    defaults = {"stopping": Stopping(max_new_tokens=10), "output": OutputOptions(token_ids=True)}
    return gateway_pb2.GenerateRequest(token_prompts=token_prompts, **(defaults | given))


def chat(*messages: gateway_pb2.ChatMessage, **given: Any) -> gateway_pb2.ChatRequest:
    defaults = {"stopping": Stopping(max_new_tokens=10), "output": OutputOptions(token_ids=True)}
    return gateway_pb2.ChatRequest(messages=messages or [message()], **(defaults | given))
