"""Which worker has computed how much of a prompt before, as far as this gateway knows: it sent it there.

Approximate, and bounded: prompts are remembered in blocks, each under a hash of everything up to its end, the least
recently seen are forgotten first, and what a worker has thrown away meanwhile it does not say. A wrong guess costs
nothing but a less good choice. Prompts with different salts, or of different models, have nothing in common.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK_TOKENS = 64
MAX_BLOCKS = 65536
MAX_INSTANCES = 8  # of workers, remembered for one block: the latest


@dataclass(frozen=True, slots=True)
class PromptKey:
    """A prompt, and what it must have in common with another one to share anything."""

    model: str
    salt: str
    ids: array[int]


class PrefixAffinity:
    """Blocks of prompts and the instances of workers that were sent them; event loop only."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._blocks: OrderedDict[int, dict[str, None]] = OrderedDict()
        self._max_blocks = max_blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def cached_tokens(self, prompt: PromptKey) -> dict[str, int]:
        """By instance, how many tokens from the start of `prompt` it was sent before."""
        cached: dict[str, int] = {}
        for number, block in enumerate(_hashes(prompt)):
            # Whoever was sent a block was sent those before it, though these may be forgotten.
            instances = self._blocks.get(block)
            if instances is None:
                break
            cached |= dict.fromkeys(instances, (number + 1) * BLOCK_TOKENS)
        return cached

    def note(self, prompt: PromptKey, instance: str) -> None:
        """Remember that `instance` was sent `prompt`."""
        for block in _hashes(prompt):
            instances = self._blocks.setdefault(block, {})
            self._blocks.move_to_end(block)
            instances.pop(instance, None)
            instances[instance] = None
            if len(instances) > MAX_INSTANCES:
                del instances[next(iter(instances))]
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)


def _hashes(prompt: PromptKey) -> Iterator[int]:
    """One per whole block, of everything up to its end."""
    before = hash((prompt.model, prompt.salt))
    for start in range(0, len(prompt.ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        before = hash((before, prompt.ids[start : start + BLOCK_TOKENS].tobytes()))
        yield before
