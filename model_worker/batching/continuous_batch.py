"""Continuous batching: the rows of the worker, advanced together step by step. Knows no thread and no event loop.

One step: end the rows whose time is up, ask the scheduler, carry its plan out in the arena, let the engine compute,
give each drawn token to its row's stream, end the rows that are done. `touched` then names the streams to wake.
"""

from __future__ import annotations

import collections.abc
from array import array

from model_worker.batching.candidates import candidates, copyable
from model_worker.batching.capacity import last_length
from model_worker.batching.engine_step import Computed, EngineSteps
from model_worker.batching.kv_arena import KvArena
from model_worker.batching.load import LoadSnapshot, SmoothedRate
from model_worker.batching.prefix_index import prefix_key
from model_worker.batching.refusals import RequestFailed
from model_worker.batching.roster import Roster
from model_worker.batching.row import Row, natural_end, new_sequence
from model_worker.batching.row_events import FailedEvent, FinishedEvent
from model_worker.batching.scheduler import Admission, Plan, SchedulerLimits, schedule
from model_worker.batching.token_gaps import TokenGaps
from model_worker.batching.token_stream import TokenStream
from model_worker.engine import Draw, Engine, RowFailure, Scored, Segment
from model_worker.sequence import FinishReason, RowParams

_AHEAD = 2**62  # in the order of arrival: before all that were not lost by another worker


class ContinuousBatch:
    """Owns the engine, the arena and all rows, on behalf of the generation thread, the only one to call it."""

    def __init__(
        self,
        engine: Engine,
        limits: SchedulerLimits,
        clock: collections.abc.Callable[[], float],
        *,
        enable_prefix_caching: bool = True,
    ) -> None:
        """Without prefix caching, only rows of one request share K/V, and nothing is kept of a row that ended."""
        self._engine_steps = EngineSteps(engine)
        self._spec = engine.spec
        self._shares_across_requests = enable_prefix_caching
        self._limits = limits
        self._clock = clock
        self._arena = KvArena(engine, keeps_ended=enable_prefix_caching)
        self._roster = Roster()
        self._rate = SmoothedRate()
        self._arrivals = 0
        self._steps = self._step_tokens = self._preempted = 0
        self._step_started_at: float | None = None
        self.ended_rows = 0  # since the start; other threads may read it
        self.token_gaps = TokenGaps()  # of all rows since the start; other threads may read it
        self.touched: set[TokenStream] = set()

    def __len__(self) -> int:
        return len(self._roster)

    @property
    def arena(self) -> KvArena:
        """The arena, to look at."""
        return self._arena

    def load(self) -> LoadSnapshot:
        """How busy it is now."""
        return LoadSnapshot(
            len(self._roster.running),
            len(self._roster.waiting),
            self._roster.queued_prompt_tokens,
            self._arena.used_tokens,
            self._spec.kv_capacity_tokens,
            self._rate.per_second if self._roster else 0.0,
            self._steps,
            self._step_started_at,
            self._step_tokens,
            self._preempted,
        )

    def add(
        self,
        stream: TokenStream,
        rows: collections.abc.Sequence[tuple[array[int], RowParams]],
        arrived_at: float,
    ) -> None:
        """Take in the rows of one request; what an earlier attempt had finished ends at once."""
        if not self._roster:
            self._rate.restart(arrived_at)
        request = 0 if self._shares_across_requests else self._arrivals + 1
        for index, (ids, params) in enumerate(rows):
            sequence = new_sequence(ids, params, self._spec)
            length = last_length(sequence.prompt_tokens, params.max_new_tokens, self._spec)
            key = prefix_key((params.adapter, params.cache_salt, request), ids)
            # Its caller has waited once already.
            arrival = self._arrivals - (_AHEAD if params.generated_prefix else 0)
            row = Row(sequence, stream, index, arrival, arrived_at, length, key)
            self._arrivals += 1
            self._roster.arrive(row, copyable(row, self._arena))
            if params.generated_prefix or length <= len(ids):
                self._end_if_done(row, arrived_at)

    def stop_row(self, stream: TokenStream, index: int) -> None:
        """End one row because the gateway matched a stop string; a row that is not live stays as it is."""
        row = self._roster.find(stream, index)
        if row is not None:
            self._finish(row, FinishReason.STOP_STRING, None, self._clock())

    def cancel(self, stream: TokenStream) -> None:
        """Forget every row of a request, without a word to its stream."""
        for row in self._roster.rows_of(stream):
            self._depart(row)

    def fail_all(self, reason: str, message: str) -> None:
        """Fail every request that has live rows and has not failed yet.

        Touches nothing else: the engine or the arena may be broken.
        """
        for stream in self._roster.streams:
            stream.fail(RequestFailed(reason, message))
            self.touched.add(stream)

    def forget_all(self) -> None:
        """Forget every row and free all it held."""
        for stream in self._roster.streams:
            self.cancel(stream)

    def plan(self) -> list[tuple[Row, Segment]]:
        """Make ready the next step: rows expired, preempted, given room and admitted. Empty: no row is left."""
        now = self._clock()
        for row in self._roster.expired(now):
            self._finish(row, FinishReason.TIME_LIMIT, None, now)
        running = self._roster.running
        places = self._limits.max_num_seqs - len(running)
        first_waiting = self._roster.waiting[: places + self._limits.look_ahead] if places else []
        waiting = candidates(running, first_waiting, self._arena) if first_waiting else []
        plan = schedule(
            [row.as_running() for row in running],
            [candidate.numbers for candidate in waiting],
            self._arena.free_tokens,
            self._limits,
        )
        self._make_room(plan)
        chunks = list(zip(self._roster.running, plan.chunks, strict=True))
        for admission in plan.admitted:
            row = waiting[admission.position].row
            self._admit(row, admission, now)
            chunks.append((row, admission.chunk))
            for older, _ in waiting[: admission.position]:
                older.overtaken += not older.running
        # Only now: an admission may have moved running rows, and what could not be moved has to be computed again.
        work = [(row, _segment(row, chunk)) for row, chunk in chunks if chunk]
        assert work or not self._roster, "rows are live and none can advance"
        if work:
            self._step_started_at = now
        return work

    def compute(self, work: list[tuple[Row, Segment]]) -> None:
        """Compute one step and hand out what it drew."""
        computed = self._engine_steps.compute([segment for _, segment in work])
        now = self._clock()
        drawn = 0
        for (row, _), result in zip(work, computed, strict=True):
            drawn += self._advance(row, result, now)
        self._steps += 1
        self._step_tokens += sum(segment.length for _, segment in work)
        self._rate.add(drawn, now)

    def _make_room(self, plan: Plan) -> None:
        running = self._roster.running
        self._preempted += plan.preempted
        for _ in range(plan.preempted):
            row = running.pop()
            self._arena.retire(row.sequence, drawn=row.lends)
            self._roster.enqueue(row, copyable(row, self._arena))
        for row, capacity in zip(running, plan.capacities, strict=True):
            extent = row.sequence.extent
            assert extent is not None
            if capacity > extent.capacity:
                self._arena.widen(row.sequence, capacity)

    def _admit(self, row: Row, admission: Admission, now: float) -> None:
        donor = self._arena.donor_for(row.key) if row.reuses else None
        self._arena.give(row.sequence, admission.capacity, donor)
        if row.admitted_at is None:
            row.admitted_at = now
            row.cached_prompt_tokens = min(row.sequence.computed, row.sequence.prompt_tokens)
        self._roster.admit(row)

    def _advance(self, row: Row, computed: Computed, now: float) -> bool:
        """Book what was computed for `row`. True when a token was drawn."""
        sequence, outcome = row.sequence, computed.outcome
        if isinstance(outcome, Draw | Scored) and outcome.prompt_logprobs:
            row.stream.push_prompt(row.index, sequence.computed, outcome.prompt_logprobs)
            self.touched.add(row.stream)
        sequence.computed += computed.tokens
        if isinstance(outcome, Draw):
            sequence.ids.append(outcome.token_id)
            if row.last_token_at is not None:
                self.token_gaps.add(now - row.last_token_at)
            row.last_token_at = now
            if row.first_token_at is None:
                row.first_token_at = now
            row.stream.push(row.index, outcome.token_id, outcome.logprob)
            self.touched.add(row.stream)
            if not row.lends:
                row.lends = True
                self._arena.lend(sequence, row.arrival_key.scope)
            if outcome.token_id in sequence.banned_ids or len(sequence.ids) >= row.last_length:
                self._end_if_done(row, now)
            return True
        if isinstance(outcome, RowFailure):
            self._arena.discard(sequence)
            row.stream.end(FailedEvent(row.index, outcome.reason, outcome.message))
            self._depart(row)
        return False

    def _end_if_done(self, row: Row, now: float) -> None:
        end = natural_end(row, self._spec)
        if end is not None:
            self._finish(row, *end, now)

    def _finish(self, row: Row, reason: FinishReason, matched_id: int | None, now: float) -> None:
        row.stream.end(FinishedEvent(row.index, reason, matched_id, row.usage(), row.timing(now)))
        self._depart(row)

    def _depart(self, row: Row) -> None:
        if row.sequence.extent is not None:
            self._arena.retire(row.sequence, drawn=row.lends)
        self._roster.depart(row)
        self.touched.add(row.stream)
        self.ended_rows += 1


def _segment(row: Row, tokens: int) -> Segment:
    sequence = row.sequence
    tokens = min(tokens, sequence.uncomputed)
    return Segment(sequence, sequence.computed, tokens, draws=tokens == sequence.uncomputed)
