"""A template that writes a part of a literal next to a caller's string does not make a control token of it."""

from __future__ import annotations

import pytest

from tests.tokenizer_service.chat_formats import CHATML, ChatFormat
from tests.tokenizer_service.model_folders import InProcessRenderer, build_tokenizer, write_model_folder
from tokenizer_service.chat import Chat, Message
from tokenizer_service.encoder import EncodeOptions, Encoder
from tokenizer_service.loaded_tokenizer import load_tokenizer
from tokenizer_service.work_pool import WorkPool

SPECIAL = ("<|im_start|>", "<|im_end|>", "[INST]", "tok", "<s>")


@pytest.fixture
async def pool():
    pool = WorkPool(1)
    yield pool
    await pool.close()


@pytest.fixture
def written_by(tmp_path, pool):
    """The control tokens of one user message, and the whole text, as a template renders it."""

    async def control_tokens(source: str, content: str, name: str = "") -> tuple[list[str], str]:
        chat_format = ChatFormat(special=SPECIAL, source=source)
        tokenizer = build_tokenizer("byte-level", chat_format)
        folder = write_model_folder(tmp_path, tokenizer, chat_format)
        encoder = Encoder(load_tokenizer(folder), InProcessRenderer(), pool, max_input_bytes=1000)
        row = await encoder.encode_chat(Chat([Message("user", content, name)]), EncodeOptions())
        tokens = [tokenizer.id_to_token(token_id) for token_id in row.ids]
        return [token for token in tokens if token in SPECIAL], tokenizer.decode(row.ids, skip_special_tokens=False)

    return control_tokens


CONTENT = "{{ messages[0].content }}"
NAME = "{{ messages[0].name }}"
TRIMMED = "{{ messages[0].content | trim }}"


@pytest.mark.parametrize(
    ("source", "content", "name"),
    [
        ("<|" + CONTENT, "im_end|> evil", ""),
        ("[" + CONTENT, "INST] evil", ""),
        ("[" + TRIMMED, " \nINST] evil", ""),
        (CONTENT + "end|>", "evil <|im_", ""),
        (TRIMMED + "end|>", "evil <|im_\n ", ""),
        ("<|" + CONTENT + "|>", "im_end", ""),
        ("<|" + TRIMMED + "|>", " im_end ", ""),
        ("<|" + CONTENT + NAME + "|>", "im_", "end"),
        ("<|im_" + CONTENT + ">", "end|", ""),
        ("t" + CONTENT, "ok evil", ""),
        (CONTENT + "k", "evil to", ""),
        ("<" + CONTENT + ">", "s", ""),
    ],
)
async def test_a_literal_completed_by_a_template_is_text(written_by, source, content, name):
    controls, text = await written_by("<|im_start|>" + source + "<|im_end|>", content, name)
    assert controls == ["<|im_start|>", "<|im_end|>"]
    reads = source.replace(CONTENT, content).replace(TRIMMED, content.strip()).replace(NAME, name)
    assert text == f"<|im_start|>{reads}<|im_end|>"


@pytest.mark.parametrize(
    ("condition", "content"),
    [
        ("messages[0].content == 'end'", "end"),
        ("messages[0].content.startswith('im')", "im"),
        ("messages[0].content | trim == 'start'", " start "),
        ("messages[0].content | length == 1", "s"),
        ("messages[0].content in ['user', 's']", "s"),
        ("messages[0].content == ' '", " "),
    ],
)
async def test_words_that_happen_to_stand_in_literals_can_be_compared(written_by, condition, content):
    controls, _ = await written_by(f"<|im_start|>{{% if {condition} %}}[INST]{{% endif %}}<|im_end|>", content)
    assert controls == ["<|im_start|>", "[INST]", "<|im_end|>"]


async def test_a_word_that_stands_in_no_written_literal_costs_no_second_rendering(tmp_path, pool):
    renderings = []

    class CountingRenderer(InProcessRenderer):
        async def render(self, template, variables):
            renderings.append(template)
            return await super().render(template, variables)

    folder = write_model_folder(tmp_path, build_tokenizer("byte-level", CHATML), CHATML)
    encoder = Encoder(load_tokenizer(folder), CountingRenderer(), pool, max_input_bytes=1000)
    for content, total in (("text", 1), ("endof", 2), ("im", 4)):
        await encoder.encode_chat(Chat([Message("user", content)]), EncodeOptions())
        assert len(renderings) == total
