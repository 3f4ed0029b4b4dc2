"""The tokenizer services, from the outside: prompts to tokens, and the tokenizer itself as a file.

The border to `tokenizer.proto`. Which service is asked, and who else if it fails, the pool knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import grpc

from gateway.deadline import Deadline
from gateway.fleet.tokenizer_instance import Stub
from gateway.fleet.tokenizer_pool import TokenizerPool
from gateway.generation import EncodedPrompts, Generation
from gateway.models import ServedModel
from gateway.text.artefact import ArtefactCache, CorruptArtefactError, TokenizerArtefact
from gateway.text.decoder_chain import UnsupportedDecoderError
from gateway.text.text_pieces import UndecodableVocabularyError
from rpc.call_record import REQUEST_ID_KEY, current_request_id, current_span
from rpc.errors import ServiceError, unavailable, vocabulary_mismatch
from rpc.token_tensors import unpack_tensor
from rpc.tracing.calls import rpc_attributes, rpc_name
from rpc.tracing.span import Kind, part_of
from tokenmill.v1 import tokenizer_pb2

# A tokenizer.json of the largest vocabularies is about 35 MB.
MAX_ARTEFACT_BYTES = 256 * 2**20
FETCH_TIMEOUT_SECONDS = 60.0
ASK_TIMEOUT_SECONDS = 5.0
# Whether the model knows the ids is checked where the caller's own are, in terms of the caller's request.
ANY_VOCABULARY = 2**31
ENCODE = "/tokenmill.v1.TokenizerService/Encode"
UNUSABLE_TOKENIZER = "UNUSABLE_TOKENIZER"


class TokenizerClient:
    """Owns the artefacts that were fetched from the tokenizer services; event loop only."""

    def __init__(self, services: TokenizerPool, learn: Callable[[str, str], None]) -> None:
        """`learn` is told the fingerprint of a model's vocabulary whenever one of them says it."""
        self._services = services
        self._learn = learn
        self._artefacts = ArtefactCache()
        self._fetching = asyncio.Lock()  # one fetch at a time: a new vocabulary arrives with many requests at once
        self._template_fingerprints: dict[str, str] = {}

    async def encode(self, model: ServedModel, generation: Generation, deadline: Deadline) -> EncodedPrompts:
        """The prompts of a request as tokens. Errors: ServiceError."""
        if generation.prompt is None:
            return EncodedPrompts(generation.token_prompts, model.vocabulary_fingerprint)
        request = tokenizer_pb2.EncodeRequest()
        request.CopyFrom(cast("tokenizer_pb2.EncodeRequest", generation.prompt))
        request.model = model.base
        request_id = (REQUEST_ID_KEY, current_request_id())

        async def encode(stub: Stub) -> tokenizer_pb2.EncodeResponse:
            with part_of(current_span(), rpc_name(ENCODE), Kind.CLIENT, rpc_attributes(ENCODE)) as span:
                metadata = (request_id, *(span.context.metadata() if span.context else ()))
                return await stub.Encode(request, metadata=metadata, timeout=deadline.remaining())

        try:
            response = await self._services.ask(encode, deadline)
        except ServiceError as error:
            raise error.without_prefix("chat.") from None
        self._template_fingerprints[model.base] = response.template_fingerprint
        self._learn(model.base, response.vocabulary_fingerprint)
        rows = unpack_tensor(response.tokens, ANY_VOCABULARY)
        return EncodedPrompts(rows, response.vocabulary_fingerprint)

    async def artefact(self, model: ServedModel, vocabulary_fingerprint: str) -> TokenizerArtefact:
        """The tokenizer that made these ids, fetched if it is not known yet. Errors: ServiceError."""
        known = self._artefacts.get(vocabulary_fingerprint)
        if known is not None:
            return known
        with part_of(current_span(), "fetch tokenizer"):
            return await self._fetched(model, vocabulary_fingerprint)

    async def _fetched(self, model: ServedModel, vocabulary_fingerprint: str) -> TokenizerArtefact:
        async with self._fetching:
            known = self._artefacts.get(vocabulary_fingerprint)
            if known is None:
                known = await self._services.ask(
                    lambda stub: self._fetch(stub, model, vocabulary_fingerprint), Deadline(), FETCH_TIMEOUT_SECONDS
                )
                self._artefacts.put(known)
        return known

    async def template_fingerprint(self, model: ServedModel) -> str:
        """Of the model's chat template, as its tokenizer service last told; empty without one, or if none answers."""
        if model.base not in self._template_fingerprints:
            deadline = Deadline.after(ASK_TIMEOUT_SECONDS)
            with suppress(ServiceError):
                self._template_fingerprints[model.base] = await self._services.ask(
                    lambda stub: self._ask_template(stub, model, deadline), deadline
                )
        return self._template_fingerprints.get(model.base, "")

    async def _ask_template(self, stub: Stub, model: ServedModel, deadline: Deadline) -> str:
        call: Any = stub.GetTokenizer(_request(model), timeout=deadline.remaining())
        try:
            response = await call.read()
        finally:
            call.cancel()  # only the first part is wanted
        return str(response.info.template_fingerprint)

    async def _fetch(self, stub: Stub, model: ServedModel, fingerprint: str) -> TokenizerArtefact:
        """Errors: ServiceError if it is not the tokenizer of `fingerprint`, or none that can be used here."""
        content, sha256 = bytearray(), b""
        call: Any = stub.GetTokenizer(_request(model))
        try:
            async for response in call:
                if response.HasField("info"):
                    self._template_fingerprints[model.base] = response.info.template_fingerprint
                    self._learn(model.base, response.info.vocabulary_fingerprint)
                    _check_info(response.info, model, fingerprint)
                elif response.HasField("sha256"):
                    sha256 = response.sha256
                else:
                    content += response.chunk
                    _check_size(len(content), model)
        finally:
            call.cancel()
        try:
            return await asyncio.to_thread(TokenizerArtefact, bytes(content), sha256, fingerprint)
        except CorruptArtefactError:
            raise unavailable(
                "TOKENIZER_CORRUPT", f"the tokenizer of model {model.name!r} did not arrive whole"
            ) from None
        except (UnsupportedDecoderError, UndecodableVocabularyError) as error:
            raise _unusable(model, str(error)) from None


def _request(model: ServedModel) -> tokenizer_pb2.GetTokenizerRequest:
    return tokenizer_pb2.GetTokenizerRequest(model=model.base)


def _check_info(info: tokenizer_pb2.TokenizerInfo, model: ServedModel, fingerprint: str) -> None:
    """Before the artefact is fetched. Errors: ServiceError."""
    if info.vocabulary_fingerprint != fingerprint:
        raise vocabulary_mismatch(None)
    _check_size(info.artefact_bytes, model)


def _check_size(artefact_bytes: int, model: ServedModel) -> None:
    if artefact_bytes > MAX_ARTEFACT_BYTES:
        raise _unusable(model, f"it has more than {MAX_ARTEFACT_BYTES} bytes")


def _unusable(model: ServedModel, why: str) -> ServiceError:
    message = f"the tokenizer of model {model.name!r} cannot be used for streaming: {why}"
    return ServiceError(grpc.StatusCode.FAILED_PRECONDITION, UNUSABLE_TOKENIZER, message)
