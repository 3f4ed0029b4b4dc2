"""Which worker takes a request: the one with the least work for it, among several equals one by chance.

Two gateways that hear the same reports would both send everything to the same least loaded worker. So of those that are
about as good two are drawn, and the better one is taken.

Source: Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.fleet.worker_load import Work

# What a row costs until it ends, in prompt tokens: drawing a token takes several times as long as reading one.
ROW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that could take a request."""

    work: Work  # what it has to do already
    max_rows: int  # that run at once; more have to wait
    free_kv_tokens: int
    cached_tokens: int = 0  # of the request's prompts, so many it has computed before


def choose(candidates: Sequence[Candidate], work: Work, draw: random.Random) -> int:
    """Return the place of the candidate that should do `work`. Precondition: there is one."""
    costs = [cost(candidate, work) for candidate in candidates]
    good = min(costs) + ROW_TOKENS
    places = [place for place, own in enumerate(costs) if own <= good]
    return min(draw.sample(places, min(2, len(places))), key=costs.__getitem__)


def cost(candidate: Candidate, work: Work) -> float:
    """Return how much has to be done before `work` is, in prompt tokens; twice that where it has to wait for room."""
    all_work = candidate.work + work
    tokens = all_work.prompt_tokens - candidate.cached_tokens + ROW_TOKENS * all_work.rows
    is_full = all_work.rows > candidate.max_rows or candidate.free_kv_tokens < work.prompt_tokens
    return 2 * tokens if is_full else tokens
