"""What the servicer adds to the domain: its errors by name."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import grpc
import pytest

from rpc.errors import ServiceError
from tokenizer_service.encoder import EncodedRow, EncodeOptions
from tokenizer_service.metrics import TokenizerMetrics
from tokenizer_service.served_tokenizers import ServedTokenizer, ServedTokenizers
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.work_pool import WorkPool
from tokenmill.v1 import gateway_pb2, tokenizer_pb2

NOT_REACHED = cast("Any", None)


class LongRows:
    """An encoder whose every text has 10,000 tokens: enough for its tensor to be packed in the pool."""

    async def encode_prompts(self, texts: list[str], options: EncodeOptions) -> list[EncodedRow]:
        return [EncodedRow([1] * 10_000) for _ in texts]


async def test_a_pool_that_fills_up_while_a_text_is_encoded_is_a_full_queue() -> None:
    pool = WorkPool(1, max_waiting=0)
    servicer = TokenizerServicer(pool, TokenizerMetrics(pool))
    served = ServedTokenizer("m", NOT_REACHED, "f", cast("Any", LongRows()), NOT_REACHED)
    servicer.tokenizers = ServedTokenizers([served])
    release = threading.Event()
    busy = asyncio.create_task(pool.run(release.wait))
    await asyncio.sleep(0)
    request = tokenizer_pb2.EncodeRequest(prompts=gateway_pb2.TextPrompts(texts=["a text"]))
    try:
        with pytest.raises(ServiceError) as refused:
            await servicer.Encode(request, NOT_REACHED)
    finally:
        release.set()
        await busy
        await pool.close()
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert refused.value.retry_after_seconds
