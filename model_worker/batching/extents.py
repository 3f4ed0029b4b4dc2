"""Where in the arena each row's K/V stand: a pure allocator of contiguous extents. It moves nothing itself.

Gaps are kept sorted and merged, so there is at most one more gap than there are extents; every operation is one walk
over them. A new extent is put into the middle of the largest gap: it and what stands before it can both grow where
they stand, which is what most of them will do next.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter
from typing import NamedTuple

from model_worker.sequence import Extent

_start = attrgetter("start")


class Move(NamedTuple):
    """An extent that changes its place. The two may overlap."""

    source: Extent
    target: Extent


class ExtentAllocator:
    """Hands out non-overlapping extents of `[0, capacity)`, in tokens."""

    def __init__(self, capacity: int) -> None:
        assert capacity > 0
        self._capacity = capacity
        self._gaps = [Extent(0, capacity)]
        self._used: list[Extent] = []  # sorted by start
        self._free_tokens = capacity

    @property
    def capacity(self) -> int:
        """Tokens of the whole arena."""
        return self._capacity

    @property
    def free_tokens(self) -> int:
        """Tokens in all gaps together."""
        return self._free_tokens

    @property
    def gaps(self) -> tuple[Extent, ...]:
        """The free ranges, ascending; no two of them touch."""
        return tuple(self._gaps)

    @property
    def used(self) -> tuple[Extent, ...]:
        """The extents handed out, ascending."""
        return tuple(self._used)

    def allocate(self, capacity: int) -> Extent | None:
        """Take `capacity` tokens from the largest gap; None when not even that one holds them."""
        assert capacity > 0
        gap = max(self._gaps, key=attrgetter("capacity"), default=None)
        if gap is None or gap.capacity < capacity:
            return None
        room = gap.capacity - capacity
        extent = Extent(gap.start + (room // 2 if gap.start else 0), capacity)
        self._take(gap, extent)
        insort(self._used, extent, key=_start)
        return extent

    def free(self, extent: Extent) -> None:
        """Give `extent` back; it merges with the gaps it touches."""
        del self._used[self.index_of(extent)]
        self._add_gap(extent.start, extent.start + extent.capacity)

    def shrink(self, extent: Extent, capacity: int) -> Extent:
        """Give the end of `extent` back, all behind its first `capacity` tokens."""
        shrunk = Extent(extent.start, capacity)
        self._used[self.index_of(extent)] = shrunk
        if capacity < extent.capacity:
            self._add_gap(extent.start + capacity, extent.start + extent.capacity)
        return shrunk

    def grow(self, extent: Extent, capacity: int) -> Extent | None:
        """Widen `extent` in place to `capacity`; None when what follows it is taken, and then it has to move."""
        more, end = capacity - extent.capacity, extent.start + extent.capacity
        assert more > 0
        used_at = self.index_of(extent)
        gap_at = bisect_left(self._gaps, end, key=_start)
        if gap_at == len(self._gaps) or self._gaps[gap_at].start != end or self._gaps[gap_at].capacity < more:
            return None
        self._take(self._gaps[gap_at], Extent(end, more))
        grown = Extent(extent.start, capacity)
        self._used[used_at] = grown
        return grown

    def part(self, first: int, last: int, split: int) -> list[Move]:
        """Make one gap of those around the extents `used[first : last + 1]`. Returns what has to move, in order.

        Those before index `split` slide down as far as there is room, lowest first; the others slide up, highest
        first. So no move writes over K/V that have not moved yet, and nothing needs a second place to stand.
        """
        bottom = _end(self._used[first - 1]) if first else 0
        top = self._used[last + 1].start if last + 1 < len(self._used) else self._capacity
        low, high = bottom, top
        moves: list[Move] = []
        for index in range(first, min(split, last + 1)):
            moves.append(self._slide(index, low))
            low = _end(self._used[index])
        for index in range(last, max(split, first) - 1, -1):
            moves.append(self._slide(index, high - self._used[index].capacity))
            high = self._used[index].start
        gaps = [gap for gap in self._gaps if not bottom <= gap.start < top]
        if high > low:
            insort(gaps, Extent(low, high - low), key=_start)
        self._gaps = gaps
        return [move for move in moves if move.source != move.target]

    def _slide(self, index: int, start: int) -> Move:
        source = self._used[index]
        target = Extent(start, source.capacity)
        self._used[index] = target
        return Move(source, target)

    def index_of(self, extent: Extent) -> int:
        """Where in `used` an extent stands."""
        at = bisect_left(self._used, extent.start, key=_start)
        assert at < len(self._used), "not an extent of this allocator"
        assert self._used[at] == extent, "not an extent of this allocator"
        return at

    def _add_gap(self, start: int, end: int) -> None:
        self._free_tokens += end - start
        at = bisect_left(self._gaps, start, key=_start)
        first, last = at, at
        if at > 0 and self._gaps[at - 1].start + self._gaps[at - 1].capacity == start:
            first, start = at - 1, self._gaps[at - 1].start
        if at < len(self._gaps) and self._gaps[at].start == end:
            last, end = at + 1, end + self._gaps[at].capacity
        self._gaps[first:last] = [Extent(start, end - start)]

    def _take(self, gap: Extent, taken: Extent) -> None:
        """Cut `taken` out of `gap`."""
        at = bisect_left(self._gaps, gap.start, key=_start)
        before = Extent(gap.start, taken.start - gap.start)
        behind = Extent(_end(taken), _end(gap) - _end(taken))
        self._gaps[at : at + 1] = [rest for rest in (before, behind) if rest.capacity]
        self._free_tokens -= taken.capacity


def _end(extent: Extent) -> int:
    return extent.start + extent.capacity
