"""What the gateway must say, worked out from the request alone: the fake engine's arithmetic, decoded as a whole."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.text.artefact import PROMPT_TAIL_TOKENS
from gateway.text.detokenizer import decode_output
from model_worker.sequence import FinishReason, RowParams, SamplingParams
from tests.model_worker.generation_support import expected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.end_to_end.stack import Stack

# A byte-level tail is cut by up to three tokens more where it begins inside a character; ASCII prompts have none such.
TAIL = PROMPT_TAIL_TOKENS


@dataclass(frozen=True)
class Expectation:
    ids: list[int]
    text: str
    reason: FinishReason


def expect(stack: Stack, prompt: Sequence[int], *, seed: int | None = None, **params: Any) -> Expectation:
    """The output for one prompt; `seed` means temperature 1. Ten tokens unless `params` (RowParams) say otherwise."""
    sampling = SamplingParams() if seed is None else SamplingParams(temperature=1.0, seed=seed)
    row = RowParams(sampling=sampling, **({"max_new_tokens": 10} | params))
    ids, reason = expected(array("i", prompt), row, stack.model)
    return Expectation(ids, decode_output(stack.tier.tokenizer, list(prompt)[-TAIL:], ids), reason)


def ids_of(stack: Stack, text: str) -> list[int]:
    """The tokens of a text."""
    ids: list[int] = stack.tier.tokenizer.encode(text).ids
    return ids


def chat_ids(stack: Stack, *contents: str, ending: str = "<|turn_start|>assistant\n") -> list[int]:
    """The tokens of a chat of users' messages through the template of these tests."""
    turns = [f"<|turn_start|>user\n{content}<|turn_end|>\n" for content in contents]
    return ids_of(stack, "".join(turns) + ending)
