from __future__ import annotations

import pytest

from tests.tokenizer_service.chat_formats import CHATML
from tests.tokenizer_service.model_folders import build_tokenizer, write_model_folder
from tests.tokenizers_for_tests import FAMILIES
from tokenizer_service.decoder import Decoder
from tokenizer_service.errors import InvalidInput
from tokenizer_service.loaded_tokenizer import load_tokenizer
from tokenizer_service.work_pool import WorkPool


@pytest.fixture
async def pool():
    pool = WorkPool(1)
    yield pool
    await pool.close()


@pytest.mark.parametrize("family", FAMILIES)
async def test_each_sequence_is_decoded_alone_with_or_without_special_tokens(tmp_path, pool, family):
    tokenizer = load_tokenizer(write_model_folder(tmp_path, build_tokenizer(family, CHATML), CHATML))
    decoder = Decoder(tokenizer, pool)
    sequences = [tokenizer.backend.encode(text).ids for text in ("The fox<|im_end|>", "lazy dog")]
    assert await decoder.decode(sequences, keep_special_tokens=False) == ["The fox", "lazy dog"]
    kept = await decoder.decode(sequences, keep_special_tokens=True)
    assert "<|im_end|>" in kept[0]


async def test_an_empty_sequence_is_refused_by_field(tmp_path, pool):
    tokenizer = load_tokenizer(write_model_folder(tmp_path, build_tokenizer("byte-level", CHATML), CHATML))
    with pytest.raises(InvalidInput) as refusal:
        await Decoder(tokenizer, pool).decode([[1], []], keep_special_tokens=False)
    assert refusal.value.field == "sequences[1].ids"


@pytest.mark.parametrize("bad", [-1, "size"])
async def test_ids_outside_the_vocabulary_are_refused_by_row(tmp_path, pool, bad):
    tokenizer = load_tokenizer(write_model_folder(tmp_path, build_tokenizer("byte-level", CHATML), CHATML))
    outside = tokenizer.vocabulary_size if bad == "size" else bad
    with pytest.raises(InvalidInput) as refusal:
        await Decoder(tokenizer, pool).decode(
            [[1], [outside - 1 if bad == "size" else 2, outside]], keep_special_tokens=False
        )
    assert refusal.value.field == "sequences[1].ids"
