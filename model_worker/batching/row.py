"""One row as the generation thread keeps it: its sequence, where it reports to, and when it passed which point."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

from model_worker.batching.prefix_index import PrefixKey, prefix_key
from model_worker.batching.row_events import Timing, Usage
from model_worker.batching.scheduler import RunningRow
from model_worker.batching.token_stream import TokenStream
from model_worker.engine import EngineSpec
from model_worker.sequence import FinishReason, RowParams, Sequence


@dataclass(slots=True, eq=False)
class Row:
    """One row from its arrival at the worker to its end. Owned by the generation thread; compared by identity."""

    sequence: Sequence
    stream: TokenStream
    index: int  # in its request
    arrival: int  # its place in the order of all arrivals: what "older" means
    arrived_at: float  # seconds of the worker's clock, as all times here
    last_length: int  # so many ids end it
    arrival_key: PrefixKey  # its ids at arrival
    running: bool = False  # holds an extent
    lends: bool = False  # while it runs: a token was drawn, so others may use what it has computed
    overtaken: int = 0
    queued_prompt_tokens: int = 0  # while it waits: prompt tokens it will have to compute itself
    admitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    cached_prompt_tokens: int = 0

    @property
    def deadline(self) -> float:
        """When its time is up; infinity without a limit."""
        limit = self.sequence.params.time_limit_seconds
        return math.inf if limit is None else self.arrived_at + limit

    @property
    def most_kv_tokens(self) -> int:
        """K/V it can ever need: its last token is drawn, never computed."""
        return self.last_length - 1

    @property
    def prompt_left(self) -> int:
        """Prompt tokens whose K/V it does not have yet, or not any more."""
        return max(0, self.sequence.prompt_tokens - self.sequence.computed)

    @property
    def key(self) -> PrefixKey:
        """All its ids, to look up who shares them."""
        grown = len(self.sequence.ids) > self.arrival_key.tokens
        return prefix_key(self.arrival_key.scope, self.sequence.ids) if grown else self.arrival_key

    @property
    def reuses(self) -> bool:
        """Whether it may start from another row's K/V: to score a prompt, all of it has to be computed."""
        return self.sequence.params.prompt_logprobs is None

    def as_running(self) -> RunningRow:
        """The numbers the scheduler needs to know about it."""
        sequence = self.sequence
        assert sequence.extent is not None
        return RunningRow(len(sequence.ids), sequence.computed, sequence.extent.capacity, self.last_length - 1)

    def usage(self) -> Usage:
        """Its token counts so far."""
        sequence = self.sequence
        return Usage(sequence.prompt_tokens, self.cached_prompt_tokens, sequence.generated_tokens)

    def timing(self, now: float) -> Timing:
        """Where its time went, if it ends `now`."""
        admitted = now if self.admitted_at is None else self.admitted_at
        first, last = self.first_token_at, self.last_token_at
        return Timing(
            queue_seconds=admitted - self.arrived_at,
            prefill_seconds=(now if first is None else first) - admitted,
            time_to_first_token_seconds=None if first is None else first - self.arrived_at,
            decode_seconds=0.0 if first is None or last is None else last - first,
            total_seconds=now - self.arrived_at,
        )


def new_sequence(ids: array[int], params: RowParams, spec: EngineSpec) -> Sequence:
    """The sequence of a row that arrives with `ids`; the last `generated_prefix` of them count as generated."""
    ending_ids = params.stop_token_ids if params.ignore_eos else params.stop_token_ids | spec.eos_token_ids
    prompt_tokens = len(ids) - params.generated_prefix
    assert prompt_tokens > 0, "a row without a prompt"
    return Sequence(params=params, ids=array("i", ids), prompt_tokens=prompt_tokens, banned_ids=ending_ids)


def natural_end(row: Row, spec: EngineSpec) -> tuple[FinishReason, int | None] | None:
    """How `row` ends with its last id, and the id that ended it; None: it goes on.

    An ending id does not count among the `min_new_tokens`: so many others come before it.
    """
    sequence = row.sequence
    params, last_id = sequence.params, sequence.ids[-1]
    if last_id in sequence.banned_ids and sequence.generated_tokens > params.min_new_tokens:
        is_eos = last_id in spec.eos_token_ids and not params.ignore_eos
        return (FinishReason.END_OF_SEQUENCE if is_eos else FinishReason.STOP_TOKEN), last_id
    if sequence.generated_tokens >= params.max_new_tokens:
        return FinishReason.MAX_NEW_TOKENS, None
    if len(sequence.ids) >= row.last_length:
        return FinishReason.CONTEXT_LENGTH, None
    return None
