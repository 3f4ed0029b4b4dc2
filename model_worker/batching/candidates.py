"""Which waiting rows could start now, and how much of each would be copied instead of computed."""

from __future__ import annotations

import collections.abc
import heapq
from operator import attrgetter
from typing import NamedTuple

from model_worker.batching.kv_arena import KvArena
from model_worker.batching.prefix_index import PrefixIndex
from model_worker.batching.row import Row
from model_worker.batching.scheduler import WaitingRow


class Candidate(NamedTuple):
    """A row that could be admitted, and its numbers for the scheduler."""

    row: Row
    numbers: WaitingRow


def candidates(
    running: collections.abc.Iterable[Row], waiting: collections.abc.Iterable[Row], arena: KvArena
) -> list[Candidate]:
    """Those of the `waiting` rows that are not better off waiting on. Both in order of arrival, as is the result.

    A row stays out while an older one computes, or is about to, what spares it at least half of its own work. That
    costs it nothing: budget goes to the older one first. And each such wait halves what it has left to compute.
    """
    coming: PrefixIndex[Row] = PrefixIndex()  # what older rows are on their way to having
    found: list[Candidate] = []
    prefilling = (row for row in running if not row.lends)
    for row in heapq.merge(prefilling, waiting, key=attrgetter("arrival")):
        key = row.key
        if not row.running:
            shared = copyable(row, arena)
            sharer = coming.longest(key) if row.reuses else None
            if sharer is not None and 2 * (min(sharer[0], key.tokens - 1) - shared) >= key.tokens - shared:
                continue
            found.append(Candidate(row, WaitingRow(key.tokens, shared, row.most_kv_tokens, row.overtaken)))
        coming.add(key, row)
    return found


def copyable(row: Row, arena: KvArena) -> int:
    """How many tokens `row` could copy if it were admitted now."""
    donor = arena.donor_for(row.key) if row.reuses else None
    return donor.tokens if donor is not None else 0
