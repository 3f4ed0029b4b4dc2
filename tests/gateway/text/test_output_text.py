"""Text and ids of an output end together, at the token that completes the first stop string."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.text.artefact import TokenizerArtefact
from gateway.text.detokenizer import Detokenizer, decode_output
from gateway.text.output_text import OutputText, Step
from gateway.text.stop_strings import StopMatcher, StopStrings
from gateway.text.token_logprob import TokenLogprob
from tests.gateway.artefacts_for_tests import byte_ids, chunk_sizes, chunks_of, family, ids_of, random_ids
from tests.tokenizers_for_tests import EOS, FAMILIES, TEXT

each_family = pytest.mark.parametrize("name", FAMILIES)


def output_of(
    artefact: TokenizerArtefact,
    stop_strings: list[str],
    tail: list[int],
    *,
    include_stop: bool = False,
    min_new_tokens: int = 0,
) -> OutputText:
    matcher = StopMatcher(StopStrings(stop_strings), include_stop=include_stop)
    return OutputText(Detokenizer(artefact, tail), matcher, min_new_tokens)


def logprob(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, -1.0, 1)


def total(output: OutputText, chunks: list[list[int]]) -> Step:
    steps = [*(output.push(chunk, list(map(logprob, chunk))) for chunk in chunks), output.finish()]
    stop_strings = [step.stop_string for step in steps if step.stop_string]
    assert len(stop_strings) <= 1
    ids = [token_id for step in steps for token_id in step.token_ids]
    for step in steps:
        assert [told.token_id for told in step.logprobs] == step.token_ids, "they leave with their ids"
    return Step("".join(step.text for step in steps), ids, *stop_strings)


def naive(artefact: TokenizerArtefact, stop_strings: list[str], tail: list[int], ids: list[int], minimum: int) -> Step:
    """Search the whole text; the completing token is the first after which the text up to the match is there."""
    whole = decode_output(artefact.tokenizer, tail, ids)
    texts = [decode_output(artefact.tokenizer, tail, ids[:count]) for count in range(len(ids) + 1)]
    for end in range(1, len(whole) + 1):
        matches = [stop for stop in stop_strings if whole[:end].endswith(stop)]
        if matches:
            count = next(count for count, text in enumerate(texts) if text.startswith(whole[:end]))
            if count >= minimum:
                stop = max(matches, key=len)
                return Step(whole[: end - len(stop)], ids[:count], stop)
    return Step(whole, ids)


@each_family
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_chunking_gives_what_a_search_of_the_whole_text_gives(name: str, data: st.DataObject) -> None:
    artefact = family(name)
    ids = data.draw(random_ids(artefact, 24), "ids")
    tail = data.draw(random_ids(artefact, 6), "prompt tail")
    minimum = data.draw(st.integers(0, 12), "min_new_tokens")
    texts = st.lists(st.sampled_from(["e", "the", " f", "d f", "你", "好", "😀", "é\n", "\n", "ox"]), max_size=8)
    stop_strings = data.draw(texts, "stop strings")
    chunks = chunks_of(ids, data.draw(chunk_sizes, "chunks"))
    result = total(output_of(artefact, stop_strings, tail, min_new_tokens=minimum), chunks)
    assert result == naive(artefact, stop_strings, tail, ids, minimum)


@each_family
def test_a_stop_string_is_found_at_every_position_of_the_text_for_every_split_of_the_tokens(name: str) -> None:
    artefact = family(name)
    tail = artefact.tokenizer.encode(TEXT[1], add_special_tokens=False).ids[:4]
    ids = artefact.tokenizer.encode("A list of colors: red, Größe 😀 é. 你", add_special_tokens=False).ids
    whole = decode_output(artefact.tokenizer, tail, ids)
    for start in range(len(whole) - 3):
        stop_string = whole[start : start + 4]
        expected = naive(artefact, [stop_string], tail, ids, 0)
        assert expected.stop_string == stop_string
        for split in range(len(ids) + 1):
            output = output_of(artefact, [stop_string, "never to be found"], tail)
            assert total(output, [ids[:split], ids[split:]]) == expected


def test_ids_end_with_the_completing_token_though_its_text_is_trimmed() -> None:
    artefact = family("unigram")
    ids = ids_of(artefact, "▁quick", "▁brown", "▁fox")
    output = output_of(artefact, ["k b"], ids_of(artefact, "▁The"))
    assert output.push(ids) == Step(" quic", ids[:2], "k b")
    assert output.push(ids) == Step("", [], None)
    assert output.finish() == Step("", [], None)


def test_the_stop_string_stays_when_it_is_included() -> None:
    artefact = family("unigram")
    ids = ids_of(artefact, "▁quick", "▁brown", "▁fox")
    output = output_of(artefact, ["k b"], ids_of(artefact, "▁The"), include_stop=True)
    assert output.push(ids[:1]) == Step(" quick", ids[:1], None)
    assert output.push(ids[1:]) == Step(" b", ids[1:2], "k b")


def test_the_prompt_never_matches_nor_helps_a_match() -> None:
    artefact = family("unigram")
    quick, brown = ids_of(artefact, "▁quick", "▁brown")
    output = output_of(artefact, ["quick", "k b"], [quick])
    assert total(output, [[brown]]) == Step(" brown", [brown], None)


def test_a_match_before_min_new_tokens_is_text() -> None:
    artefact = family("unigram")
    fox = ids_of(artefact, "▁fox")
    output = output_of(artefact, ["fox"], fox, min_new_tokens=3)
    assert total(output, [fox, fox * 4]) == Step(" fox fox ", fox * 3, "fox")


def test_the_match_in_a_run_of_byte_tokens_ends_the_ids_at_its_own_token() -> None:
    artefact = family("byte-fallback")
    word, newline = ids_of(artefact, "▁a"), byte_ids(artefact, b"\n")
    output = output_of(artefact, ["\n"], word)
    assert output.push(word + newline) == Step(" a", word, None)  # a byte after the newline could still undo it
    assert output.push(newline) == Step("", [], None)
    assert output.push(word) == Step("", newline, "\n")


def test_the_end_of_the_output_can_complete_a_match() -> None:
    artefact = family("byte-fallback")
    newline = byte_ids(artefact, b"\n")
    output = output_of(artefact, ["\n"], ids_of(artefact, "▁a"))
    assert output.push(newline * 2) == Step("", [], None)
    assert output.finish() == Step("", newline, "\n")


def test_what_was_held_back_is_released_when_the_output_ends() -> None:
    artefact = family("unigram")
    ids = ids_of(artefact, "▁quick", EOS)
    output = output_of(artefact, ["quick brown"], ids_of(artefact, "▁The"))
    assert output.push(ids) == Step(" ", ids, None)
    assert output.finish() == Step("quick", [], None)


def test_a_log_probability_leaves_with_its_id_and_its_text() -> None:
    artefact = family("byte-fallback")
    word, newline = ids_of(artefact, "▁a"), byte_ids(artefact, b"\n")
    output = output_of(artefact, ["\n"], word)
    ids = word + newline
    assert output.push(ids, list(map(logprob, ids))).logprobs == [TokenLogprob(word[0], -1.0, 1, (), b" a")]
    step = output.push(word, list(map(logprob, word)))
    assert step == Step("", newline, "\n", [TokenLogprob(newline[0], -1.0, 1, (), b"\n")])
    assert output.push(word, list(map(logprob, word))).logprobs == ()


def test_two_hundred_thousand_tokens_one_by_one_take_seconds_at_most() -> None:
    artefact = family("byte-level")
    ids = artefact.tokenizer.encode("".join(TEXT), add_special_tokens=False).ids
    output = output_of(artefact, ["\nUser:", "the end of", " of the Q", "..."], [])
    before = time.process_time()
    for number in range(200_000):
        output.push([ids[number % len(ids)]])
    output.finish()
    assert time.process_time() - before < 4
