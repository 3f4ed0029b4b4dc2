"""StopMatcher against a naive search, at every cut of the text."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.text.stop_strings import StopMatcher, StopStrings


def naive(text: str, stop_strings: list[str], *, include_stop: bool) -> tuple[str, str | None]:
    """Try every end, the first one first, and the longest string at that end."""
    for end in range(1, len(text) + 1):
        matches = [stop for stop in stop_strings if text[:end].endswith(stop)]
        if matches:
            stop = max(matches, key=len)
            return text[: end if include_stop else end - len(stop)], stop
    return text, None


def matched(parts: list[str], stop_strings: list[str], *, include_stop: bool) -> tuple[str, str | None]:
    matcher = StopMatcher(StopStrings(stop_strings), include_stop=include_stop)
    said = ""
    for part in parts:
        scan = matcher.push(part)
        said += scan.text
        if scan.match:
            return said, scan.match.stop_string
    return said + matcher.flush(), None


few_letters = st.text("abé", max_size=24)
stop_lists = st.lists(st.text("abé", min_size=1, max_size=5), max_size=8)


@settings(max_examples=150)
@given(few_letters, stop_lists, st.booleans(), st.lists(st.integers(0, 24), max_size=6))
def test_any_cut_of_any_text_gives_what_the_naive_search_gives(
    text: str, stop_strings: list[str], include_stop: bool, cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[start:end] for start, end in pairwise(edges)]
    expected = naive(text, stop_strings, include_stop=include_stop)
    assert matched(parts, stop_strings, include_stop=include_stop) == expected


@settings(max_examples=100)
@given(few_letters, stop_lists)
def test_exactly_the_text_that_may_begin_a_match_is_held_back(text: str, stop_strings: list[str]) -> None:
    matcher = StopMatcher(StopStrings(stop_strings))
    said = ""
    for end, character in enumerate(text, 1):
        scan = matcher.push(character)
        if scan.match:
            break
        said += scan.text
        beginnings = {stop[:length] for stop in stop_strings for length in range(len(stop))}
        held = max((len(part) for part in beginnings if text[:end].endswith(part)), default=0)
        assert said == text[: end - held]


def test_the_match_completed_first_wins_though_another_began_before() -> None:
    assert matched(["xabcd"], ["abcd", "bc"], include_stop=False) == ("xa", "bc")


def test_of_matches_completed_together_the_longest_wins_in_any_order() -> None:
    for stop_strings in (["b", "ab"], ["ab", "b"]):
        assert matched(["xab"], stop_strings, include_stop=False) == ("x", "ab")
        assert matched(["xab"], stop_strings, include_stop=True) == ("xab", "ab")


def test_text_after_the_match_is_cut_off_with_and_without_the_stop_string() -> None:
    assert matched(["one\n", "User: two"], ["\nUser:"], include_stop=False) == ("one", "\nUser:")
    assert matched(["one\n", "User: two"], ["\nUser:"], include_stop=True) == ("one\nUser:", "\nUser:")


def test_nothing_is_held_back_for_a_stop_string_that_stays_in_the_text() -> None:
    assert StopMatcher(StopStrings(["end."]), include_stop=True).push("the en").text == "the en"


def test_skipped_matches_are_text_but_a_match_may_begin_in_skipped_text() -> None:
    matcher = StopMatcher(StopStrings(["aXb"]))
    assert matcher.skip("aXb a") == "aXb "
    assert matcher.push("Xb").match is not None


def test_after_a_skipped_match_only_what_can_still_match_is_held() -> None:
    assert StopMatcher(StopStrings(["ab"])).skip("xab") == "xab"
    matcher = StopMatcher(StopStrings(["aba", "abac"]))
    assert matcher.skip("xaba") == "x"
    assert matcher.push("b").text == "ab"
    assert matcher.flush() == "ab"


@pytest.mark.parametrize("special", ["]", "^", "-", "\\", "[", "\n", "|"])
def test_characters_with_a_meaning_in_patterns_are_only_themselves(special: str) -> None:
    stop_strings = [special, "a-c"]
    assert matched(["b" + special], stop_strings, include_stop=False) == ("b", special)


def test_the_worst_stop_strings_take_linear_time() -> None:
    stop_strings = ["a" * 239 + letter for letter in "bcdefghi"]
    matcher = StopMatcher(StopStrings(stop_strings))
    before = time.process_time()
    said = sum(len(matcher.push("aaaa").text) for _ in range(25_000)) + len(matcher.flush())
    assert said == 100_000
    assert time.process_time() - before < 3  # a quadratic search compares 190 million characters
