"""What a gateway remembers of who computed which prompt."""

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fleet.affinity import BLOCK_TOKENS, MAX_INSTANCES, PrefixAffinity, PromptKey


def key(*ids: int, model: str = "m", salt: str = "") -> PromptKey:
    return PromptKey(model, salt, array("i", ids))


def long(tokens: int, last: int = 0) -> PromptKey:
    return key(*range(tokens - 1), last)


def test_a_prompt_that_begins_alike_is_known_by_whole_blocks():
    affinity = PrefixAffinity()
    affinity.note(long(3 * BLOCK_TOKENS + 5), "a")
    affinity.note(long(2 * BLOCK_TOKENS), "b")
    assert affinity.cached_tokens(long(4 * BLOCK_TOKENS)) == {"a": 3 * BLOCK_TOKENS, "b": BLOCK_TOKENS}
    assert affinity.cached_tokens(long(BLOCK_TOKENS - 1)) == {}
    assert affinity.cached_tokens(key(*range(1, 200))) == {}


def test_salts_and_models_have_nothing_in_common():
    affinity = PrefixAffinity()
    ids = range(BLOCK_TOKENS)
    affinity.note(key(*ids, salt="tenant"), "a")
    assert affinity.cached_tokens(key(*ids, salt="tenant")) == {"a": BLOCK_TOKENS}
    assert affinity.cached_tokens(key(*ids)) == {}
    assert affinity.cached_tokens(key(*ids, salt="tenant", model="other")) == {}


def test_the_least_recently_sent_is_forgotten_first():
    affinity = PrefixAffinity(max_blocks=4)
    first, second = key(*range(2 * BLOCK_TOKENS)), key(*range(7, 7 + 2 * BLOCK_TOKENS))
    affinity.note(first, "a")
    affinity.note(second, "a")
    affinity.note(first, "a")
    affinity.note(key(*range(9, 9 + BLOCK_TOKENS)), "a")
    assert len(affinity) == 4
    assert affinity.cached_tokens(first) == {"a": 2 * BLOCK_TOKENS}
    assert affinity.cached_tokens(second) == {}, "without its beginning, its end is worth nothing"


def test_of_many_instances_the_latest_are_remembered():
    affinity = PrefixAffinity()
    for number in range(MAX_INSTANCES + 3):
        affinity.note(long(BLOCK_TOKENS), f"worker {number}")
    known = affinity.cached_tokens(long(BLOCK_TOKENS))
    assert set(known) == {f"worker {number}" for number in range(3, MAX_INSTANCES + 3)}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.sampled_from("abc")), max_size=30))
def test_what_is_said_to_be_cached_was_sent(sent):
    affinity = PrefixAffinity(max_blocks=10)
    prompts = []
    for start, blocks, instance in sent:
        prompt = key(*range(start, start + blocks * BLOCK_TOKENS))
        affinity.note(prompt, instance)
        prompts.append((prompt, instance))
        assert len(affinity) <= 10
    for start in range(3):
        asked = key(*range(start, start + 5 * BLOCK_TOKENS))
        for instance, tokens in affinity.cached_tokens(asked).items():
            assert any(
                instance == to and prompt.ids[:tokens] == asked.ids[:tokens] and len(prompt.ids) >= tokens
                for prompt, to in prompts
            )
