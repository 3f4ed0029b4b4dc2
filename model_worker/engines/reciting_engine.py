"""An engine that says the same ids over and over: for loading what is in front of it, at next to no cost."""

from __future__ import annotations

import collections.abc

from model_worker.engine import Draw, EngineSpec, Outcome, Scored, Segment, TokenLogprob
from model_worker.engines.fake_engine import FakeModel
from model_worker.engines.fake_faults import Fault, failures_of
from model_worker.sequence import Extent, Sequence


class RecitingEngine:
    """An Engine whose rows all say `ids`, from the first on. It stores nothing and checks nothing.

    A row's place is the number of tokens it has generated, so one that another worker began goes on where that was.
    The id that is said is the likeliest one, as is each token of a prompt; seeds mean nothing.
    """

    def __init__(self, model: FakeModel, ids: collections.abc.Sequence[int], *faults: Fault) -> None:
        self._model = model
        self._draws = tuple(Draw(token_id) for token_id in ids)  # shared by all rows: nothing is made per token
        self._faults = faults
        self._steps = 0
        self._spec = model.spec(kv_bytes_per_token=0)

    @property
    def spec(self) -> EngineSpec:
        """What this engine is."""
        return self._spec

    def step(self, segments: collections.abc.Sequence[Segment]) -> list[Outcome]:
        """Say the next id of every row that draws; see `Engine.step`."""
        self._steps += 1
        failures = failures_of(self._faults, self._steps, segments)
        outcomes = [self._outcome(segment) for segment in segments]
        for index, failure in failures.items():
            outcomes[index] = failure
        return outcomes

    def copy_kv(self, source: Extent, target: Extent, tokens: int) -> None:
        """Nothing is stored."""

    def clear_kv(self, extent: Extent) -> None:
        """Nothing is stored."""

    def close(self) -> None:
        """Nothing to free."""

    def _outcome(self, segment: Segment) -> Outcome:
        params = segment.sequence.params
        if params.prompt_logprobs is not None or params.logprobs is not None:
            return self._with_logprobs(segment)
        return self._draw(segment.sequence) if segment.draws else None

    def _draw(self, sequence: Sequence) -> Draw:
        draw = self._draws[sequence.generated_tokens % len(self._draws)]
        if self._model.eos_after is None and not sequence.params.min_new_tokens:
            return draw
        if self._model.is_over(sequence):
            return Draw(min(self._model.eos_token_ids))
        return Draw(self._model.allowed(sequence, draw.token_id))

    def _with_logprobs(self, segment: Segment) -> Draw | Scored | None:
        sequence, params = segment.sequence, segment.sequence.params
        scored: tuple[TokenLogprob, ...] = ()
        if (wanted := params.prompt_logprobs) is not None:
            end = min(segment.start + segment.length + 1, sequence.prompt_tokens)
            scored = tuple(self._model.logprob(one, one, wanted) for one in sequence.ids[segment.start + 1 : end])
        if not segment.draws:
            return None if params.prompt_logprobs is None else Scored(scored)
        token_id = self._draw(sequence).token_id
        wanted = params.logprobs
        return Draw(token_id, None if wanted is None else self._model.logprob(token_id, token_id, wanted), scored)
