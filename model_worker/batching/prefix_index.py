"""Finds who shares the longest prefix with a given list of ids: a sorted list, and a look at two neighbours.

In any order that compares keys from the left, nobody shares more with a key than one of the two that would stand next
to it. So a look-up is a binary search and two comparisons, whatever stands in the index; and because the ids themselves
are compared, never a hash of them, a prefix is shared or it is not.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Generic, NamedTuple, TypeAlias, TypeVar

Scope: TypeAlias = tuple[str, str, int]  # adapter, salt, request (0: any); ids of different scopes share nothing
Holder = TypeVar("Holder")
_ID_BYTES = array("i").itemsize


class PrefixKey(NamedTuple):
    """Token ids within a scope."""

    scope: Scope
    ids: bytes  # of an array("i"): one comparison of memory compares them all

    @property
    def tokens(self) -> int:
        """How many ids it has."""
        return len(self.ids) // _ID_BYTES

    def common_tokens(self, other: PrefixKey) -> int:
        """How many leading ids the two share; none in different scopes."""
        if self.scope != other.scope:
            return 0
        agree, end = 0, min(self.tokens, other.tokens)  # [0, agree) is the same, [end, ...) is not or is not there
        while agree < end:
            middle = (agree + end + 1) // 2
            piece = slice(agree * _ID_BYTES, middle * _ID_BYTES)
            if self.ids[piece] == other.ids[piece]:
                agree = middle
            else:
                end = middle - 1
        return agree


def prefix_key(scope: Scope, ids: array[int]) -> PrefixKey:
    """The key of `ids`, an array("i")."""
    return PrefixKey(scope, ids.tobytes())


class PrefixIndex(Generic[Holder]):
    """Keys with their holders; a key may have several."""

    def __init__(self) -> None:
        self._keys: list[PrefixKey] = []  # sorted
        self._holders: list[Holder] = []  # of each key

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: PrefixKey, holder: Holder) -> None:
        """Add a key with its holder."""
        at = bisect_right(self._keys, key)
        self._keys.insert(at, key)
        self._holders.insert(at, holder)

    def remove(self, key: PrefixKey, holder: Holder) -> None:
        """Take away what was added."""
        at = self._holders.index(holder, bisect_left(self._keys, key))
        assert self._keys[at] == key
        del self._keys[at], self._holders[at]

    def longest(self, key: PrefixKey) -> tuple[int, Holder] | None:
        """How many leading tokens of `key` are known, and who has them; None where it is not a single one."""
        at = bisect_left(self._keys, key)
        best, holder_at = 0, 0
        for neighbour in range(max(0, at - 1), min(at + 1, len(self._keys))):
            common = self._keys[neighbour].common_tokens(key)
            if common > best:
                best, holder_at = common, neighbour
        return (best, self._holders[holder_at]) if best else None
