from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from model_worker.batching.clearing import Block, Clearing, cheapest_clearing
from model_worker.sequence import Extent


def arena(*layout: tuple[str, int]) -> tuple[list[Block], int]:
    """Blocks and the arena's size: ("row", 5), ("gap", 3), and kept extents by when they were used: ("7", 4)."""
    blocks, at = [], 0
    for what, tokens in layout:
        if what == "row":
            blocks.append(Block(Extent(at, tokens), tokens, None))
        elif what != "gap":
            blocks.append(Block(Extent(at, tokens), 0, int(what)))
        at += tokens
    return blocks, at


def test_kept_extents_give_way_before_a_row_moves() -> None:
    blocks, tokens = arena(("gap", 4), ("row", 1), ("gap", 4), ("row", 9), ("5", 8))
    assert cheapest_clearing(blocks, 8, tokens) == Clearing(2, 2, 0, 5)


def test_the_stretch_whose_newest_extent_is_oldest_gives_way() -> None:
    blocks, tokens = arena(("1", 5), ("9", 5), ("row", 5), ("4", 5), ("3", 5))
    assert cheapest_clearing(blocks, 8, tokens) == Clearing(3, 4, 0, 4)
    assert cheapest_clearing(blocks, 5, tokens) == Clearing(0, 0, 0, 1)


def test_gaps_around_and_between_count() -> None:
    blocks, tokens = arena(("row", 5), ("gap", 2), ("1", 3), ("gap", 2), ("2", 3), ("gap", 2), ("row", 5))
    assert cheapest_clearing(blocks, 7, tokens) == Clearing(1, 1, 0, 1)
    assert cheapest_clearing(blocks, 12, tokens) == Clearing(1, 2, 0, 2)


def test_the_fewest_tokens_move() -> None:
    blocks, tokens = arena(("gap", 3), ("row", 9), ("gap", 3), ("row", 2), ("gap", 3), ("row", 9))
    assert cheapest_clearing(blocks, 6, tokens) == Clearing(1, 1, 2, 0)


def test_a_row_grows_over_the_kept_extent_behind_it() -> None:
    blocks, tokens = arena(("1", 9), ("row", 5), ("7", 9), ("row", 5))
    assert cheapest_clearing(blocks, 4, tokens, growing=1) == Clearing(2, 2, 0, 7)


def test_a_row_that_grows_may_slide_down_itself() -> None:
    blocks, tokens = arena(("row", 9), ("1", 9), ("row", 5), ("row", 6), ("gap", 4))
    assert cheapest_clearing(blocks, 4, tokens, growing=2) == Clearing(1, 2, 5, 1)


def test_where_rows_fill_everything_there_is_no_clearing() -> None:
    blocks, tokens = arena(("row", 9), ("gap", 2), ("row", 5), ("1", 1))
    assert cheapest_clearing(blocks, 4, tokens) is None
    assert cheapest_clearing(blocks, 4, tokens, growing=1) is None
    assert cheapest_clearing([], 4, 3) is None


LAYOUTS = st.lists(
    st.tuples(st.sampled_from(["row", "gap"]) | st.integers(1, 9).map(str), st.integers(1, 9)), min_size=1, max_size=8
)


@given(LAYOUTS, st.integers(1, 20), st.integers(0, 9))
def test_no_other_stretch_is_cheaper(layout: list[tuple[str, int]], needed: int, choice: int) -> None:
    blocks, tokens = arena(*layout)
    growing = choice if choice < len(blocks) and blocks[choice].last_used is None else None
    found = cheapest_clearing(blocks, needed, tokens, growing)
    lowest = [clearing for clearing in all_clearings(blocks, tokens, needed) if fits(clearing, growing)]
    assert (found[2:] if found else None) == min((clearing[2:] for clearing in lowest), default=None)
    assert found is None or found in lowest


def fits(clearing: Clearing, growing: int | None) -> bool:
    return growing is None or clearing.first - 1 <= growing <= clearing.last


def all_clearings(blocks: list[Block], tokens: int, needed: int) -> list[Clearing]:
    """Every stretch that is large enough, by trying all of them."""
    found = []
    for first in range(len(blocks) + 1):
        for last in range(first - 1, len(blocks)):
            begin = blocks[first - 1].extent.start + blocks[first - 1].extent.capacity if first else 0
            end = blocks[last + 1].extent.start if last + 1 < len(blocks) else tokens
            inside = blocks[first : last + 1]
            if end - begin - sum(block.extent.capacity for block in inside if block.last_used is None) >= needed:
                moved = sum(block.computed for block in inside)
                found.append(Clearing(first, last, moved, max((block.last_used or 0 for block in inside), default=0)))
    return found
