"""What the reader of a request hears about its rows. Plain values: no torch, no protobuf."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TypeAlias

from model_worker.engine import TokenLogprob
from model_worker.sequence import FinishReason


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one row."""

    prompt_tokens: int
    cached_prompt_tokens: int  # of these, how many were copied from another row instead of computed
    completion_tokens: int  # with those of an earlier attempt, and with the token that ended the row


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a row's time went, in seconds; a phase that was not reached took 0."""

    queue_seconds: float  # arrival to first admission
    prefill_seconds: float  # first admission to first token
    time_to_first_token_seconds: float | None  # arrival to first token; None: there was none
    decode_seconds: float  # first token to last
    total_seconds: float  # arrival to end


@dataclass(frozen=True, slots=True)
class TokensEvent:
    """New tokens of a row: everything that was not read yet."""

    row: int
    ids: array[int]  # array("i"), at least one; the id that ended the row is the last one
    logprobs: tuple[TokenLogprob, ...] = ()  # one per id, if the row asks for them


@dataclass(frozen=True, slots=True)
class PromptLogprobsEvent:
    """Log-probabilities of the row's prompt: everything that was not read yet. All come before the first token."""

    row: int
    logprobs: tuple[TokenLogprob, ...]  # at least one; the first event begins with the prompt's second token


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """The row ended normally. Terminal."""

    row: int
    reason: FinishReason
    matched_token_id: int | None  # END_OF_SEQUENCE and STOP_TOKEN: which id it was
    usage: Usage
    timing: Timing


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """The row cannot go on; the other rows do. Terminal."""

    row: int
    reason: str  # UPPER_SNAKE_CASE, stable
    message: str  # one sentence for the caller


TerminalEvent: TypeAlias = FinishedEvent | FailedEvent
RowEvent: TypeAlias = PromptLogprobsEvent | TokensEvent | FinishedEvent | FailedEvent
