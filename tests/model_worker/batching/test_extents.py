from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model_worker.batching.extents import ExtentAllocator
from model_worker.sequence import Extent


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


def side_by_side(*capacities: int) -> tuple[ExtentAllocator, list[Extent]]:
    """An arena of 100 tokens that begins with these extents, without a gap between them."""
    allocator = ExtentAllocator(100)
    for count, capacity in enumerate(capacities, start=1):
        assert allocator.allocate(capacity)
        allocator.part(0, count - 1, count)
    return allocator, list(allocator.used)


def test_a_new_extent_stands_in_the_middle_of_the_largest_gap_where_all_can_grow() -> None:
    allocator = ExtentAllocator(100)
    extents = [allocator.allocate(20), allocator.allocate(20)]
    assert extents == [Extent(0, 20), Extent(50, 20)]
    assert allocator.grow(extents[0], 50) == Extent(0, 50)
    assert allocator.grow(extents[1], 50) == Extent(50, 50)


def test_none_is_returned_when_no_single_gap_is_large_enough() -> None:
    allocator, (_, second, _, fourth) = side_by_side(25, 25, 25, 25)
    allocator.free(second)
    allocator.free(fourth)
    assert allocator.free_tokens == 50
    assert allocator.allocate(26) is None
    assert allocator.allocate(25) is not None


def test_a_freed_extent_merges_with_both_neighbours() -> None:
    allocator, (first, second, third, _) = side_by_side(10, 10, 10, 70)
    allocator.free(first)
    allocator.free(third)
    allocator.free(second)
    assert allocator.gaps == (Extent(0, 30),)


def test_an_extent_grows_in_place_into_the_gap_behind_it() -> None:
    allocator, (first, second, third) = side_by_side(10, 10, 10)
    allocator.free(second)
    assert allocator.grow(first, 20) == Extent(0, 20)
    assert allocator.grow(third, 40) == Extent(20, 40)
    check(allocator, [Extent(0, 20), Extent(20, 40)])


def test_an_extent_does_not_grow_over_its_neighbour() -> None:
    allocator, (first, second, _) = side_by_side(10, 10, 10)
    assert allocator.grow(first, 11) is None
    allocator.free(second)
    assert allocator.grow(first, 21) is None
    assert allocator.grow(first, 20) == Extent(0, 20)


def test_the_end_of_an_extent_can_be_given_back() -> None:
    allocator, (first, second, _) = side_by_side(30, 30, 40)
    assert allocator.shrink(first, 30) == first
    assert allocator.shrink(second, 10) == Extent(30, 10)
    assert allocator.gaps == (Extent(40, 20),)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["allocate", "free", "grow", "shrink", "part"]), st.integers(1, 40), st.integers(0, 9)),
    max_size=60,
)


@given(OPERATIONS)
def test_extents_never_overlap_keep_their_contents_and_everything_freed_is_one_gap(
    operations: list[tuple[str, int, int]],
) -> None:
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
        elif operation == "shrink" and extent:
            used[used.index(extent)] = allocator.shrink(extent, max(1, extent.capacity - tokens))
        elif operation == "part" and extent:
            used = check_part(allocator, sorted((choice % len(used), tokens % len(used))), tokens)
        used.sort(key=lambda one: one.start)
        check(allocator, used)
        assert list(allocator.used) == used
    for extent in used:
        allocator.free(extent)
    assert allocator.gaps == (Extent(0, 100),)


def check_part(allocator: ExtentAllocator, stretch: list[int], choice: int) -> list[Extent]:
    """Part a stretch of the extents, move their contents as told, and return where they stand."""
    (first, last), before = stretch, allocator.used
    cells: list[int] = [-1] * 100
    for label, extent in enumerate(before):
        cells[extent.start : extent.start + extent.capacity] = [label] * extent.capacity
    split = first + choice % (last - first + 2)
    for source, target in allocator.part(first, last, split):
        assert source != target
        cells[target.start : target.start + target.capacity] = cells[source.start : source.start + source.capacity]
    after = allocator.used
    for label, extent in enumerate(after):
        assert cells[extent.start : extent.start + extent.capacity] == [label] * extent.capacity
    assert after[:first] + after[last + 1 :] == before[:first] + before[last + 1 :]
    inside = [gap for gap in allocator.gaps if begin(after, first) <= gap.start < end(after, last)]
    assert len(inside) <= 1
    assert all(gap.start == begin(after, split) for gap in inside)
    return list(after)


def begin(extents: tuple[Extent, ...], index: int) -> int:
    """Where the room before an extent begins."""
    return extents[index - 1].start + extents[index - 1].capacity if index else 0


def end(extents: tuple[Extent, ...], index: int) -> int:
    """Where the room behind an extent ends."""
    return extents[index + 1].start if index + 1 < len(extents) else 100
