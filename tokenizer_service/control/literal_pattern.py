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


class PrefixTails:
    """Finds the end of a text with which one of the `literals` begins without being whole, as in "hello <|im_".

    Ends of letters and digits only are not counted: half the words of a language would be such ends if one literal
    began with a letter.
    """

    def __init__(self, literals: Iterable[str]) -> None:
        prefixes = {literal[:length] for literal in literals for length in range(1, len(literal))}
        self._prefixes = frozenset(prefix for prefix in prefixes if not prefix.isalnum())
        self._longest = max(map(len, self._prefixes), default=0)

    def start(self, text: str) -> int:
        """Return where the longest such end begins; `len(text)` without one."""
        earliest = max(0, len(text) - self._longest)
        return next((at for at in range(earliest, len(text)) if text[at:] in self._prefixes), len(text))
