"""Which kept extents give way so that one gap becomes large enough. Pure: extents and dates in, extents out."""

from __future__ import annotations

import collections.abc
from typing import NamedTuple

from model_worker.sequence import Extent


class Block(NamedTuple):
    """An extent, and when it was last of use; None: a row lives there, it stays."""

    extent: Extent
    last_used: int | None


def stretch_to_clear(blocks: collections.abc.Iterable[Block], capacity: int, arena_tokens: int) -> list[Extent] | None:
    """The neighbouring kept extents that make, with the gaps around and between them, room for `capacity` tokens.

    Of all such stretches, the one whose most recently used extent is the least recent: least recently used, where what
    is evicted has to lie together. `blocks` stand in order of their place. None: no such stretch.

    Two ends slide over the blocks; a stretch is as short as it can be, so it is a handful of blocks.
    """
    best: list[Extent] | None = None
    best_used = 0
    stretch: list[Block] = []
    start = 0  # where the room of the stretch begins: the end of what stands before it
    for block, end in _with_room_behind(blocks, arena_tokens):
        if block.last_used is None:
            stretch, start = [], _end(block.extent)
            continue
        stretch.append(block)
        while end - _end(stretch[0].extent) >= capacity:
            start = _end(stretch.pop(0).extent)
        if end - start >= capacity:
            used = max(one.last_used or 0 for one in stretch)
            if best is None or used < best_used:
                best, best_used = [one.extent for one in stretch], used
    return best


def _with_room_behind(
    blocks: collections.abc.Iterable[Block], arena_tokens: int
) -> collections.abc.Iterator[tuple[Block, int]]:
    """Each block with where the one behind it begins."""
    previous: Block | None = None
    for block in blocks:
        if previous is not None:
            yield previous, block.extent.start
        previous = block
    if previous is not None:
        yield previous, arena_tokens


def _end(extent: Extent) -> int:
    return extent.start + extent.capacity
