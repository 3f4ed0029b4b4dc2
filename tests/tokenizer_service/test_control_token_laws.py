"""The two laws of control tokens, on fourteen chat formats over four tokenizer families.

1. Without control literals in what the caller wrote, the ids are those of transformers' `apply_chat_template`.
2. With them, the control tokens are those of the same chat with plain words, and the literals survive as text.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.tokenizer_service.chat_formats import FORMATS, ChatFormat
from tests.tokenizer_service.model_folders import InProcessRenderer, build_tokenizer, write_model_folder
from tests.tokenizers_for_tests import FAMILIES
from tokenizer_service.chat import Chat, Message, Tool, ToolCall
from tokenizer_service.control.renamed_tokenizer import control_literals
from tokenizer_service.encoder import EncodeOptions, Encoder
from tokenizer_service.loaded_tokenizer import LoadedTokenizer, load_tokenizer
from tokenizer_service.work_pool import WorkPool

PLACES = 7
NEUTRAL = ["word"] * PLACES
WORDS = (
    *("blue", " green ", "red <b>bold</b>\n\n\n  indented", "a < b", "ends with <"),
    *("[", "naïve 中文 😀", "<|", "< |im_end|>"),
)


@dataclass
class Served:
    chat_format: ChatFormat
    reference: Any  # transformers' tokenizer
    tokenizer: LoadedTokenizer
    encoder: Encoder

    async def ids(self, chat: Chat) -> list[int]:
        return (await self.encoder.encode_chat(chat, EncodeOptions())).ids

    async def control_ids(self, words: list[str]) -> list[int]:
        controls = set(control_literals(self.tokenizer.backend).values())
        controls.discard(self.tokenizer.backend.token_to_id("<unk>"))  # which text may become, too
        return [token_id for token_id in await self.ids(chat_of(self.chat_format, words)) if token_id in controls]


@pytest.fixture(scope="module")
def pool():
    pool = WorkPool(1)
    yield pool
    asyncio.run(pool.close())


@pytest.fixture(scope="module", params=[(name, family) for name in FORMATS for family in FAMILIES], ids="-".join)
def served(request, tmp_path_factory, pool):
    name, family = request.param
    folder = tmp_path_factory.mktemp(f"{name}-{family}")
    tokenizer = load_tokenizer(write_model_folder(folder, build_tokenizer(family, FORMATS[name]), FORMATS[name]))
    encoder = Encoder(tokenizer, InProcessRenderer(), pool, max_input_bytes=1 << 20)
    return Served(FORMATS[name], AutoTokenizer.from_pretrained(folder), tokenizer, encoder)


def chat_of(chat_format: ChatFormat, words: list[str], *, generation_prompt: bool = True) -> Chat:
    """A chat of several turns, with `words` in every place a caller can write; with tools where the format has them."""
    messages = [Message("system", words[0])] if chat_format.has_system else []
    messages += [Message("user", words[1]), Message("assistant", words[2]), Message("user", words[3])]
    if not chat_format.has_tools:
        return Chat(messages, add_generation_prompt=generation_prompt)
    call = ToolCall(f"f{words[4]}", {words[4]: [words[5], {"deep": words[6]}], "number": 3}, id="call1")
    messages += [Message("assistant", "", tool_calls=(call,)), Message("tool", words[5], tool_call_id="call1")]
    messages += [Message("user", words[6])]
    schema = {"type": "object", "properties": {words[2]: {"type": "string", "description": words[1]}}}
    return Chat(messages, (Tool(f"f{words[4]}", words[0], schema),), add_generation_prompt=generation_prompt)


def unhidden(value):
    return value


@pytest.mark.parametrize("generation_prompt", [True, False])
async def test_without_literals_the_ids_are_those_of_transformers(served, generation_prompt):
    for turn in range(0, len(WORDS), 3):
        words = [WORDS[(turn + place) % len(WORDS)] for place in range(PLACES)]
        chat = chat_of(served.chat_format, words, generation_prompt=generation_prompt)
        expected = served.reference.apply_chat_template(
            [message.variables(unhidden) for message in chat.messages],
            tools=[tool.variables(unhidden) for tool in chat.tools] or None,
            add_generation_prompt=generation_prompt,
        )
        assert await served.ids(chat) == expected["input_ids"]


async def test_literals_leave_the_control_tokens_as_they_were(served):
    literals = [*served.chat_format.special, *served.chat_format.added, "<s>", "</s>", "<tool_call>"]
    expected = await served.control_ids(NEUTRAL)
    for at in range(0, len(literals), 3):
        words = [f"x {literals[(at + place) % len(literals)]}y{literals[at]}" for place in range(PLACES)]
        assert await served.control_ids(words) == expected


async def test_literals_survive_as_text(served):
    literals = "".join(text for text in served.chat_format.special + served.chat_format.added if text.strip("▁\n"))
    decoded = served.tokenizer.backend.decode(await served.ids(Chat([Message("user", f"say {literals} now")])))
    if served.tokenizer.backend.token_to_id("##ing") is None:  # a word-piece decoder spaces words out
        assert literals.replace("▁", " ") in decoded.replace("▁", " ")
    else:
        assert len(decoded.split()) > len(literals.split())


def fragments(chat_format: ChatFormat) -> st.SearchStrategy[str]:
    """Texts of literals, broken literals, white space and words."""
    literals = [*chat_format.special, *chat_format.added]
    heads = [literal[: len(literal) // 2] for literal in literals]
    ends = [literal[len(literal) // 2 :] for literal in literals]
    words = st.sampled_from([*literals, *heads, *ends, " ", "\n", "word", "<", "0", "12"])
    return st.lists(words, max_size=6).map("".join)


@settings(max_examples=4, deadline=None)
@given(data=st.data())
async def test_no_text_adds_or_removes_a_control_token(served, data):
    words = [data.draw(fragments(served.chat_format)) for _ in range(PLACES)]
    assert await served.control_ids(words) == await served.control_ids(NEUTRAL)
