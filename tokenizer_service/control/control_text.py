"""A text in which it is known which control tokens count as such."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text: plain text, or (`is_control`) the literal of a control token that acts as one."""

    text: str
    is_control: bool = False


class ControlText:
    """The pieces of a text, and their form for the renamed tokenizer, where control literals bear secret names."""

    def __init__(self, pieces: Sequence[Piece], names: Mapping[str, str]) -> None:
        self.pieces = pieces
        self._renamed = [names[piece.text] if piece.is_control else piece.text for piece in pieces]
        self.renamed = "".join(self._renamed)

    def __str__(self) -> str:
        """The text as it reads."""
        return "".join(piece.text for piece in self.pieces)

    def holds(self, parts: Collection[str]) -> bool:
        """Whether one of the control tokens is longer than one of `parts` and holds it."""
        literals = {piece.text for piece in self.pieces if piece.is_control}
        return any(part in literal and part != literal for part in parts for literal in literals)

    def spans(self) -> list[tuple[int, int]]:
        """Return where each piece stands in `renamed` (start, end; characters)."""
        ends = list(accumulate(map(len, self._renamed)))
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def original_offsets(self, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Turn token offsets in `renamed` into those in the text as it reads, with its literals."""
        renamed_starts = [start for start, _ in self.spans()]
        ends = list(accumulate(len(piece.text) for piece in self.pieces))

        def original(position: int) -> int:
            index = max(0, bisect_right(renamed_starts, position) - 1)
            start = ends[index] - len(self.pieces[index].text)
            return min(start + position - renamed_starts[index], ends[index])

        return [(original(start), original(end)) for start, end in offsets]
