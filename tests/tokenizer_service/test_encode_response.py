"""The answer to an Encode: padded rows that would be too large are refused by the longest text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from rpc.errors import ServiceError
from rpc.token_tensors import MAX_TENSOR_BYTES, tensor_bytes, unpack_tensor
from tokenizer_service.encode_response import encode_response
from tokenizer_service.encoder import EncodedRow
from tokenmill.v1 import tokenizer_pb2

SERVED = cast(
    "Any",
    SimpleNamespace(
        vocabulary_fingerprint="v", template_fingerprint="t", loaded=SimpleNamespace(pad_token_id=0, vocabulary_size=10)
    ),
)
PROMPTS = tokenizer_pb2.EncodeRequest(prompts={"texts": ["text"]})


def rows(*lengths: int) -> list[EncodedRow]:
    return [EncodedRow([1] * length, [(0, 1)] * length) for length in lengths]


def test_rows_counts_and_fingerprints_are_answered():
    response = encode_response(SERVED, rows(1, 3), PROMPTS)
    assert [list(row) for row in unpack_tensor(response.tokens, 10)] == [[1], [1, 1, 1]]
    assert (list(response.token_counts), list(response.offsets)) == ([1, 3], [])
    assert (response.vocabulary_fingerprint, response.template_fingerprint) == ("v", "t")


def test_a_text_that_makes_all_rows_too_long_is_named_with_its_tokens():
    with pytest.raises(ServiceError) as caught:
        encode_response(SERVED, rows(*[1] * 40, 1_000_000, *[1] * 23), PROMPTS)
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, "prompts.texts[40]")
    assert "1000000 tokens" in caught.value.message


def test_what_fits_without_offsets_may_be_too_large_with_them():
    length = MAX_TENSOR_BYTES // tensor_bytes(1, 1) // 2
    chat = tokenizer_pb2.EncodeRequest(chat={}, offsets=True)
    assert encode_response(SERVED, rows(length), PROMPTS).tokens.width == length
    with pytest.raises(ServiceError) as caught:
        encode_response(SERVED, rows(length), chat)
    assert caught.value.field == "chat.messages"
