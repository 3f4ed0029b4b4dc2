"""How much may be worked on and may wait, per model: what the operator says, else what the ready workers hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.admission.work import Work
from gateway.models import Capacity

LEAST_PRIORITY, HIGHEST_PRIORITY = -10, 10
# Beyond the rows that its workers compute at once a model gets some that wait there, so that none runs dry while the
# next request is tokenized: a quarter, and for each worker at least two.
ROWS_HEADROOM = 0.25
LEAST_ROWS_HEADROOM = 2
# Outputs usually end long before they have all they may have, and a worker that is out of K/V lets rows wait itself.
TOKENS_HEADROOM = 2
# What waits for longer than this many times what is worked on would hardly be served before its deadline.
QUEUE_TIMES_INFLIGHT = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator says. None: from the workers or, for a tenant, no limit of its own."""

    max_inflight: int = 1024
    max_inflight_rows: int | None = None
    max_inflight_tokens: int | None = None
    max_queue: int = 1024
    max_queue_tokens: int | None = None
    tenant_max_inflight: int | None = None
    tenant_max_queue: int | None = None
    ageing_seconds: float = 10.0  # after which a request that waits counts as one class higher
    weights: Mapping[str, float] = field(default_factory=dict)  # of tenants; 1 unless named


@dataclass(frozen=True, slots=True)
class Room:
    """What there is place for now. Infinite: nothing is known of the workers."""

    rows: float
    tokens: float
    queue_tokens: float

    def holds(self, work: Work) -> bool:
        """Whether so much can be worked on at once."""
        return work.rows <= self.rows and work.tokens <= self.tokens


def room(limits: Limits, workers: Capacity | None) -> Room:
    """What a model has place for; `workers`: what its ready workers hold, None if that was never known."""
    rows = tokens = math.inf
    if workers:
        rows = workers.rows + max(workers.rows * ROWS_HEADROOM, LEAST_ROWS_HEADROOM * workers.workers)
        tokens = float(TOKENS_HEADROOM * workers.kv_tokens)
    tokens = _first(limits.max_inflight_tokens, tokens)
    return Room(
        rows=_first(limits.max_inflight_rows, rows),
        tokens=tokens,
        queue_tokens=_first(limits.max_queue_tokens, QUEUE_TIMES_INFLIGHT * tokens),
    )


def _first(given: int | None, otherwise: float) -> float:
    return otherwise if given is None else given
