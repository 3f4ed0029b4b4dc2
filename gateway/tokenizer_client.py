"""The tokenizer services, from the outside: prompts to tokens, and the tokenizer itself as a file.

The border to `tokenizer.proto`. Services take turns; one that cannot be reached is passed over.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar, cast

import grpc

from gateway.deadline import Deadline
from gateway.generation import EncodedPrompts, Generation
from gateway.models import ServedModel
from gateway.text.artefact import ArtefactCache, TokenizerArtefact
from rpc import log
from rpc.call_record import REQUEST_ID_KEY, current_request_id
from rpc.errors import ServiceError, internal, unavailable, vocabulary_mismatch
from rpc.status import translated_errors
from rpc.token_tensors import unpack_tensor
from rpc.transport import open_channel
from tokenmill.v1 import tokenizer_pb2, tokenizer_pb2_grpc

LOGGER = logging.getLogger("tokenmill.gateway.tokenizer")
PEER = "the tokenizer service"
# A tokenizer.json of the largest vocabularies is about 35 MB.
MAX_ARTEFACT_BYTES = 256 * 2**20
FETCH_TIMEOUT_SECONDS = 60.0
# Whether the model knows the ids is checked where the caller's own are, in terms of the caller's request.
ANY_VOCABULARY = 2**31
RETRY_SECONDS = 0.5

Stub: TypeAlias = "tokenizer_pb2_grpc.TokenizerServiceAsyncStub"  # a name of the type stubs only
Answer = TypeVar("Answer")


class TokenizerClient:
    """Owns the channels to the tokenizer services and the artefacts fetched from them; event loop only."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._channels = [open_channel(target) for target in targets]
        self._stubs: list[Stub] = [tokenizer_pb2_grpc.TokenizerServiceStub(channel) for channel in self._channels]
        self._turn = itertools.count()
        self._artefacts = ArtefactCache()
        self._fetching = asyncio.Lock()  # one fetch at a time: a new vocabulary arrives with many requests at once
        self._template_fingerprints: dict[str, str] = {}

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close(None) for channel in self._channels))

    async def encode(self, model: ServedModel, generation: Generation, deadline: Deadline) -> EncodedPrompts:
        """The prompts of a request as tokens. Errors: ServiceError."""
        if generation.prompt is None:
            return EncodedPrompts(generation.token_prompts, model.vocabulary_fingerprint)
        request = tokenizer_pb2.EncodeRequest()
        request.CopyFrom(cast("tokenizer_pb2.EncodeRequest", generation.prompt))
        request.model = model.name
        metadata = ((REQUEST_ID_KEY, current_request_id()),)

        async def encode(stub: Stub) -> tokenizer_pb2.EncodeResponse:
            return await stub.Encode(request, metadata=metadata, timeout=deadline.remaining())

        try:
            response = await self._ask(encode)
        except ServiceError as error:
            raise error.without_prefix("chat.") from None
        rows = unpack_tensor(response.tokens, ANY_VOCABULARY)
        return EncodedPrompts(rows, response.vocabulary_fingerprint)

    async def artefact(self, model: ServedModel, vocabulary_fingerprint: str) -> TokenizerArtefact:
        """The tokenizer that made these ids, fetched if it is not known yet. Errors: ServiceError."""
        known = self._artefacts.get(vocabulary_fingerprint)
        if known is not None:
            return known
        async with self._fetching:
            known = self._artefacts.get(vocabulary_fingerprint)
            if known is None:
                known = await self._ask(lambda stub: self._fetch(stub, model))
                self._artefacts.put(known)
        if known.vocabulary_fingerprint != vocabulary_fingerprint:
            raise vocabulary_mismatch()
        return known

    async def wait_for_artefact(self, model: ServedModel) -> None:
        """Fetch the tokenizer of `model`, however long its service takes to come up."""
        while True:
            try:
                await self.artefact(model, model.vocabulary_fingerprint)
            except ServiceError as error:
                log.event(LOGGER, logging.WARNING, "no tokenizer yet", model=model.name, why=error.message)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def template_fingerprint(self, model: ServedModel) -> str:
        """Of the model's chat template, as last fetched; empty without one."""
        return self._template_fingerprints.get(model.name, "")

    async def _ask(self, ask: Callable[[Stub], Awaitable[Answer]]) -> Answer:
        """The answer of the first service, beginning with the one whose turn it is, that can be reached."""
        first = next(self._turn)
        failure: ServiceError = unavailable("NO_TOKENIZER", "no tokenizer service can be reached")
        for offset in range(len(self._stubs)):
            try:
                with translated_errors(PEER):
                    return await ask(self._stubs[(first + offset) % len(self._stubs)])
            except ServiceError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
                failure = error
        raise failure

    async def _fetch(self, stub: Stub, model: ServedModel) -> TokenizerArtefact:
        request = tokenizer_pb2.GetTokenizerRequest(model=model.name)
        info, content, sha256 = tokenizer_pb2.TokenizerInfo(), bytearray(), b""
        async for response in stub.GetTokenizer(request, timeout=FETCH_TIMEOUT_SECONDS):
            if response.HasField("info"):
                info = response.info
            elif response.HasField("sha256"):
                sha256 = response.sha256
            elif len(content) + len(response.chunk) > MAX_ARTEFACT_BYTES:
                raise internal()
            else:
                content += response.chunk
        self._template_fingerprints[model.name] = info.template_fingerprint
        return await asyncio.to_thread(TokenizerArtefact, bytes(content), sha256, info.vocabulary_fingerprint)
