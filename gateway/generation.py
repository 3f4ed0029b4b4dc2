"""What the gateway knows about one request, as plain values: no protobuf, no grpc.

`Generation` is a checked request. The events are what happens to its outputs, in order; each output ends with exactly
one `OutputFinished` or `OutputFailed`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

from gateway.text.token_logprob import TokenLogprob
from rpc.errors import ServiceError

# What only the tokenizer client can read: prompts or a chat, as it will be sent to the tokenizer service.
Prompt = NewType("Prompt", object)


class FinishReason(Enum):
    """Why an output ended normally; the values are the contract's numbers."""

    END_OF_SEQUENCE = 1
    STOP_STRING = 2
    STOP_TOKEN = 3
    MAX_NEW_TOKENS = 4
    CONTEXT_LENGTH = 5
    TIME_LIMIT = 6


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. None: not given by the caller."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)


@dataclass(frozen=True, slots=True)
class Stopping:
    """When outputs end."""

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    time_limit_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """A request that passed validation."""

    model: str
    prompt: Prompt | None  # None: the caller gave tokens
    prompt_path: str = "prompts.texts[{index}]"  # where the caller wrote prompt `index`
    token_prompts: Sequence[array[int]] = ()
    prompt_count: int = 1
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stopping: Stopping = field(default_factory=Stopping)
    token_ids: bool = False
    keep_special_tokens: bool = False
    logprobs: int | None = None  # of generated tokens, with so many alternatives; None: not asked for
    prompt_logprobs: int | None = None  # of the prompts' tokens, likewise
    cache_salt: str = ""

    def prompt_field(self, index: int) -> str:
        """The path of one prompt in the caller's request."""
        return self.prompt_path.format(index=index)


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """Prompts as token ids, one row each, and the vocabulary that made them."""

    rows: Sequence[array[int]]
    vocabulary_fingerprint: str


@dataclass(frozen=True, slots=True)
class Row:
    """One output as the worker is asked for it: everything is effective, nothing is left to a default."""

    ids: array[int]
    sampling: Sampling
    stop_token_ids: frozenset[int]
    ignore_eos: bool
    min_new_tokens: int
    max_new_tokens: int
    time_limit_seconds: float | None
    cache_salt: str
    logprobs: int | None = None  # as in Generation
    prompt_logprobs: int | None = None  # in the first row of each prompt, if asked for


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went, in seconds."""

    queue: float = 0.0
    prefill: float = 0.0
    time_to_first_token: float = 0.0
    decode: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """The worker has answered: the first event, once."""

    model: str
    sampling: Sampling
    max_new_tokens: tuple[int, ...]  # per prompt
    prompt_tokens: tuple[int, ...]  # per prompt


@dataclass(slots=True)
class OutputDelta:
    """More of one output."""

    index: int
    text: str
    token_ids: array[int]  # empty unless asked for, as are:
    logprobs: Sequence[TokenLogprob] = ()  # of the same tokens
    prompt_logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True, slots=True)
class OutputFinished:
    """One output ended normally."""

    index: int
    reason: FinishReason
    stop_string: str | None
    stop_token_id: int | None
    seed: int
    usage: Usage
    timing: Timing


@dataclass(frozen=True, slots=True)
class OutputFailed:
    """One output failed; the others go on."""

    index: int
    error: ServiceError
    usage: Usage


Event = Started | OutputDelta | OutputFinished | OutputFailed


@dataclass(frozen=True, slots=True)
class RowTokens:
    """From the worker: new tokens of one row."""

    row: int
    ids: array[int]
    logprobs: Sequence[TokenLogprob] = ()  # one per id, or none at all


@dataclass(frozen=True, slots=True)
class RowPromptLogprobs:
    """From the worker: more log-probabilities of one row's prompt, in order. All come before its tokens."""

    row: int
    logprobs: Sequence[TokenLogprob]


@dataclass(frozen=True, slots=True)
class RowFinished:
    """From the worker: one row ended normally."""

    row: int
    reason: FinishReason
    stop_token_id: int | None
    usage: Usage
    timing: Timing


@dataclass(frozen=True, slots=True)
class RowFailed:
    """From the worker: one row failed."""

    row: int
    error: ServiceError


RowEvent = RowPromptLogprobs | RowTokens | RowFinished | RowFailed
