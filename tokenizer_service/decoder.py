"""Token ids to text."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizer_service.errors import InvalidInput
from tokenizer_service.loaded_tokenizer import LoadedTokenizer
from tokenizer_service.work_pool import WorkPool


class Decoder:
    """Decodes for one model, each sequence alone. The threads are shared among models."""

    def __init__(self, tokenizer: LoadedTokenizer, pool: WorkPool) -> None:
        self._tokenizer = tokenizer
        self._pool = pool

    async def decode(self, sequences: Sequence[Sequence[int]], *, keep_special_tokens: bool) -> list[str]:
        """Return one text per sequence; ids without a token inside the vocabulary become nothing.

        Errors: InvalidInput, EncodeQueueFull.
        """
        size = self._tokenizer.vocabulary_size
        for index, ids in enumerate(sequences):
            if not ids:
                raise InvalidInput(f"sequences[{index}].ids", "must not be empty")
            if min(ids) < 0 or max(ids) >= size:
                raise InvalidInput(f"sequences[{index}].ids", f"has an id outside the vocabulary, [0, {size})")
        backend, skip = self._tokenizer.backend, not keep_special_tokens
        return await self._pool.run(lambda: backend.decode_batch(sequences, skip_special_tokens=skip))
