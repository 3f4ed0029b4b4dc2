"""What a row must hear, by what it says alone, its limits and its stop ids."""

from __future__ import annotations

from dataclasses import dataclass

from model_worker.sequence import FinishReason
from tests.model_worker.exactness.asks import Ask, Manner
from tests.model_worker.exactness.oracles import Answer, Oracle, Question


@dataclass(frozen=True, slots=True)
class Expected:
    """What an ask hears if nobody and nothing cuts it short."""

    tokens: list[int]  # those of an earlier attempt included
    reason: FinishReason
    resumed: int  # how many of the tokens an earlier attempt generated
    stop_ids: frozenset[int]
    answer: Answer


def expect(ask: Ask, oracle: Oracle, eos_ids: frozenset[int], context: int) -> Expected:
    """Ask `oracle` about `ask`, and end it where it ends: at the latest where `context` tokens are known."""
    if ask.failure is not None:
        return _until_failure(ask, oracle)
    eos = frozenset() if ask.ignore_eos else eos_ids
    stop_ids: frozenset[int] = frozenset()
    if ask.stop_at is not None:
        unending = _answer(ask, oracle, frozenset()).tokens
        stop_ids = frozenset({unending[ask.stop_at % len(unending)]})
    answer = _answer(ask, oracle, stop_ids | eos)
    tokens, reason = _cut(ask, answer.tokens[: context - len(ask.prompt)], stop_ids | eos)
    if reason is FinishReason.STOP_TOKEN and tokens[-1] in eos:
        reason = FinishReason.END_OF_SEQUENCE
    return Expected(tokens, reason, min(ask.resumed, len(tokens) - 1), stop_ids, answer)


def _until_failure(ask: Ask, oracle: Oracle) -> Expected:
    """What a row says before it fails; of its end the reason is known, and no `reason` here."""
    answer = Answer([])
    if ask.fails_after:
        answer = oracle.answer(Question(ask.prompt, Manner(), ask.adapter, frozenset()))
    return Expected(answer.tokens[: ask.fails_after], FinishReason.STOP_STRING, 0, frozenset(), answer)


def _answer(ask: Ask, oracle: Oracle, ending: frozenset[int]) -> Answer:
    """The tokens depend on what would end the row only where that is banned at first."""
    banned = ending if ask.manner.min_new_tokens else frozenset()
    return oracle.answer(Question(ask.prompt, ask.manner, ask.adapter, banned))


def _cut(ask: Ask, tokens: list[int], ending: frozenset[int]) -> tuple[list[int], FinishReason]:
    for index, token in enumerate(tokens[: ask.new_tokens]):
        if token in ending and index >= ask.manner.min_new_tokens:
            return tokens[: index + 1], FinishReason.STOP_TOKEN
    if ask.new_tokens <= len(tokens):
        return tokens[: ask.new_tokens], FinishReason.MAX_NEW_TOKENS
    return tokens, FinishReason.CONTEXT_LENGTH
