"""Token tensors: what is packed comes back, and each rule of the contract is checked by name."""

from __future__ import annotations

import tracemalloc
from array import array

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.errors import ServiceError
from rpc.token_tensors import pack_ids, pack_tensor, tensor_bytes, unpack_ids, unpack_tensor
from tokenmill.v1.generation_pb2 import TokenTensor

VOCABULARY = 2**31 - 1
ids = st.integers(0, VOCABULARY - 1)
rows = st.lists(st.lists(ids, min_size=1, max_size=20), min_size=1, max_size=6)


@given(rows=rows, pad=ids)
def test_packed_rows_come_back_without_their_padding(rows, pad):
    tensor = TokenTensor.FromString(pack_tensor(rows, pad).SerializeToString())
    assert [list(row) for row in unpack_tensor(tensor, VOCABULARY)] == rows


@given(rows=rows, pad=ids)
def test_every_row_ends_at_the_same_column_behind_padding_alone(rows, pad):
    tensor = pack_tensor(rows, pad)
    flat = unpack_ids(tensor.input_ids)
    assert len(flat) == tensor.rows * tensor.width
    for index, row in enumerate(rows):
        line = list(flat[index * tensor.width : (index + 1) * tensor.width])
        assert line == [pad] * (tensor.width - len(row)) + row


@given(rows=rows)
def test_the_bytes_of_a_padded_tensor_are_known_before_it_is_packed(rows):
    tensor = pack_tensor([*rows, [1], [1, 1]], 0)  # of two lengths, so with a mask
    assert tensor_bytes(tensor.rows, tensor.width) == len(tensor.input_ids) + len(tensor.attention_mask)


@given(st.lists(ids))
def test_ids_are_four_bytes_little_endian(values):
    packed = pack_ids(values)
    assert packed == b"".join(value.to_bytes(4, "little") for value in values)
    assert list(unpack_ids(packed)) == values


def test_rows_of_one_length_need_no_mask():
    assert pack_tensor([[1, 2], [3, 4]], 0).attention_mask == b""


def test_a_pad_token_among_the_real_ones_stays():
    assert [list(row) for row in unpack_tensor(pack_tensor([[0, 0], [0]], 0), 10)] == [[0, 0], [0]]


def tensor(rows: int, width: int, ids: list[int], mask: bytes = b"") -> TokenTensor:
    return TokenTensor(rows=rows, width=width, input_ids=array("i", ids).tobytes(), attention_mask=mask)


BROKEN = {
    "no rows": (tensor(0, 2, []), "start.tokens.rows"),
    "no width": (tensor(2, 0, []), "start.tokens.width"),
    "too few ids": (tensor(2, 2, [1, 2, 3]), "start.tokens.input_ids"),
    "too many ids": (tensor(1, 2, [1, 2, 3]), "start.tokens.input_ids"),
    "bytes that are no ids": (TokenTensor(rows=1, width=1, input_ids=b"\0\0\0"), "start.tokens.input_ids"),
    "mask too short": (tensor(2, 2, [1] * 4, b"\1\1\1"), "start.tokens.attention_mask"),
    "mask too long": (tensor(2, 2, [1] * 4, b"\1" * 5), "start.tokens.attention_mask"),
    "mask value 2": (tensor(1, 2, [1, 1], b"\1\2"), "start.tokens.attention_mask"),
    "mask value 2 at the left": (tensor(1, 2, [1, 1], b"\2\1"), "start.tokens.attention_mask"),
    "mask as a digit": (tensor(1, 2, [1, 1], b"01"), "start.tokens.attention_mask"),
    "padding at the right": (tensor(1, 2, [1, 1], b"\1\0"), "start.tokens.attention_mask"),
    "a hole": (tensor(1, 3, [1, 1, 1], b"\1\0\1"), "start.tokens.attention_mask"),
    "a row of padding alone": (tensor(2, 2, [1] * 4, b"\1\1\0\0"), "start.tokens.attention_mask"),
    "a negative id": (tensor(1, 2, [1, -1]), "start.tokens.input_ids"),
    "an id just outside": (tensor(1, 2, [1, 10]), "start.tokens.input_ids"),
    "more than there can be": (
        TokenTensor(rows=2**32 - 1, width=2**32 - 1, input_ids=b"\0" * 8),
        "start.tokens.input_ids",
    ),
}


@pytest.mark.parametrize(("broken", "field"), BROKEN.values(), ids=BROKEN)
def test_a_broken_tensor_is_refused_by_the_name_of_its_field(broken, field):
    with pytest.raises(ServiceError) as caught:
        unpack_tensor(broken, 10, "start.tokens")
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert caught.value.message.startswith(f"{field}: ")


def test_padding_may_hold_any_id():
    assert [list(row) for row in unpack_tensor(tensor(1, 3, [-1, 10, 9], b"\0\0\1"), 10)] == [[9]]


def test_the_last_id_of_the_vocabulary_is_inside():
    assert list(unpack_tensor(tensor(1, 1, [9]), 10)[0]) == [9]


def test_a_huge_claim_over_few_bytes_costs_nothing():
    claim = TokenTensor(rows=2**31, width=2**31, input_ids=b"\0" * 64, attention_mask=b"\1" * 16)
    tracemalloc.start()
    try:
        with pytest.raises(ServiceError):
            unpack_tensor(claim, 10)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
