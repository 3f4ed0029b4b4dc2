"""Pack and check token tensors (contract: TokenTensor). Rows in Python are `array("i")`: int32, unpadded."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from rpc.errors import invalid_field
from tokenmill.v1.generation_pb2 import TokenTensor

ID_BYTES = 4
MASK_BYTES = 1
# The largest tensor that is sent. 64 prompts of 32,768 tokens are 10 MiB; a message (rpc/transport.py) has 32 MiB, and
# 8 MiB of it are left for what travels with the tensor. One long row makes all of them long.
MAX_TENSOR_BYTES = 24 * 2**20
assert array("i").itemsize == ID_BYTES


def tensor_bytes(rows: int, width: int) -> int:
    """Bytes of a padded tensor of this shape, its mask included; to be known before it is packed."""
    return rows * width * (ID_BYTES + MASK_BYTES)


def pack_tensor(rows: Sequence[Sequence[int]], pad_token_id: int) -> TokenTensor:
    """Left-pad `rows` (each at least one id) with `pad_token_id` into one tensor of shape [len(rows), longest row]."""
    width = max(len(row) for row in rows)
    ids, mask = array("i"), bytearray()
    for row in rows:
        padding = width - len(row)
        ids.extend(array("i", [pad_token_id]) * padding)
        ids.extend(row)
        mask += bytes(padding) + b"\1" * len(row)
    is_padded = any(len(row) < width for row in rows)
    return TokenTensor(
        rows=len(rows), width=width, input_ids=pack_ids(ids), attention_mask=bytes(mask) if is_padded else b""
    )


def unpack_tensor(tensor: TokenTensor, vocabulary_size: int, field: str = "tokens") -> list[array[int]]:
    """The rows of `tensor` without their padding.

    Errors: ServiceError (INVALID_ARGUMENT) naming the sub-field of `field` that breaks the contract.
    """
    rows, width = tensor.rows, tensor.width
    if rows < 1:
        raise invalid_field(f"{field}.rows", "must be at least 1")
    if width < 1:
        raise invalid_field(f"{field}.width", "must be at least 1")
    if len(tensor.input_ids) != rows * width * ID_BYTES:
        found, wanted = len(tensor.input_ids), rows * width * ID_BYTES
        raise invalid_field(f"{field}.input_ids", f"has {found} bytes, rows x width x {ID_BYTES} is {wanted}")
    if tensor.attention_mask and len(tensor.attention_mask) != rows * width:
        found = len(tensor.attention_mask)
        raise invalid_field(f"{field}.attention_mask", f"has {found} bytes, rows x width is {rows * width}")
    ids = unpack_ids(tensor.input_ids)
    unpacked = []
    for index in range(rows):
        padding = _padding(tensor.attention_mask[index * width : (index + 1) * width], index, field)
        row = ids[index * width + padding : (index + 1) * width]
        if min(row) < 0 or max(row) >= vocabulary_size:
            message = f"row {index} has an id outside the vocabulary (0 to {vocabulary_size - 1})"
            raise invalid_field(f"{field}.input_ids", message)
        unpacked.append(row)
    return unpacked


def _padding(mask: bytes, index: int, field: str) -> int:
    """How many leading positions of a row are padding, after checking its mask; an empty mask means none."""
    if not mask:
        return 0
    real = mask.lstrip(b"\0")
    if not real:
        raise invalid_field(f"{field}.attention_mask", f"row {index} has no real token")
    if mask.translate(None, b"\0\1"):
        raise invalid_field(f"{field}.attention_mask", f"row {index} has a value other than 0 and 1")
    if b"\0" in real:
        raise invalid_field(f"{field}.attention_mask", f"row {index} has padding right of a real token")
    return len(mask) - len(real)


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as little-endian int32 bytes."""
    packed = array("i", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_ids(packed: bytes) -> array[int]:
    """Token ids from little-endian int32 bytes, whose length is a multiple of 4."""
    ids = array("i")
    ids.frombytes(packed)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids
