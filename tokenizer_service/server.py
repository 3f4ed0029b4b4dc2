"""The tokenizer service: what it is made of, and when it is ready."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import grpc

from rpc.cpu import granted_cores
from rpc.fingerprint import FingerprintError, vocabulary_fingerprint
from rpc.named_folders import named_folders
from rpc.service import Surroundings
from rpc.start_error import StartError
from tokenizer_service.chat import Chat, Message
from tokenizer_service.decoder import Decoder
from tokenizer_service.encoder import EncodeOptions, Encoder
from tokenizer_service.errors import NoChatTemplate, TemplateError, TokenizerFolderError
from tokenizer_service.loaded_tokenizer import load_tokenizer
from tokenizer_service.metrics import TokenizerMetrics
from tokenizer_service.served_tokenizers import ServedTokenizer, ServedTokenizers
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.settings import TokenizerSettings
from tokenizer_service.templates.render_limits import RenderLimits
from tokenizer_service.templates.template_renderer import TemplateRenderer
from tokenizer_service.work_pool import WorkPool
from tokenmill.v1 import tokenizer_pb2, tokenizer_pb2_grpc


class TokenizerService:
    """Owns the encoding threads and the render processes. Ready: every model loaded and one text encoded with it."""

    name = "tokenizer"
    full_name = tokenizer_pb2.DESCRIPTOR.services_by_name["TokenizerService"].full_name

    def __init__(self, settings: TokenizerSettings) -> None:
        threads = settings.threads or granted_cores()
        self._settings = settings
        self._pool = WorkPool(threads, max_waiting=settings.max_queue)
        self._metrics = TokenizerMetrics(self._pool)
        self._servicer = TokenizerServicer(self._pool, self._metrics)
        limits = RenderLimits.for_chats_of(settings.max_input_bytes, seconds=settings.template_seconds)
        self._renderer = TemplateRenderer(limits, processes=threads, max_waiting=settings.max_queue)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(self._servicer, server)

    def check_caller(self, metadata: object) -> None:
        """Everybody who can call may: it is the gateway that knows callers."""

    async def listen(self, surroundings: Surroundings) -> None:
        """Tell of itself; it has no port of its own."""
        surroundings.registry.register(self._metrics)

    async def start(self) -> None:
        """Load every model and warm it up. Errors: StartError."""
        try:
            folders = named_folders("--model", self._settings.model)
        except ValueError as error:
            raise StartError(str(error)) from None
        await self._renderer.start()
        served = [await self._load(name, folder) for name, folder in folders.items()]
        self._servicer.tokenizers = ServedTokenizers(served)

    async def wait_broken(self) -> NoReturn:
        """Never return: a broken template process is replaced."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def describe(self) -> dict[str, object]:
        """Every tokenizer; none while they are loaded."""
        return {"models": [_described(one) for one in self._servicer.tokenizers or ()]}

    def stop_accepting(self) -> None:
        """Nothing to do: calls take milliseconds."""

    async def close(self) -> None:
        """End threads and processes."""
        await self._renderer.close()
        await self._pool.close()

    async def _load(self, name: str, folder: Path) -> ServedTokenizer:
        try:
            loaded = await asyncio.to_thread(load_tokenizer, folder)
            fingerprint = vocabulary_fingerprint(folder)
        except (TokenizerFolderError, FingerprintError) as error:
            raise StartError(f"--model {name}: {error}") from error
        max_input_bytes = self._settings.max_input_bytes
        # A second for each 50,000 tokens of vocabulary.
        encoder = await asyncio.to_thread(Encoder, loaded, self._renderer, self._pool, max_input_bytes=max_input_bytes)
        await encoder.encode_prompts(["warm-up"], EncodeOptions())
        with suppress(NoChatTemplate, TemplateError):  # no chats, or a template that wants more than this
            await encoder.encode_chat(Chat([Message("user", "warm-up")]), EncodeOptions())
        return ServedTokenizer(name, loaded, fingerprint, encoder, Decoder(loaded, self._pool))


def _described(served: ServedTokenizer) -> dict[str, object]:
    return {
        "name": served.name,
        "vocabulary_fingerprint": served.vocabulary_fingerprint,
        "template_fingerprint": served.template_fingerprint,
        "vocabulary_size": served.loaded.vocabulary_size,
        "pad_token_id": served.loaded.pad_token_id,
        "bos_token_id": served.loaded.bos_token_id,
        "eos_token_ids": list(served.loaded.eos_token_ids),
        "artefact_bytes": len(served.loaded.artefact),
    }
