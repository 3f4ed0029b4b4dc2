"""What a row of the fake engine must say, worked out from its ids alone, and ways to read a stream."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from dataclasses import dataclass, field

from model_worker.batching.generation_loop import GenerationLoop
from model_worker.batching.row_events import PromptLogprobsEvent, RowEvent, TerminalEvent, TokensEvent
from model_worker.batching.token_stream import TokenStream
from model_worker.engine import TokenLogprob
from model_worker.engines.fake_engine import FakeModel, next_token
from model_worker.sequence import FinishReason, RowParams, SamplingParams

LN2 = math.log(2)


def ids_of(*values: int) -> array[int]:
    return array("i", values)


def sampled(seed: int, **params: object) -> RowParams:
    return RowParams(sampling=SamplingParams(temperature=1.0, seed=seed), **params)


def expected(ids: array[int], params: RowParams, model: FakeModel) -> tuple[list[int], FinishReason]:
    """The tokens and the end of a row that nobody stops, by the rules of the contract. Not for `eos_after`."""
    known, generated = array("i", ids), params.generated_prefix
    tokens: list[int] = []
    seed = params.sampling.seed if params.sampling.temperature > 0 else 0
    seed += model.adapter_number(params.adapter)
    ending = params.stop_token_ids | (frozenset() if params.ignore_eos else model.eos_token_ids)
    while True:
        if generated >= params.max_new_tokens:
            return tokens, FinishReason.MAX_NEW_TOKENS
        if len(known) >= model.context_length:
            return tokens, FinishReason.CONTEXT_LENGTH
        token_id = next_token(known, model.vocabulary_size, seed)
        while generated < params.min_new_tokens and token_id in ending:
            token_id = (token_id + 1) % model.vocabulary_size
        known.append(token_id)
        tokens.append(token_id)
        generated += 1
        if token_id in ending:
            eos = token_id in model.eos_token_ids and not params.ignore_eos
            return tokens, FinishReason.END_OF_SEQUENCE if eos else FinishReason.STOP_TOKEN


def expected_logprobs(
    prompt: array[int], tokens: list[int], top: int | None, model: FakeModel, adapter: str = ""
) -> list[TokenLogprob]:
    """Of each of `tokens`, which follow `prompt`, by the arithmetic of the fake engine; `top` None: of none."""
    known, found = array("i", prompt), []
    for token_id in tokens if top is not None else ():
        likeliest = next_token(known, model.vocabulary_size, model.adapter_number(adapter))
        best = [(likeliest + place) % model.vocabulary_size for place in range(top or 0)]
        alternatives = tuple(TokenLogprob(other, -rank * LN2, rank) for rank, other in enumerate(best, start=1))
        rank = (token_id - likeliest) % model.vocabulary_size + 1
        found.append(TokenLogprob(token_id, -rank * LN2, rank, alternatives))
        known.append(token_id)
    return found


@dataclass
class Heard:
    """What a reader has heard so far."""

    tokens: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    logprobs: dict[int, list[TokenLogprob]] = field(default_factory=lambda: defaultdict(list))
    prompt_logprobs: dict[int, list[TokenLogprob]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[int, TerminalEvent] = field(default_factory=dict)
    batches: int = 0

    def take(self, events: list[RowEvent]) -> None:
        self.batches += 1
        for event in events:
            assert event.row not in self.ends, "an event after the row's end"
            if isinstance(event, TokensEvent):
                assert event.ids, "an empty event"
                self.tokens[event.row].extend(event.ids)
                self.logprobs[event.row].extend(event.logprobs)
            elif isinstance(event, PromptLogprobsEvent):
                assert event.logprobs, "an empty event"
                assert not self.tokens[event.row], "of the prompt, after a token"
                self.prompt_logprobs[event.row].extend(event.logprobs)
            else:
                self.ends[event.row] = event


async def hear(stream: TokenStream) -> Heard:
    """Read a stream to its end."""
    heard = Heard()
    async for events in stream:
        heard.take(events)
    return heard


async def hear_tokens(stream: TokenStream, count: int) -> Heard:
    """Read a stream until `count` tokens of all its rows together were heard."""
    heard = Heard()
    while sum(map(len, heard.tokens.values())) < count:
        heard.take(await anext(stream))
    return heard


async def idle(loop: GenerationLoop) -> None:
    """Wait until no row is left."""
    load = loop.snapshot()
    while load.running or load.waiting or load.kv_tokens_used:
        load = await loop.load_changed(load)
