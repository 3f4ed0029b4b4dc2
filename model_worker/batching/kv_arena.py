"""Who holds which part of the K/V arena. Gives, widens, moves and takes back extents; the engine copies the K/V."""

from __future__ import annotations

from model_worker.batching.extents import ExtentAllocator
from model_worker.engine import Engine
from model_worker.sequence import Extent, Sequence


class KvArena:
    """The arena's extents and their holders. Owned by the generation thread.

    Any request for at most `free_tokens` succeeds: where the gaps are too small one by one, rows are moved together.
    That copies up to the whole arena once, which is why it is the last resort.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._allocator = ExtentAllocator(engine.spec.kv_capacity_tokens)
        self._holders: dict[Extent, Sequence] = {}

    @property
    def free_tokens(self) -> int:
        """Tokens nobody holds."""
        return self._allocator.free_tokens

    @property
    def used_tokens(self) -> int:
        """Tokens held."""
        return self._allocator.capacity - self._allocator.free_tokens

    @property
    def gaps(self) -> tuple[Extent, ...]:
        """The free ranges, ascending."""
        return self._allocator.gaps

    def give(self, sequence: Sequence, capacity: int) -> None:
        """Give `sequence`, which holds nothing, an extent of `capacity` tokens; at most `free_tokens`."""
        assert sequence.extent is None
        extent = self._allocator.allocate(capacity)
        if extent is None:
            self._gather_gaps(None)
            extent = self._allocator.allocate(capacity)
        assert extent is not None, "more than is free"
        self._hold(sequence, extent)

    def widen(self, sequence: Sequence, capacity: int) -> None:
        """Widen the extent of `sequence` to `capacity`, at most `free_tokens` more. It may move, with its K/V."""
        if self._widen_in_place(sequence, capacity):
            return
        old = sequence.extent
        assert old is not None
        elsewhere = self._allocator.allocate(capacity)
        if elsewhere is None:
            self._gather_gaps(old)
            widened = self._widen_in_place(sequence, capacity)
            assert widened, "more than is free"
            return
        self._copy(sequence, elsewhere)
        self.take_back(sequence)
        self._hold(sequence, elsewhere)

    def share(self, donor: Sequence, receiver: Sequence, tokens: int) -> None:
        """Copy the K/V of the first `tokens` ids, which both have in common, from `donor` to `receiver`."""
        assert donor.extent is not None
        assert receiver.extent is not None
        assert donor.computed >= tokens
        self._engine.copy_kv(donor.extent, receiver.extent, tokens)
        receiver.computed = tokens

    def take_back(self, sequence: Sequence) -> None:
        """Free the extent of `sequence`; nothing of it is computed any more as far as the arena knows."""
        assert sequence.extent is not None
        del self._holders[sequence.extent]
        self._allocator.free(sequence.extent)
        sequence.extent = None

    def clear(self, sequence: Sequence) -> None:
        """Zero the K/V of a sequence that failed, before its extent goes to another."""
        assert sequence.extent is not None
        self._engine.clear_kv(sequence.extent)

    def _hold(self, sequence: Sequence, extent: Extent) -> None:
        self._holders[extent] = sequence
        sequence.extent = extent

    def _widen_in_place(self, sequence: Sequence, capacity: int) -> bool:
        assert sequence.extent is not None
        grown = self._allocator.grow(sequence.extent, capacity)
        if grown is None:
            return False
        del self._holders[sequence.extent]
        self._hold(sequence, grown)
        return True

    def _gather_gaps(self, after: Extent | None) -> None:
        moves = self._allocator.gather_gaps(after)
        moved = [self._holders.pop(move.source) for move in moves]
        for move, sequence in zip(moves, moved, strict=True):
            self._copy(sequence, move.target)
            self._hold(sequence, move.target)

    def _copy(self, sequence: Sequence, target: Extent) -> None:
        assert sequence.extent is not None
        if sequence.computed:
            self._engine.copy_kv(sequence.extent, target, sequence.computed)
