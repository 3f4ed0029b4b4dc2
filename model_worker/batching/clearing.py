"""Where in the arena room is made, and at whose expense. Pure: what stands where goes in, a stretch of it comes out."""

from __future__ import annotations

import collections.abc
from itertools import accumulate
from typing import NamedTuple

from model_worker.sequence import Extent


class Block(NamedTuple):
    """An extent and what it costs to clear it."""

    extent: Extent
    computed: int  # tokens to copy if it has to move; 0 for a kept one: it is evicted
    last_used: int | None  # when a kept one was last of use; None: a row lives here


class Clearing(NamedTuple):
    """Make room by evicting and moving the blocks `[first, last]`, which may be none (`last == first - 1`)."""

    first: int
    last: int
    moved_tokens: int  # at most so many have to be copied
    newest: int  # when the most recently used one that is evicted was of use; 0: none is


def cheapest_clearing(
    blocks: collections.abc.Sequence[Block], needed: int, arena_tokens: int, growing: int | None = None
) -> Clearing | None:
    """Which stretch of neighbouring blocks to clear so that one gap of `needed` tokens opens; None: there is none.

    `blocks` stand in order of their place. With `growing`, the gap has to open right behind that block, which may
    itself move to the left. Cheapest: the fewest tokens to copy; among equals, what was least recently used. So no
    row is moved to spare a kept extent.

    Two ends slide over the blocks: the further right a stretch begins, the further right it ends.
    """
    count = len(blocks)
    begins = [0, *(block.extent.start + block.extent.capacity for block in blocks)]  # of the room before each block
    ends = [*(block.extent.start for block in blocks), arena_tokens]  # of the room before each block
    held = [0, *accumulate(block.extent.capacity if block.last_used is None else 0 for block in blocks)]
    copied = [0, *accumulate(block.computed for block in blocks)]
    best: Clearing | None = None
    last = -1 if growing is None else growing
    for first in range(count + 1 if growing is None else growing + 2):
        last = max(last, first - 1)
        while last < count and ends[last + 1] - begins[first] - (held[last + 1] - held[first]) < needed:
            last += 1
        if last == count:
            break
        moved_tokens = copied[last + 1] - copied[first]
        if best is not None and moved_tokens > best.moved_tokens:
            continue
        newest = max((block.last_used or 0 for block in blocks[first : last + 1]), default=0)
        found = Clearing(first, last, moved_tokens, newest)
        if best is None or found[2:] < best[2:]:
            best = found
    return best
