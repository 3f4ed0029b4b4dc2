from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenizer_service.control.literal_pattern import PrefixTails, literal_pattern

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
def test_the_longest_end_that_begins_a_literal_is_found(literals, text):
    ends = [text[at:] for at in range(len(text))]
    begins = [end for end in ends if any(literal.startswith(end) and literal != end for literal in literals)]
    expected = max((end for end in begins if not end.isalnum()), key=len, default="")
    assert text[PrefixTails(literals).start(text) :] == expected


def test_thousands_of_literals_make_one_pattern():
    literals = [f"<unused{number}>" for number in range(6000)]
    text = "<unused12><unused5999><unused6000>"
    assert literal_pattern(literals).findall(text) == ["<unused12>", "<unused5999>"]
