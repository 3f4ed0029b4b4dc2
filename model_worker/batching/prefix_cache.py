"""Whose K/V another row may start from: those of rows that run and, until their space is needed, of rows that ended.

K/V are lent only once a token was drawn from them, which proves that they are numbers: what a fault has poisoned is
never handed on. Rows share within a scope only: the same adapter and salt and, where nothing is to be kept, request.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from model_worker.batching.prefix_index import PrefixIndex, PrefixKey, Scope, prefix_key
from model_worker.sequence import Sequence


class Donor(NamedTuple):
    """A sequence whose leading K/V can be used."""

    sequence: Sequence
    tokens: int  # so many, at least one


class PrefixCache:
    """Sequences with K/V to share. Owned by the generation thread; it knows who has what, never where it stands."""

    def __init__(self, *, keeps_ended: bool) -> None:
        self._keeps_ended = keeps_ended
        self._index: PrefixIndex[Sequence] = PrefixIndex()
        self._lent: dict[Sequence, PrefixKey] = {}  # the key of each sequence in the index
        self._kept: dict[Sequence, int] = {}  # of these, those that ended, with when they were last used
        self._uses = 0

    @property
    def kept(self) -> list[Sequence]:
        """The sequences that ended."""
        return list(self._kept)

    def key_of(self, sequence: Sequence) -> PrefixKey:
        """Under which key the K/V of a lent sequence are found."""
        return self._lent[sequence]

    def last_used(self, sequence: Sequence) -> int | None:
        """When a kept sequence was last of use, as a number that only grows; None: it is not a kept one."""
        return self._kept.get(sequence)

    def donor_for(self, key: PrefixKey) -> Donor | None:
        """Who has the K/V of the most leading ids of `key`, but for the last one: a row computes at least one token."""
        found = self._index.longest(key)
        if found is None or key.tokens == 1:
            return None
        common, sequence = found
        self._touch(sequence)
        return Donor(sequence, min(common, key.tokens - 1))

    def lend(self, sequence: Sequence, scope: Scope) -> None:
        """Let others use what `sequence` has computed so far, and drawn a token from."""
        self.withdraw(sequence)
        key = prefix_key(scope, sequence.ids[: sequence.computed])
        self._lent[sequence] = key
        self._index.add(key, sequence)

    def withdraw(self, sequence: Sequence) -> None:
        """Nobody is to use the K/V of `sequence` any more; one that was never lent stays so."""
        self._kept.pop(sequence, None)
        key = self._lent.pop(sequence, None)
        if key is not None:
            self._index.remove(key, sequence)

    def keep(self, sequence: Sequence, *, drawn: bool) -> Sequence | None:
        """What is to be kept of `sequence`, whose row lets go of it: one that stands for what may be lent of it now.

        That is all it has computed if a token was `drawn` from it; else only what it had taken over from another one.
        None: nothing is kept, it was not lent, or a kept one has all of it already.
        """
        lent = self._lent.get(sequence)
        self.withdraw(sequence)
        if lent is None or not self._keeps_ended:
            return None
        tokens = sequence.computed if drawn else lent.tokens
        found = self._index.longest(prefix_key(lent.scope, sequence.ids[:tokens]))
        if found is not None and found[0] == tokens and found[1] in self._kept:
            self._touch(found[1])
            return None
        kept = replace(sequence, computed=tokens)
        self.lend(kept, lent.scope)
        self._kept[kept] = 0
        self._touch(kept)
        return kept

    def _touch(self, sequence: Sequence) -> None:
        if sequence in self._kept:
            self._uses += 1
            self._kept[sequence] = self._uses
