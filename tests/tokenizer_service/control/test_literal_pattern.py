from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenizer_service.control.literal_pattern import LiteralParts, literal_pattern

TEXTS = st.text("<ab|.", max_size=12)
LITERALS = st.sets(st.text("<ab|.", min_size=1, max_size=4), max_size=6)


def leftmost_longest(literals: set[str], text: str) -> list[str]:
    """The same by trying every literal at every position."""
    found, at = [], 0
    while at < len(text):
        longest = max((literal for literal in literals if text.startswith(literal, at)), key=len, default="")
        found += [longest] if longest else []
        at += len(longest) or 1
    return found


@given(LITERALS, TEXTS)
def test_the_leftmost_then_longest_literals_are_found(literals, text):
    assert literal_pattern(literals).findall(text) == leftmost_longest(literals, text)


@given(LITERALS, TEXTS)
def test_splitting_gives_text_and_literals_in_turn(literals, text):
    parts = literal_pattern(literals).split(text)
    assert "".join(parts) == text
    assert parts[1::2] == leftmost_longest(literals, text)


@given(LITERALS, TEXTS)
def test_the_longest_parts_at_the_borders_of_a_text_are_found(literals, text):
    proper = [(literal, at) for literal in literals for at in range(1, len(literal))]
    heads = [len(literal) - at for literal, at in proper if text.startswith(literal[at:])]
    tails = [at for literal, at in proper if text.endswith(literal[:at])]
    parts = LiteralParts(literals)
    assert (parts.head(text), parts.tail(text)) == (max(heads, default=0), max(tails, default=0))


@given(LITERALS, TEXTS)
def test_a_text_inside_a_literal_is_found(literals, text):
    longest = max(map(len, literals), default=0)
    is_inside = bool(text) and len(text) < longest and any(text in literal for literal in literals)
    assert LiteralParts(literals).is_inside(text) == is_inside


def test_thousands_of_literals_make_one_pattern():
    literals = [f"<unused{number}>" for number in range(6000)]
    text = "<unused12><unused5999><unused6000>"
    assert literal_pattern(literals).findall(text) == ["<unused12>", "<unused5999>"]
