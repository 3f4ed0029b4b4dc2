"""Stop strings, from the caller's text to the row at the worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tokenizers.pre_tokenizers import ByteLevel

from model_worker.engines.fake_faults import Gate
from model_worker.sequence import FinishReason as RowFinishReason
from tests.end_to_end.expectation import expect
from tests.end_to_end.heard import hear, refusal
from tests.end_to_end.requests import FinishReason, OutputOptions, Stopping, generate_tokens
from tests.end_to_end.speaker import Speaker, speaker
from tests.end_to_end.stack import Stack, gated_stack, reached, running_stack
from tests.end_to_end.worker_calls import Request, hear_rows, start
from tests.tokenizers_for_tests import EOS, TURN_END
from tokenmill.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from model_worker.batching.token_stream import TokenStream
    from tests.end_to_end.stack import TokenizerTier
    from tokenmill.v1 import gateway_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")
STOP_STRING = FinishReason.FINISH_REASON_STOP_STRING
PROMPT = [60, 61, 62]
TOKENS = 24
TEXT = "The avião doesn't jump 😀 over it."


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tier: TokenizerTier) -> AsyncIterator[Stack]:
    """A model that ends its outputs with EOS, now and then."""
    async with running_stack(tier, model=tier.model(eos_token_ids=frozenset({tier.eos_id}))) as running:
        yield running


async def stopped_at(stack: Stack, *stop_strings: str, prompt: list[int] = PROMPT, **given: Any) -> gateway_pb2.Output:
    stopping = Stopping(**({"max_new_tokens": TOKENS, "stop_strings": stop_strings} | given))
    return (await stack.gateway.Generate(generate_tokens(prompt, stopping=stopping))).outputs[0]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def speaking(tier: TokenizerTier) -> AsyncIterator[Stack]:
    """Scripts say TEXT in tokens that are split at every position: row i, cut before character i; the last, bytes."""
    encode = tier.tokenizer.encode
    cut = [[*encode(TEXT[:at]).ids, *encode(TEXT[at:]).ids] for at in range(len(TEXT))]
    letters = "".join(part for part, _ in ByteLevel(add_prefix_space=False).pre_tokenize_str(TEXT))
    in_bytes = [tier.tokenizer.token_to_id(letter) for letter in letters]
    async with running_stack(tier, model=speaker(tier, *cut, in_bytes)) as running:
        yield running


@pytest.mark.parametrize("part", ["T", "The av", "ião", "ão", " jump", "😀", "😀 o", "it.", TEXT[1:-1], TEXT])
@pytest.mark.parametrize("include_stop", [False, True])
async def test_a_stop_string_is_found_however_the_text_is_cut_into_tokens(
    speaking: Stack, part: str, include_stop: bool
) -> None:
    assert isinstance(speaking.model, Speaker)
    scripts, decode = speaking.model.scripts, speaking.tier.tokenizer.decode
    stopping = Stopping(max_new_tokens=100, stop_strings=["nowhere", part], include_stop=include_stop)
    prompts = [[number] for number in range(len(scripts))]
    answer = await speaking.gateway.Generate(generate_tokens(*prompts, stopping=stopping))
    for script, output in zip(scripts, answer.outputs, strict=True):
        assert output.text == TEXT[: TEXT.index(part)] + (part if include_stop else "")
        assert (output.finish.reason, output.finish.stop_string) == (STOP_STRING, part)
        completed = next(count for count in range(1, 101) if part in decode(list(script[:count])))
        assert list(output.token_ids) == list(script[:completed])
        assert output.usage.completion_tokens == completed


async def test_the_match_that_is_completed_first_wins_and_of_several_the_longest(speaking: Stack) -> None:
    assert (await stopped_at(speaking, "jump 😀 over", "😀", prompt=[0])).finish.stop_string == "😀"
    assert (await stopped_at(speaking, "o", "avião", prompt=[0])).finish.stop_string == "avião"


async def test_outputs_that_match_with_their_last_token_end_well(speaking: Stack) -> None:
    """The stop of a row and the end of the call cross on the wire."""
    assert isinstance(speaking.model, Speaker)
    script = speaking.model.scripts[-1]
    for length in range(1, len(script)):
        part = speaking.tier.tokenizer.decode(list(script[:length]))[-1]
        request = generate_tokens(
            *[[len(speaking.model.scripts) - 1]] * 3, stopping=Stopping(max_new_tokens=length, stop_strings=[part])
        )
        heard = await hear(speaking.gateway.StreamGenerate(request))
        assert len(heard.ends) == 3
        assert heard.token_ids[0] == heard.token_ids[1] == heard.token_ids[2]


async def test_matches_before_min_new_tokens_do_not_count(stack: Stack) -> None:
    wanted = expect(stack, PROMPT, max_new_tokens=TOKENS, min_new_tokens=12)
    part = next(character for character in wanted.text if character.isascii())
    output = await stopped_at(stack, part, min_new_tokens=12)
    assert len(output.token_ids) >= 12
    assert list(output.token_ids) == wanted.ids[: len(output.token_ids)]


async def test_the_prompt_is_not_searched(stack: Stack) -> None:
    assert (await stopped_at(stack, stack.tier.tokenizer.decode(PROMPT))).finish.reason != STOP_STRING


async def test_a_special_token_as_a_stop_string_ends_the_row_at_the_worker(stack: Stack) -> None:
    turn_end = stack.tier.tokenizer.token_to_id(TURN_END)
    prompt = drawing(stack, turn_end, at=3)
    wanted = expect(stack, prompt, stop_token_ids=frozenset({turn_end}))
    assert wanted.reason is RowFinishReason.STOP_TOKEN
    for include_stop in (False, True):
        output = await stopped_at(stack, TURN_END, "never", prompt=prompt, include_stop=include_stop)
        assert (output.finish.reason, output.finish.stop_string) == (STOP_STRING, TURN_END)
        assert output.text == wanted.text + (TURN_END if include_stop else "")
        assert list(output.token_ids) == wanted.ids


@pytest.mark.parametrize("ignore_eos", [False, True])
async def test_the_end_of_sequence_token_as_a_stop_string_is_one_even_where_it_is_ignored(
    stack: Stack, ignore_eos: bool
) -> None:
    prompt = drawing(stack, stack.tier.eos_id, at=3)
    output = await stopped_at(stack, EOS, prompt=prompt, ignore_eos=ignore_eos)
    assert (output.finish.reason, output.finish.stop_string) == (STOP_STRING, EOS)
    assert len(output.token_ids) == 4


async def test_a_special_token_that_is_kept_is_text_and_matches_with_what_is_around_it(stack: Stack) -> None:
    turn_end = stack.tier.tokenizer.token_to_id(TURN_END)
    prompt = drawing(stack, turn_end, at=3)
    stopping = Stopping(max_new_tokens=TOKENS, stop_strings=[TURN_END[3:]])
    options = OutputOptions(keep_special_tokens=True, token_ids=True)
    answer = await stack.gateway.Generate(generate_tokens(prompt, stopping=stopping, output=options))
    assert answer.outputs[0].finish.stop_string == TURN_END[3:]
    assert answer.outputs[0].text.endswith(TURN_END[:3])
    assert len(answer.outputs[0].token_ids) == 4


async def test_64_stop_ids_and_a_special_token_are_one_too_many_and_said_to_be(stack: Stack) -> None:
    stopping = Stopping(max_new_tokens=3, stop_strings=[TURN_END], stop_token_ids=range(64))
    heard = await refusal(stack.gateway.Generate(generate_tokens(PROMPT, stopping=stopping)))
    assert (heard.code.name, heard.field) == ("INVALID_ARGUMENT", "stopping.stop_token_ids")
    stopping.stop_token_ids.pop()
    assert (await stack.gateway.Generate(generate_tokens(PROMPT, stopping=stopping))).usage.completion_tokens


def drawing(stack: Stack, token_id: int | None, at: int) -> list[int]:
    """A prompt after which `token_id` is drawn as the token number `at`, and not before."""
    assert token_id is not None
    for last in range(10, 400):
        ids = expect(stack, [60, last], ignore_eos=True).ids
        if token_id in ids and ids.index(token_id) == at:
            return [60, last]
    raise AssertionError("no such prompt")


class TestOneRowOfFour:
    PROMPTS = ([0, 5, 6], [1, 5], [2, 5, 6, 7], [3])
    SAYINGS = ("red, blue, green", "yellow and white", "one two three four", "all the colors")

    async def test_its_storage_is_free_within_two_steps_and_the_others_are_as_alone(self, tier: TokenizerTier) -> None:
        gate, encode = Gate(), tier.tokenizer.encode
        scripts = [encode(saying).ids for saying in self.SAYINGS]
        async with gated_stack(tier, gate, model=speaker(tier, *scripts)) as stack:
            stop_asked = spied_stop(stack)
            stopping = Stopping(max_new_tokens=40, stop_strings=["two"])
            call = stack.gateway.StreamGenerate(generate_tokens(*self.PROMPTS, stopping=stopping))
            await reached(gate)
            used = (await stack.load()).kv_tokens_used
            needed = next(count for count in range(1, 40) if "two" in tier.tokenizer.decode(scripts[2][:count]))
            gate.allow(needed)  # the first of these computes the prompts and draws the first tokens
            assert await stop_asked.get() == 2
            await reached(gate)
            before = await stack.load()
            assert before.running == 4
            gate.allow(1)
            await reached(gate)
            after = await stack.load()
            assert (after.running, after.step) == (3, before.step + 1)
            assert after.kv_tokens_used < used
            gate.open()
            heard = await hear(call)
            assert (heard.texts[2], heard.ends[2].finish.stop_string) == ("one ", "two")
            assert heard.token_ids[2] == scripts[2][:needed]
            for number in (0, 1, 3):
                alone = generate_tokens(self.PROMPTS[number], stopping=stopping)
                (output,) = (await stack.gateway.Generate(alone)).outputs
                assert (heard.texts[number], heard.token_ids[number]) == (output.text, list(output.token_ids))
                assert len(heard.token_ids[number]) == 40
            assert stop_asked.empty()

    async def test_at_the_worker_stop_row_ends_one_row_and_a_half_close_none(self, tier: TokenizerTier) -> None:
        gate = Gate()
        async with gated_stack(tier, gate) as stack:
            stop_asked = spied_stop(stack)
            call = stack.worker.Generate()
            await call.write(Request(start=start(stack, self.PROMPTS)))
            await reached(gate)
            for row in (2, 2, 99, -1):  # twice, and rows that do not exist
                await call.write(Request(stop_row=worker_pb2.StopRow(row=row)))
            await call.done_writing()
            assert [await stop_asked.get() for _ in range(4)] == [2, 2, 99, -1]
            gate.open()
            heard = await hear_rows(call)
        assert sorted(heard.ends) == [0, 1, 2, 3]
        for number in (0, 1, 3):
            assert heard.ids[number] == expect(stack, self.PROMPTS[number]).ids
        assert heard.ends[2].finished.reason == STOP_STRING
        assert len(heard.ids[2]) < 10


def spied_stop(stack: Stack) -> asyncio.Queue[int]:
    """The rows that the worker is asked to stop."""
    asked: asyncio.Queue[int] = asyncio.Queue()
    loop = stack.worker_service._generation
    assert loop is not None
    stop_row = loop.stop_row

    def spy(stream: TokenStream, row: int) -> None:
        stop_row(stream, row)
        asked.put_nowait(row)

    loop.stop_row = spy
    return asked
