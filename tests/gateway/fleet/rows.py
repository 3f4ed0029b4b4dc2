"""Rows and events for tests."""

from __future__ import annotations

from array import array
from typing import Any

from gateway.generation import FinishReason, Row, RowFinished, RowTokens, Sampling, Timing, Usage


def row(*ids: int, **given: Any) -> Row:
    defaults: dict[str, Any] = {
        "sampling": Sampling(seed=7),
        "stop_token_ids": frozenset(),
        "ignore_eos": False,
        "min_new_tokens": 0,
        "max_new_tokens": 100,
        "time_limit_seconds": None,
        "cache_salt": "",
    }
    return Row(ids=array("i", ids), **(defaults | given))


def tokens(place: int, *ids: int) -> RowTokens:
    return RowTokens(place, array("i", ids))


def finished(place: int, **usage: int) -> RowFinished:
    return RowFinished(place, FinishReason.MAX_NEW_TOKENS, None, Usage(**usage), Timing())
