"""What a row says alone: by transformers' `generate()` or, where that cannot say, by our engine with nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from model_worker.batching.scheduler import SchedulerLimits
from tests.model_worker.batching.rig import Rig
from tests.model_worker.exactness.asks import MOST_NEW_TOKENS, Ask, Manner, Prompt, ids_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from model_worker.engine import Engine, TokenLogprob

_LIMITS = SchedulerLimits(max_num_seqs=1, max_num_batched_tokens=4096)


@dataclass(frozen=True, slots=True)
class Answer:
    """What follows a prompt, ended by nothing but `MOST_NEW_TOKENS`."""

    tokens: list[int]
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Question:
    """What an answer depends on. `ending` is empty unless it is banned at first: only then does it change tokens."""

    prompt: Prompt
    manner: Manner
    adapter: str
    ending: frozenset[int]


class Oracle(Protocol):
    """Somebody who knows what a row says alone."""

    def answer(self, question: Question) -> Answer: ...


class Generate:
    """`generate()` on each prompt alone, for greedy rows: one model for each adapter, with it merged in."""

    def __init__(self, models: Mapping[str, PreTrainedModel]) -> None:
        self._models = models
        self._answers: dict[Question, Answer] = {}

    def answer(self, question: Question) -> Answer:
        if question not in self._answers:
            self._answers[question] = Answer(self._generate(question))
        return self._answers[question]

    def gap(self, ask: Ask, tokens: list[int]) -> float:
        """By how much the best logit exceeds the second best after the prompt and `tokens`."""
        model = self._models[ask.adapter]
        with torch.inference_mode():
            best, second = model(torch.tensor([[*ask.prompt, *tokens]])).logits[0, -1].topk(2).values.tolist()
        return float(best - second)

    def _generate(self, question: Question) -> list[int]:
        ids = torch.tensor([question.prompt])
        output = self._models[question.adapter].generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=MOST_NEW_TOKENS,
            do_sample=False,
            pad_token_id=2,
            **_options(question),
        )
        generated: list[int] = output[0, ids.shape[1] :].tolist()
        return generated


def _options(question: Question) -> dict[str, Any]:
    sampling = question.manner.sampling
    assert (sampling.temperature, sampling.presence_penalty, sampling.frequency_penalty) == (0, 0, 0)
    assert question.manner.logprobs is None
    bans = bool(question.ending)
    return {
        "repetition_penalty": sampling.repetition_penalty,
        "sequence_bias": {(token,): bias for token, bias in sampling.logit_bias} or None,
        "eos_token_id": sorted(question.ending) if bans else None,
        "min_new_tokens": question.manner.min_new_tokens if bans else None,
    }


class Alone:
    """Our engine, with one row on it and room for all: whole prompts, no reuse."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._answers: dict[Question, Answer] = {}

    def answer(self, question: Question) -> Answer:
        if question not in self._answers:
            self._answers[question] = self._run(question)
        return self._answers[question]

    def _run(self, question: Question) -> Answer:
        rig = Rig(engine=self._engine, limits=_LIMITS, enable_prefix_caching=False)
        ask = Ask(question.prompt, question.manner, adapter=question.adapter)
        rig.add((ids_of(question.prompt), ask.params(question.ending, 0)))
        rig.run()
        heard = rig.heard(0)
        return Answer(heard.tokens[0], heard.logprobs[0], heard.prompt_logprobs[0])
