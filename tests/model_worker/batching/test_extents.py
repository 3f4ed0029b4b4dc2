from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model_worker.batching.extents import ExtentAllocator
from model_worker.sequence import Extent


def filled(*capacities: int, arena: int = 100) -> tuple[ExtentAllocator, list[Extent]]:
    allocator = ExtentAllocator(arena)
    extents = [allocator.allocate(capacity) for capacity in capacities]
    assert None not in extents
    return allocator, extents


def check(allocator: ExtentAllocator, used: list[Extent]) -> None:
    """Extents and gaps tile the arena without overlap, and no two gaps touch."""
    ranges = sorted([*used, *allocator.gaps], key=lambda extent: extent.start)
    end = 0
    for extent in ranges:
        assert extent.start == end
        assert extent.capacity > 0
        end += extent.capacity
    assert end == allocator.capacity
    assert allocator.free_tokens == sum(gap.capacity for gap in allocator.gaps)
    for earlier, later in zip(allocator.gaps, allocator.gaps[1:], strict=False):
        assert earlier.start + earlier.capacity < later.start


def test_the_smallest_gap_that_fits_is_taken() -> None:
    allocator, (first, _, third, _) = filled(30, 10, 20, 10)
    allocator.free(first)
    allocator.free(third)
    assert allocator.allocate(15) == Extent(40, 15)


def test_none_is_returned_when_no_single_gap_is_large_enough() -> None:
    allocator, (_, second, _, fourth) = filled(25, 25, 25, 25)
    allocator.free(second)
    allocator.free(fourth)
    assert allocator.free_tokens == 50
    assert allocator.allocate(26) is None


def test_a_freed_extent_merges_with_both_neighbours() -> None:
    allocator, (first, second, third, _) = filled(10, 10, 10, 70)
    allocator.free(first)
    allocator.free(third)
    allocator.free(second)
    assert allocator.gaps == (Extent(0, 30),)


def test_an_extent_grows_in_place_into_the_gap_behind_it() -> None:
    allocator, (first, second, third) = filled(10, 10, 10)
    allocator.free(second)
    assert allocator.grow(first, 20) == Extent(0, 20)
    assert allocator.grow(third, 40) == Extent(20, 40)
    check(allocator, [Extent(0, 20), Extent(20, 40)])


def test_an_extent_does_not_grow_over_its_neighbour() -> None:
    allocator, (first, second, _) = filled(10, 10, 10)
    assert allocator.grow(first, 11) is None
    allocator.free(second)
    assert allocator.grow(first, 21) is None
    assert allocator.grow(first, 20) == Extent(0, 20)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["allocate", "free", "grow", "gather"]), st.integers(1, 40), st.integers(0, 9)),
    max_size=60,
)


@given(OPERATIONS)
def test_extents_never_overlap_and_everything_freed_is_one_gap(operations: list[tuple[str, int, int]]) -> None:
    allocator, used = ExtentAllocator(100), []
    for operation, tokens, choice in operations:
        extent = used[choice % len(used)] if used else None
        if operation == "allocate":
            gaps, given_extent = allocator.gaps, allocator.allocate(tokens)
            assert (given_extent is None) == all(gap.capacity < tokens for gap in gaps)
            used += [given_extent] if given_extent else []
        elif operation == "free" and extent:
            allocator.free(extent)
            used.remove(extent)
        elif operation == "grow" and extent:
            grown = allocator.grow(extent, extent.capacity + tokens)
            if grown:
                used[used.index(extent)] = grown
        elif operation == "gather":
            moves = {move.source: move.target for move in allocator.gather_gaps(extent)}
            used = [moves.get(one, one) for one in used]
        check(allocator, used)
    for extent in used:
        allocator.free(extent)
    assert allocator.gaps == (Extent(0, 100),)


@given(OPERATIONS, st.integers(0, 10))
def test_gathering_keeps_every_extents_contents_and_puts_all_gaps_behind_one(
    operations: list[tuple[str, int, int]], choice: int
) -> None:
    allocator, used = ExtentAllocator(100), []
    for operation, tokens, index in operations:
        if operation == "allocate" and (extent := allocator.allocate(tokens)):
            used.append(extent)
        elif operation == "free" and used:
            allocator.free(used.pop(index % len(used)))
    cells: list[int] = [-1] * 100
    for label, extent in enumerate(used):
        cells[extent.start : extent.start + extent.capacity] = [label] * extent.capacity
    after = used[choice] if choice < len(used) else None
    moves = allocator.gather_gaps(after)
    for source, target in moves:
        cells[target.start : target.start + target.capacity] = cells[source.start : source.start + source.capacity]
    places = dict(moves)
    used = [places.get(extent, extent) for extent in used]
    check(allocator, used)
    for label, extent in enumerate(used):
        assert cells[extent.start : extent.start + extent.capacity] == [label] * extent.capacity
    if allocator.free_tokens:
        (gap,) = allocator.gaps
        anchor = used[choice] if after is not None else max(used, key=lambda one: one.start, default=Extent(0, 0))
        assert gap.start == anchor.start + anchor.capacity
