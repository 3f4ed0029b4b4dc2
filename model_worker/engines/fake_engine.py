"""An engine without a model: its tokens are arithmetic, so every expected output can be worked out by hand.

    likeliest token = (sum of all ids + the id halfway + number of ids + number of the adapter) mod vocabulary_size
    next token      = (likeliest token + seed) mod vocabulary_size

The id halfway is `ids[len(ids) // 2]`; adapters are numbered from 1, and 0 is the model itself; the seed counts only
for a row that samples (temperature > 0), so a greedy row does not depend on it. By hand, vocabulary_size 10, ids 1 2 3,
greedy: (6 + ids[1]=2 + 3) mod 10 = 1; then, ids 1 2 3 1: (7 + ids[2]=3 + 4) mod 10 = 4; then, ids 1 2 3 1 4:
(11 + ids[2]=3 + 5) mod 10 = 9. Before `min_new_tokens` a banned id becomes the next one up that is not banned (and 0
follows the largest).

The likeliest token has probability 1/2, the next one up 1/4, and so on round the vocabulary: a token's rank is
1 + (token - likeliest) mod vocabulary_size, and its log-probability -rank ln 2. By hand, after ids 1 2 3: token 1 has
-0.69 and rank 1, token 4 -2.77 and rank 4, token 0 -6.93 and rank 10. Of the prompt 1 2 3, token 2 follows 1, after
which (1 + ids[0]=1 + 1) mod 10 = 3 is the likeliest, so it has rank 10; token 3 follows 1 2: (3 + ids[1]=2 + 2) mod 10
= 7, rank 7. Of the sampling settings only temperature and seed mean anything here.

Ids and running sums, which begin with the adapter's number, stand in an arena, token by token, as K/V would, and both
terms are read from there: a wrong extent, position, copy, count or adapter gives wrong tokens, or an assertion, which
breaks the engine as a real failure would.
"""

from __future__ import annotations

import collections.abc
import math
from array import array
from dataclasses import dataclass, field, replace
from itertools import pairwise

from model_worker.engine import Draw, EngineSpec, GenerationDefaults, Outcome, Scored, Segment, TokenLogprob
from model_worker.engines.fake_faults import Fault, failures_of
from model_worker.sequence import Extent, Sequence

_POISON = -1  # no id: whoever reads it read what was never written, or was cleared
_CHECKED_TOKENS = 64  # this many ids before a segment are compared with the sequence: all of a short one


@dataclass(frozen=True, slots=True)
class FakeModel:
    """What the fake engine pretends to be."""

    vocabulary_size: int = 1000
    context_length: int = 4096
    kv_capacity_tokens: int = 16384
    eos_token_ids: frozenset[int] = frozenset()
    eos_after: int | None = None  # after so many generated tokens a row draws the smallest eos id
    adapters: tuple[str, ...] = ()
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)

    def next_token(self, sequence: Sequence, likeliest: int) -> int:
        """The token after `sequence`, where `likeliest` is the most probable one."""
        if self.is_over(sequence):
            return min(self.eos_token_ids)
        sampling = sequence.params.sampling
        seed = sampling.seed if sampling.temperature > 0 else 0
        return self.allowed(sequence, (likeliest + seed) % self.vocabulary_size)

    def is_over(self, sequence: Sequence) -> bool:
        """Whether `sequence` has said all that it says before its end."""
        return self.eos_after is not None and sequence.generated_tokens >= max(
            self.eos_after, sequence.params.min_new_tokens
        )

    def allowed(self, sequence: Sequence, token_id: int) -> int:
        """The first id from `token_id` up that `sequence` may say now."""
        while sequence.generated_tokens < sequence.params.min_new_tokens and token_id in sequence.banned_ids:
            token_id = (token_id + 1) % self.vocabulary_size
        return token_id

    def spec(self, kv_bytes_per_token: int) -> EngineSpec:
        """What an engine of this model is."""
        return EngineSpec(
            vocabulary_size=self.vocabulary_size,
            context_length=self.context_length,
            kv_capacity_tokens=self.kv_capacity_tokens,
            kv_bytes_per_token=kv_bytes_per_token,
            eos_token_ids=self.eos_token_ids,
            device="cpu",
            dtype="int64",
            quantization="none",
            adapters=self.adapters,
            defaults=self.defaults,
        )

    def adapter_number(self, adapter: str) -> int:
        """What the adapter of this name adds; 0 for the model itself."""
        return 1 + self.adapters.index(adapter) if adapter else 0

    def logprob(self, token_id: int, likeliest: int, alternatives: int) -> TokenLogprob:
        """How probable a token is where `likeliest` is the most probable one, with the best so many others."""
        places = range(min(alternatives, self.vocabulary_size))
        best = [self._logprob((likeliest + place) % self.vocabulary_size, likeliest) for place in places]
        return replace(self._logprob(token_id, likeliest), alternatives=tuple(best))

    def _logprob(self, token_id: int, likeliest: int) -> TokenLogprob:
        rank = 1 + (token_id - likeliest) % self.vocabulary_size
        return TokenLogprob(token_id, -rank * math.log(2), rank)


class FakeEngine:
    """An Engine over `FakeModel`. Every fault is asked before every step."""

    def __init__(self, model: FakeModel, *faults: Fault) -> None:
        self._model = model
        self._faults = faults
        self._steps = 0
        self._ids = array("i", [_POISON]) * model.kv_capacity_tokens
        self._sums = array("q", [0]) * model.kv_capacity_tokens  # of the ids up to each token, and the adapter's number
        self.closed = False
        self._spec = model.spec(self._ids.itemsize + self._sums.itemsize)

    @property
    def spec(self) -> EngineSpec:
        """What this engine is."""
        return self._spec

    def step(self, segments: collections.abc.Sequence[Segment]) -> list[Outcome]:
        """Store each segment and draw where it says so; see `Engine.step`. A sequence appears at most once."""
        self._steps += 1
        failures = failures_of(self._faults, self._steps, segments)
        if len(segments) > 1:
            _check_disjoint(segments)
        return [failures.get(index) or self._compute(segment) for index, segment in enumerate(segments)]

    def copy_kv(self, source: Extent, target: Extent, tokens: int) -> None:
        """Copy the first `tokens` tokens; a slice is a copy, so the extents may overlap."""
        assert 0 < tokens <= min(source.capacity, target.capacity)
        for store in (self._ids, self._sums):
            store[target.start : target.start + tokens] = store[source.start : source.start + tokens]

    def clear_kv(self, extent: Extent) -> None:
        """Poison `extent`: any read of it fails."""
        self._ids[extent.start : extent.start + extent.capacity] = array("i", [_POISON]) * extent.capacity

    def close(self) -> None:
        """Nothing to free; `closed` says that it was asked to."""
        self.closed = True

    def _compute(self, segment: Segment) -> Draw | Scored | None:
        self._store(segment)
        sequence = segment.sequence
        params, end = sequence.params, segment.start + segment.length
        of_prompt: tuple[TokenLogprob, ...] = ()
        if params.prompt_logprobs is not None:
            scored = range(segment.start + 1, min(end + 1, sequence.prompt_tokens))
            of_prompt = tuple(self._logprob(sequence, at, sequence.ids[at], params.prompt_logprobs) for at in scored)
        if not segment.draws:
            return None if params.prompt_logprobs is None else Scored(of_prompt)
        token_id = self._model.next_token(sequence, self._likeliest(sequence, end))
        drawn = None if params.logprobs is None else self._logprob(sequence, end, token_id, params.logprobs)
        return Draw(token_id, drawn, of_prompt)

    def _logprob(self, sequence: Sequence, at: int, token_id: int, alternatives: int) -> TokenLogprob:
        return self._model.logprob(token_id, self._likeliest(sequence, at), alternatives)

    def _likeliest(self, sequence: Sequence, at: int) -> int:
        """The most probable token at position `at`, from what stands in the arena before it."""
        assert sequence.extent is not None
        start = sequence.extent.start
        total, halfway = self._sums[start + at - 1], self._ids[start + at // 2]
        return (total + halfway + at) % self._model.vocabulary_size

    def _store(self, segment: Segment) -> None:
        sequence, extent = segment.sequence, segment.sequence.extent
        end = segment.start + segment.length
        assert extent is not None
        assert segment.length > 0
        assert segment.start == sequence.computed
        assert end <= min(extent.capacity, len(sequence.ids))
        assert segment.draws == (end == len(sequence.ids))
        self._check_stored(sequence, extent)
        at = extent.start + segment.start
        total = self._sums[at - 1] if segment.start else self._model.adapter_number(sequence.params.adapter)
        for offset, token_id in enumerate(sequence.ids[segment.start : end], start=at):
            assert 0 <= token_id < self._model.vocabulary_size
            total += token_id
            self._ids[offset] = token_id
            self._sums[offset] = total

    def _check_stored(self, sequence: Sequence, extent: Extent) -> None:
        """What stands before the segment is what the sequence says it computed."""
        end = sequence.computed
        start = max(0, end - _CHECKED_TOKENS)
        stored = self._ids[extent.start + start : extent.start + end]
        assert stored == sequence.ids[start:end], "the arena does not hold what was computed"


def next_token(ids: array[int], vocabulary_size: int, seed: int = 0) -> int:
    """The rule above from the ids alone, for working out what is expected.

    `seed` is 0 for a greedy row; the number of an adapter is added to it.
    """
    return (sum(ids) + ids[len(ids) // 2] + len(ids) + seed) % vocabulary_size


def _check_disjoint(segments: collections.abc.Sequence[Segment]) -> None:
    extents = [segment.sequence.extent for segment in segments]
    ranges = sorted((extent.start, extent.start + extent.capacity) for extent in extents if extent is not None)
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges)), "extents overlap"
