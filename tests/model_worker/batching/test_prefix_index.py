from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_worker.batching.prefix_index import PrefixIndex, PrefixKey, Scope, prefix_key
from tests.model_worker.generation_support import ids_of

ANY: Scope = ("", "", 0)


def key(*ids: int, scope: Scope = ANY) -> PrefixKey:
    return prefix_key(scope, ids_of(*ids))


def test_the_longest_prefix_wins() -> None:
    index: PrefixIndex[str] = PrefixIndex()
    index.add(key(1, 2, 3, 4), "four")
    index.add(key(1, 2, 9), "two")
    index.add(key(5), "none")
    assert index.longest(key(1, 2, 3, 7)) == (3, "four")
    assert index.longest(key(1, 2, 9, 9)) == (3, "two")
    assert index.longest(key(6)) is None


def test_ids_are_compared_as_wholes_not_byte_by_byte() -> None:
    index: PrefixIndex[str] = PrefixIndex()
    index.add(key(0x01020304), "one")
    assert index.longest(key(0x05020304)) is None


@pytest.mark.parametrize("other", [("lora", "", 0), ("", "tenant", 0), ("", "", 1), ("", "\0", 0)])
def test_scopes_share_nothing(other: Scope) -> None:
    index: PrefixIndex[str] = PrefixIndex()
    index.add(key(1, 2, 3, scope=other), "theirs")
    assert index.longest(key(1, 2, 3)) is None
    index.add(key(1), "ours")
    assert index.longest(key(1, 2, 3)) == (1, "ours")


def test_a_key_may_have_several_holders() -> None:
    index: PrefixIndex[str] = PrefixIndex()
    for holder in ("one", "two"):
        index.add(key(1, 2), holder)
    index.remove(key(1, 2), "one")
    assert index.longest(key(1, 2)) == (2, "two")
    index.remove(key(1, 2), "two")
    assert len(index) == 0


KEYS = st.builds(
    lambda ids, salt: key(*ids, scope=("", salt, 0)),
    st.lists(st.integers(0, 2) | st.sampled_from([256, 1 << 24]), min_size=1, max_size=6),
    st.sampled_from(["", "a"]),
)


@given(st.lists(KEYS, max_size=12), st.lists(st.integers(0, 11), max_size=4), KEYS)
def test_a_look_up_finds_what_comparing_with_everything_finds(
    keys: list[PrefixKey], removed: list[int], wanted: PrefixKey
) -> None:
    index: PrefixIndex[int] = PrefixIndex()
    left = dict(enumerate(keys))
    for number, one in left.items():
        index.add(one, number)
    for number in removed:
        if number in left:
            index.remove(left.pop(number), number)
    found = index.longest(wanted)
    assert (found[0] if found else 0) == max((common(one, wanted) for one in left.values()), default=0)
    assert found is None or common(left[found[1]], wanted) == found[0]


def common(one: PrefixKey, other: PrefixKey) -> int:
    """The shared ids, counted one by one."""
    if one.scope != other.scope:
        return 0
    ids, others = memoryview(one.ids).cast("i"), memoryview(other.ids).cast("i")
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(ids, others, strict=False))))


def test_the_longest_prefix_is_found_among_hundreds_of_long_prompts() -> None:
    shared = list(range(7000))
    index: PrefixIndex[int] = PrefixIndex()
    for number in range(500):
        index.add(key(*shared, number, *range(1000)), number)
    for number in range(0, 500, 10):
        assert index.longest(key(*shared, number, 1, 2)) == (7001, number)
