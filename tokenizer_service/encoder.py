"""Text to token ids: prompts as they are, chats through the model's template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding

from tokenizer_service.chat import Chat
from tokenizer_service.control.control_text import ControlText
from tokenizer_service.control.control_tokens import ControlTokens
from tokenizer_service.errors import InvalidInput
from tokenizer_service.loaded_tokenizer import LoadedTokenizer
from tokenizer_service.templates.chat_rendering import ChatRendering, Renderer
from tokenizer_service.work_pool import WorkPool


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How texts become ids."""

    add_special_tokens: bool | None = None  # what the tokenizer puts around a text; default: prompts yes, chats no
    parse_special_tokens: bool = False  # control tokens written by the caller act as such
    truncate_prompt_tokens: int | None = None  # keep only the last N
    with_offsets: bool = False


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One text: its ids, and the (start, end) of each in the text, in characters, if asked for."""

    ids: list[int]
    offsets: list[tuple[int, int]] | None = None


class Encoder:
    """Encodes for one model. Threads and render processes are shared among models."""

    def __init__(self, tokenizer: LoadedTokenizer, renderer: Renderer, pool: WorkPool, *, max_input_bytes: int) -> None:
        self._tokenizer = tokenizer
        self._controls = ControlTokens(tokenizer.backend)
        self._rendering = ChatRendering(tokenizer, self._controls, renderer, pool)
        self._pool = pool
        self.max_input_bytes = max_input_bytes

    async def encode_prompts(self, texts: Sequence[str], options: EncodeOptions) -> list[EncodedRow]:
        """Return one row per text. Errors: InvalidInput, EncodeQueueFull."""
        _check(options)
        self._check_prompts(texts)
        rows = await self._pool.run(lambda: self._encode_prompts(texts, options))
        for index, row in enumerate(rows):
            if not row.ids:
                raise InvalidInput(f"prompts.texts[{index}]", "has no tokens")
        return rows

    async def encode_chat(self, chat: Chat, options: EncodeOptions) -> EncodedRow:
        """Return the chat, whose size was checked, as one row.

        Errors: InvalidInput, EncodeQueueFull, and those of ChatRendering.render.
        """
        _check(options)
        text = await self._rendering.render(chat, parse_special_tokens=options.parse_special_tokens)
        row = await self._pool.run(lambda: self._encode_chat(text, options))
        if not row.ids:
            raise InvalidInput("messages", "the chat template makes no tokens of them")
        return row

    def _check_prompts(self, texts: Sequence[str]) -> None:
        if not texts:
            raise InvalidInput("prompts.texts", "at least one text is needed")
        for index, text in enumerate(texts):
            if not text:
                raise InvalidInput(f"prompts.texts[{index}]", "is empty")
        size = sum(len(text.encode()) for text in texts)
        if size > self.max_input_bytes:
            raise InvalidInput("prompts.texts", f"{size} bytes of text, at most {self.max_input_bytes} are taken")

    def _encode_prompts(self, texts: Sequence[str], options: EncodeOptions) -> list[EncodedRow]:
        tokenizer = self._tokenizer.backend if options.parse_special_tokens else self._controls.plain
        # Not `encode`, which holds the GIL all along, nor offsets where nobody wants them.
        encode = tokenizer.encode_batch if options.with_offsets else tokenizer.encode_batch_fast
        add_special_tokens = options.add_special_tokens is not False
        encodings: list[Encoding] = encode(list(texts), add_special_tokens=add_special_tokens)
        return [
            self._row(encoding.ids, encoding.offsets if options.with_offsets else None, options)
            for encoding in encodings
        ]

    def _encode_chat(self, text: ControlText, options: EncodeOptions) -> EncodedRow:
        text, encoding = self._controls.encode(text, with_offsets=options.with_offsets)
        if options.add_special_tokens:
            encoding = self._controls.plain.post_process(encoding, None, add_special_tokens=True)
        offsets = text.original_offsets(encoding.offsets) if options.with_offsets else None
        return self._row(encoding.ids, offsets, options)

    def _row(self, ids: list[int], offsets: list[tuple[int, int]] | None, options: EncodeOptions) -> EncodedRow:
        # The tokenizer puts its BOS also before a text that begins with one.
        doubled = self._tokenizer.adds_bos and ids[:2] == [self._tokenizer.bos_token_id] * 2
        first = max(int(doubled), len(ids) - (options.truncate_prompt_tokens or len(ids)))
        return EncodedRow(ids[first:], offsets[first:] if offsets is not None else None)


def _check(options: EncodeOptions) -> None:
    limit = options.truncate_prompt_tokens
    if limit is not None and limit < 1:
        raise InvalidInput("truncate_prompt_tokens", f"{limit} is not at least 1")
