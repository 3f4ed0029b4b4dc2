"""Encoded rows as the contract's tensor, if that fits into a message."""

from __future__ import annotations

from collections.abc import Sequence

from rpc.errors import invalid_field
from rpc.token_tensors import MAX_TENSOR_BYTES, pack_tensor, tensor_bytes
from tokenizer_service.encoder import EncodedRow
from tokenizer_service.served_tokenizers import ServedTokenizer
from tokenmill.v1 import tokenizer_pb2

# Start and end of a token are positions in a text of at most 16 MiB: at most 4 bytes each.
_OFFSET_BYTES = 8


def encode_response(
    served: ServedTokenizer, rows: Sequence[EncodedRow], request: tokenizer_pb2.EncodeRequest
) -> tokenizer_pb2.EncodeResponse:
    """The answer to `request`, at least one row. Errors: ServiceError, where the padded rows would be too large."""
    _check_size(rows, request)
    return tokenizer_pb2.EncodeResponse(
        tokens=pack_tensor([row.ids for row in rows], served.loaded.pad_token_id),
        token_counts=[len(row.ids) for row in rows],
        vocabulary_fingerprint=served.vocabulary_fingerprint,
        template_fingerprint=served.template_fingerprint,
        offsets=[_offsets(row) for row in rows] if request.offsets else (),
    )


def _check_size(rows: Sequence[EncodedRow], request: tokenizer_pb2.EncodeRequest) -> None:
    """One long text makes every row long, so it is the one to name."""
    width, longest = max((len(row.ids), -index) for index, row in enumerate(rows))
    size = tensor_bytes(len(rows), width)
    if request.offsets:
        size += sum(len(row.ids) for row in rows) * _OFFSET_BYTES
    if size > MAX_TENSOR_BYTES:
        field = "chat.messages" if request.HasField("chat") else f"prompts.texts[{-longest}]"
        padded = f"{len(rows)} rows padded to that have {size} bytes, at most {MAX_TENSOR_BYTES} are sent"
        raise invalid_field(field, f"has {width} tokens; {padded}")


def _offsets(row: EncodedRow) -> tokenizer_pb2.TokenOffsets:
    offsets = row.offsets or ()
    return tokenizer_pb2.TokenOffsets(starts=[start for start, _ in offsets], ends=[end for _, end in offsets])
