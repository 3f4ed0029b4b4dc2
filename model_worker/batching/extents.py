"""Where in the arena each row's K/V stand: a pure allocator of contiguous extents. It moves nothing itself.

Gaps are kept sorted and merged, so there is at most one more gap than there are extents; every operation is one walk
over them (tens of entries). Best fit keeps the large gaps large, for the rows that have to move when they grow.
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
        """Take `capacity` tokens from the smallest gap that holds them; None when no single gap does."""
        assert capacity > 0
        fitting = [gap for gap in self._gaps if gap.capacity >= capacity]
        if not fitting:
            return None
        gap = min(fitting, key=attrgetter("capacity"))
        extent = Extent(gap.start, capacity)
        self._shrink_gap(gap, capacity)
        insort(self._used, extent, key=_start)
        self._free_tokens -= capacity
        return extent

    def free(self, extent: Extent) -> None:
        """Give `extent` back; it merges with the gaps it touches."""
        del self._used[self._index_of(extent)]
        self._add_gap(extent.start, extent.start + extent.capacity)

    def shrink(self, extent: Extent, capacity: int) -> Extent:
        """Give the end of `extent` back, all behind its first `capacity` tokens."""
        shrunk = Extent(extent.start, capacity)
        self._used[self._index_of(extent)] = shrunk
        if capacity < extent.capacity:
            self._add_gap(extent.start + capacity, extent.start + extent.capacity)
        return shrunk

    def grow(self, extent: Extent, capacity: int) -> Extent | None:
        """Widen `extent` in place to `capacity`; None when what follows it is taken, and then it has to move."""
        more, end = capacity - extent.capacity, extent.start + extent.capacity
        assert more > 0
        used_at = self._index_of(extent)
        gap_at = bisect_left(self._gaps, end, key=_start)
        if gap_at == len(self._gaps) or self._gaps[gap_at].start != end or self._gaps[gap_at].capacity < more:
            return None
        self._shrink_gap(self._gaps[gap_at], more)
        grown = Extent(extent.start, capacity)
        self._used[used_at] = grown
        self._free_tokens -= more
        return grown

    def gather_gaps(self, after: Extent | None) -> list[Move]:
        """Make all gaps one, right behind `after` (None: behind everything). Returns what has to move, in order.

        Extents up to `after` slide down to the bottom, lowest first; those above it slide up to the top, highest
        first. So no move writes over K/V that have not moved yet, and nothing needs a second place to stand.
        """
        keep_below = 0 if after is None else self._index_of(after) + 1
        below = self._used if after is None else self._used[:keep_below]
        above = [] if after is None else self._used[keep_below:]
        bottom, top = 0, self._capacity
        lower: list[Extent] = []
        upper: list[Extent] = []
        for extent in below:
            lower.append(Extent(bottom, extent.capacity))
            bottom += extent.capacity
        for extent in reversed(above):
            top -= extent.capacity
            upper.append(Extent(top, extent.capacity))
        pairs = [*zip(below, lower, strict=True), *zip(reversed(above), upper, strict=True)]
        self._used = [*lower, *reversed(upper)]
        self._gaps = [Extent(bottom, top - bottom)] if top > bottom else []
        return [Move(source, target) for source, target in pairs if source != target]

    def _index_of(self, extent: Extent) -> int:
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

    def _shrink_gap(self, gap: Extent, tokens: int) -> None:
        """Take `tokens` from the front of `gap`."""
        at = bisect_left(self._gaps, gap.start, key=_start)
        rest = Extent(gap.start + tokens, gap.capacity - tokens)
        self._gaps[at : at + 1] = [rest] if rest.capacity else []
