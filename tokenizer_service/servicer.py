"""TokenizerService: messages in, tensors and texts out. What happens in between is the domain's."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from rpc.call_record import count_tokens
from rpc.errors import invalid_field, unavailable
from tokenizer_service.encode_response import encode_response
from tokenizer_service.encoder import EncodedRow
from tokenizer_service.messages import chat_from, check_chat_size, named_errors, options_from
from tokenizer_service.metrics import TokenizerMetrics
from tokenizer_service.served_tokenizers import ServedTokenizer, ServedTokenizers
from tokenizer_service.work_pool import WorkPool
from tokenmill.v1 import tokenizer_pb2, tokenizer_pb2_grpc

CHUNK_BYTES = 2**20
# Rows of one request: what one call may make of a message that is bounded in bytes, but not in its number of texts.
MAX_ROWS = 1024

Context = grpc.aio.ServicerContext[Any, Any]


class TokenizerServicer(tokenizer_pb2_grpc.TokenizerServiceServicer):
    """Answers once `tokenizers` is set; UNAVAILABLE before."""

    def __init__(self, pool: WorkPool, metrics: TokenizerMetrics) -> None:
        self._metrics = metrics
        self._pool = pool  # whatever takes longer with larger messages is done there
        self.tokenizers: ServedTokenizers | None = None

    async def Encode(self, request: tokenizer_pb2.EncodeRequest, context: Context) -> tokenizer_pb2.EncodeResponse:
        """Prompts, or one chat, to one left-padded tensor."""
        served = self._find(request.model)
        kind = request.WhichOneof("input")
        if kind is None:
            raise invalid_field("input", "one of prompts and chat is required")
        with named_errors(served.name, kind):
            rows = await self._rows(served, request)
            tokens = sum(len(row.ids) for row in rows)
            count_tokens(prompt_tokens=tokens)
            self._metrics.encode(served.name, tokens)
            return await self._pool.run_if_large(tokens, lambda: encode_response(served, rows, request))

    async def Decode(self, request: tokenizer_pb2.DecodeRequest, context: Context) -> tokenizer_pb2.DecodeResponse:
        """Token ids to text."""
        served = self._find(request.model)
        if len(request.sequences) > MAX_ROWS:
            raise invalid_field("sequences", f"at most {MAX_ROWS}, got {len(request.sequences)}")
        with named_errors(served.name, "sequences"):
            texts = await served.decoder.decode(
                [list(sequence.ids) for sequence in request.sequences], keep_special_tokens=request.keep_special_tokens
            )
        return tokenizer_pb2.DecodeResponse(texts=texts)

    async def GetTokenizer(
        self, request: tokenizer_pb2.GetTokenizerRequest, context: Context
    ) -> AsyncIterator[tokenizer_pb2.GetTokenizerResponse]:
        """The tokenizer as a file: info, chunks, SHA-256."""
        served = self._find(request.model)
        artefact = served.loaded.artefact
        yield tokenizer_pb2.GetTokenizerResponse(
            info=tokenizer_pb2.TokenizerInfo(
                model=served.name,
                vocabulary_fingerprint=served.vocabulary_fingerprint,
                template_fingerprint=served.template_fingerprint,
                pad_token_id=served.loaded.pad_token_id,
                eos_token_ids=served.loaded.eos_token_ids,
                vocabulary_size=served.loaded.vocabulary_size,
                artefact_bytes=len(artefact),
            )
        )
        for start in range(0, len(artefact), CHUNK_BYTES):
            yield tokenizer_pb2.GetTokenizerResponse(chunk=artefact[start : start + CHUNK_BYTES])
        yield tokenizer_pb2.GetTokenizerResponse(sha256=hashlib.sha256(artefact).digest())

    def _find(self, name: str) -> ServedTokenizer:
        if self.tokenizers is None:
            raise unavailable("LOADING", "the tokenizer service is still loading")
        return self.tokenizers.find(name)

    async def _rows(self, served: ServedTokenizer, request: tokenizer_pb2.EncodeRequest) -> list[EncodedRow]:
        options = options_from(request)
        if request.HasField("chat"):
            size = check_chat_size(request.chat, served.encoder.max_input_bytes)
            chat = await self._pool.run_if_large(size, lambda: chat_from(request.chat))
            return [await served.encoder.encode_chat(chat, options)]
        if len(request.prompts.texts) > MAX_ROWS:
            raise invalid_field("prompts.texts", f"at most {MAX_ROWS}, got {len(request.prompts.texts)}")
        return await served.encoder.encode_prompts(request.prompts.texts, options)
