"""The models this service knows, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rpc.errors import invalid_field, unknown_model
from tokenizer_service.decoder import Decoder
from tokenizer_service.encoder import Encoder
from tokenizer_service.loaded_tokenizer import LoadedTokenizer


@dataclass(frozen=True, slots=True)
class ServedTokenizer:
    """One model's tokenizer with what works on it."""

    name: str
    loaded: LoadedTokenizer
    vocabulary_fingerprint: str
    encoder: Encoder
    decoder: Decoder

    @property
    def template_fingerprint(self) -> str:
        """SHA-256 of the chat template, hexadecimal; empty without one."""
        return self.loaded.templates.fingerprint


class ServedTokenizers:
    """All of them; immutable."""

    def __init__(self, tokenizers: Sequence[ServedTokenizer]) -> None:
        self._by_name = {tokenizer.name: tokenizer for tokenizer in tokenizers}

    def __iter__(self) -> Iterator[ServedTokenizer]:
        """Each of them."""
        return iter(self._by_name.values())

    def find(self, name: str) -> ServedTokenizer:
        """The tokenizer of the model `name`; empty: the only one. Errors: ServiceError."""
        if not name:
            if len(self._by_name) > 1:
                raise invalid_field("model", f"must be one of {', '.join(sorted(self._by_name))}")
            return next(iter(self._by_name.values()))
        if name not in self._by_name:
            raise unknown_model(name)
        return self._by_name[name]
