"""Who holds which part of the K/V arena. Gives, widens, moves, keeps and takes back extents; the engine copies the K/V.

An extent is held by a sequence that runs, or kept for whoever shares its prefix until the space is needed. Kept ones
are free as far as anyone who asks for room knows.
"""

from __future__ import annotations

from model_worker.batching.clearing import Block, Clearing, cheapest_clearing
from model_worker.batching.extents import ExtentAllocator
from model_worker.batching.prefix_cache import Donor, PrefixCache
from model_worker.batching.prefix_index import PrefixKey, Scope
from model_worker.engine import Engine, OutOfMemory
from model_worker.sequence import Extent, Sequence

_LOSS = 8  # an extent is taken over where its new holder uses all but so small a part (one in ...)


class KvArena:
    """The arena's extents and their holders. Owned by the generation thread.

    Any request for at most `free_tokens` succeeds: kept extents give way and, where the gaps between those of running
    rows are too small one by one, those rows are moved together. That copies up to the whole arena once, which is why
    it is the last resort. K/V that cannot be copied for want of memory are computed again: `computed` says so.
    """

    def __init__(self, engine: Engine, *, keeps_ended: bool = True) -> None:
        self._engine = engine
        self._allocator = ExtentAllocator(engine.spec.kv_capacity_tokens)
        self._holders: dict[Extent, Sequence] = {}
        self._cache = PrefixCache(keeps_ended=keeps_ended)
        self._kept_tokens = 0
        self.moved_tokens = 0  # since the start: K/V copied because their row had to move
        self.clearings = 0  # since the start: how often rows were moved together

    @property
    def free_tokens(self) -> int:
        """Tokens no running row holds."""
        return self._allocator.free_tokens + self._kept_tokens

    @property
    def used_tokens(self) -> int:
        """Tokens that running rows hold."""
        return self._allocator.capacity - self.free_tokens

    @property
    def kept_tokens(self) -> int:
        """Tokens kept for whoever shares a prefix."""
        return self._kept_tokens

    @property
    def gaps(self) -> tuple[Extent, ...]:
        """The ranges that nothing stands in, ascending."""
        return self._allocator.gaps

    def donor_for(self, key: PrefixKey) -> Donor | None:
        """Who has K/V that a row with these ids could start from."""
        return self._cache.donor_for(key)

    def lend(self, sequence: Sequence, scope: Scope) -> None:
        """Let others use what `sequence` has computed: a token was drawn from it."""
        self._cache.lend(sequence, scope)

    def give(self, sequence: Sequence, capacity: int, donor: Donor | None = None) -> None:
        """Give `sequence`, which holds nothing, an extent of `capacity` tokens, at most `free_tokens`.

        It starts with the K/V of `donor`, which are copied, or taken over with their extent: where nobody runs in it
        and little else would be lost, or where there is no room for both.
        """
        assert sequence.extent is None
        kept = donor if donor is not None and self._cache.last_used(donor.sequence) is not None else None
        if kept is not None and (kept.sequence.computed - kept.tokens) * _LOSS <= kept.tokens:
            self._take_over(kept, sequence, capacity)
            return
        extent = self._find_room(capacity, beside=kept.sequence if kept is not None else None)
        if extent is None:
            assert kept is not None
            self._take_over(kept, sequence, capacity)
            return
        self._hold(sequence, extent)
        if donor is not None and donor.sequence.computed >= donor.tokens:  # else it moved, and its K/V did not
            sequence.computed = self._copied(donor.sequence, extent, donor.tokens)

    def widen(self, sequence: Sequence, capacity: int) -> None:
        """Widen the extent of `sequence` to `capacity`, at most `free_tokens` more. It may move, with its K/V."""
        old = sequence.extent
        assert old is not None
        if self._widen_in_place(sequence, capacity):
            return
        growing = self._allocator.index_of(old)
        blocks = self._blocks()
        clearing = cheapest_clearing(blocks, capacity - old.capacity, self._allocator.capacity, growing)
        if clearing is None or clearing.moved_tokens >= sequence.computed:
            elsewhere = self._allocator.allocate(capacity)
            if elsewhere is not None:
                self._move(sequence, elsewhere)
                self._allocator.free(self._release(sequence))
                self._hold(sequence, elsewhere)
                return
        assert clearing is not None, "more than is free"
        self._clear(blocks, clearing, growing + 1)
        widened = self._widen_in_place(sequence, capacity)
        assert widened

    def retire(self, sequence: Sequence, *, drawn: bool) -> None:
        """Take the extent of `sequence` back, whose row ended or gave way. What may be lent of it is kept while it can.

        `drawn`: a token was drawn from all that it has computed.
        """
        extent = self._release(sequence)
        kept = self._cache.keep(sequence, drawn=drawn)
        if kept is None:
            self._allocator.free(extent)
        else:
            self._hold(kept, self._allocator.shrink(extent, kept.computed))
            self._kept_tokens += kept.computed
        sequence.computed = 0

    def discard(self, sequence: Sequence) -> None:
        """Take the extent of `sequence` back, whose row failed: zeroed, and nothing of it is used again."""
        self._cache.withdraw(sequence)
        extent = self._release(sequence)
        self._engine.clear_kv(extent)
        self._allocator.free(extent)
        sequence.computed = 0

    def _hold(self, sequence: Sequence, extent: Extent) -> None:
        self._holders[extent] = sequence
        sequence.extent = extent

    def _release(self, sequence: Sequence) -> Extent:
        extent = sequence.extent
        assert extent is not None
        del self._holders[extent]
        sequence.extent = None
        return extent

    def _widen_in_place(self, sequence: Sequence, capacity: int) -> bool:
        assert sequence.extent is not None
        grown = self._allocator.grow(sequence.extent, capacity)
        if grown is None:
            return False
        del self._holders[sequence.extent]
        self._hold(sequence, grown)
        return True

    def _take_over(self, donor: Donor, sequence: Sequence, capacity: int) -> None:
        """Let `sequence` hold the extent of a kept donor from now on; what it has in common stays lent."""
        key = self._cache.key_of(donor.sequence)
        extent = self._drop(donor.sequence)
        self._hold(sequence, self._allocator.shrink(extent, min(extent.capacity, capacity)))
        sequence.computed = donor.tokens
        self._cache.lend(sequence, key.scope)
        if capacity > extent.capacity:
            self.widen(sequence, capacity)

    def _find_room(self, capacity: int, beside: Sequence | None) -> Extent | None:
        """An extent of `capacity` tokens. None: there is no room for it `beside` a kept sequence that is to stay."""
        extent = self._allocator.allocate(capacity)
        if extent is not None:
            return extent
        blocks = self._blocks(spared=beside)
        clearing = cheapest_clearing(blocks, capacity, self._allocator.capacity)
        if beside is not None:
            cleared = blocks[clearing.first : clearing.last + 1] if clearing is not None else blocks
            if any(block.extent == beside.extent for block in cleared):
                return None
        assert clearing is not None, "more than is free"
        self._clear(blocks, clearing, clearing.last + 1)
        return self._allocator.allocate(capacity)

    def _blocks(self, spared: Sequence | None = None) -> list[Block]:
        """What stands in the arena, in order; the extent of `spared` counts as one where a row lives."""
        blocks: list[Block] = []
        for extent in self._allocator.used:
            holder = self._holders[extent]
            last_used = None if holder is spared else self._cache.last_used(holder)
            blocks.append(Block(extent, holder.computed if last_used is None else 0, last_used))
        return blocks

    def _clear(self, blocks: list[Block], clearing: Clearing, split: int) -> None:
        """Evict the kept extents of a stretch and move its rows apart: blocks before `split` down, the others up."""
        stretch = blocks[clearing.first : clearing.last + 1]
        stay = [block for block in stretch if block.last_used is None]
        for block in stretch:
            if block.last_used is not None:
                self._evict(self._holders[block.extent])
        below = sum(block.last_used is None for block in blocks[clearing.first : split])
        moves = self._allocator.part(clearing.first, clearing.first + len(stay) - 1, clearing.first + below)
        self.clearings += bool(moves)
        moved = [self._holders.pop(move.source) for move in moves]
        for move, sequence in zip(moves, moved, strict=True):
            self._move(sequence, move.target)
            self._hold(sequence, move.target)

    def _evict(self, sequence: Sequence) -> None:
        self._allocator.free(self._drop(sequence))

    def _drop(self, kept: Sequence) -> Extent:
        self._cache.withdraw(kept)
        self._kept_tokens -= kept.computed
        return self._release(kept)

    def _move(self, sequence: Sequence, target: Extent) -> None:
        if sequence.computed:
            self.moved_tokens += sequence.computed
            sequence.computed = self._copied(sequence, target, sequence.computed)
            if not sequence.computed:
                self._cache.withdraw(sequence)

    def _copied(self, source: Sequence, target: Extent, tokens: int) -> int:
        """Copy the first `tokens` tokens of `source`. How many stand there now: all, or none for want of memory."""
        assert source.extent is not None
        try:
            self._engine.copy_kv(source.extent, target, tokens)
        except OutOfMemory:
            return 0
        return tokens
