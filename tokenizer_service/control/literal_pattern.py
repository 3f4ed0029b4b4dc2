"""Finding thousands of fixed strings in a text, fast enough for every text that comes in."""

from __future__ import annotations

import re
from collections.abc import Iterable


class _Node(dict[str, "_Node"]):
    """A node of a prefix tree: next character → node."""

    ends = False  # whether one of the strings ends here


def literal_pattern(literals: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that captures the leftmost, then longest, of the non-empty `literals`; without any, nothing.

    Its `split` therefore gives text and literals in turn. A plain alternation would try every branch at every `<`;
    a model may have six thousand added tokens that begin so.
    """
    root = _Node()
    for literal in literals:
        node = root
        for character in literal:
            node = node.setdefault(character, _Node())
        node.ends = True
    return re.compile(f"({_expression(root) or '(?!)'})")


def _expression(node: _Node) -> str:
    """Greedy, so that the longest string that fits is found first."""
    if not node:
        return ""
    branches = [re.escape(character) + _expression(child) for character, child in node.items()]
    alternatives = branches[0] if len(branches) == 1 and not node.ends else f"(?:{'|'.join(branches)})"
    return alternatives + "?" if node.ends else alternatives


class LiteralParts:
    """Finds where a text holds a part of one of the `literals` that the words around the text could complete."""

    def __init__(self, literals: Iterable[str]) -> None:
        literals = list(literals)
        self._prefixes = frozenset(literal[:at] for literal in literals for at in range(1, len(literal)))
        self._suffixes = frozenset(literal[at:] for literal in literals for at in range(1, len(literal)))
        self._longest = max(map(len, literals), default=0) - 1
        self._all = "\0".join(literals)

    def head(self, text: str) -> int:
        """Return the length of the longest beginning of `text` with which a literal ends, as in "end|> hello"."""
        longest = min(self._longest, len(text))
        return next((length for length in range(longest, 0, -1) if text[:length] in self._suffixes), 0)

    def tail(self, text: str) -> int:
        """Return the length of the longest end of `text` with which a literal begins, as in "hello <|im_"."""
        longest = min(self._longest, len(text))
        return next((length for length in range(longest, 0, -1) if text[-length:] in self._prefixes), 0)

    def is_inside(self, text: str) -> bool:
        """Whether a literal is longer than `text` and holds it, as "im_end"."""
        return 0 < len(text) <= self._longest and text in self._all
