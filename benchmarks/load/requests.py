"""What is asked: requests of given lengths, the same ones in every run. Lengths are tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

_LENGTHS_SEED = 3
# Ordinary words. Those that the model spells with one token make prompts whose length is known without tokenizing.
_WORDS = """
river stone house light water music garden winter summer morning evening paper table window road city mountain forest
ocean island bridge school teacher doctor farmer market village country family friend animal bird horse flower tree
field cloud rain snow wind fire earth story letter book picture question answer number color sound voice hand heart
body food bread milk fruit time year day night week month world people child mother father
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, as text and as the ids of that text, and how many tokens to generate: exactly so many."""

    text: str
    ids: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Ranges that lengths are drawn from, uniformly, both ends included."""

    prompt: tuple[int, int]
    output: tuple[int, int]

    @classmethod
    def exactly(cls, prompt: int, output: int) -> Lengths:
        """All requests alike."""
        return cls((prompt, prompt), (output, output))


class PromptWords:
    """Makes prompts out of words that are one token each."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        """`ids` maps a word, with the space before it, to its token."""
        self._words = sorted(ids.items())

    @classmethod
    def of_model(cls, folder: Path) -> PromptWords:
        """The words that the tokenizer of the model in `folder` spells with one token."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        encoded = {f" {word}": tokenizer.encode(f" {word}", add_special_tokens=False).ids for word in _WORDS.split()}
        return cls({word: ids[0] for word, ids in encoded.items() if len(ids) == 1})

    def requests(self, count: int, lengths: Lengths, *, variant: int) -> list[Request]:
        """`count` requests. Their lengths are always the same; every `variant`, count and range has words of its own.

        What is asked later must not find its prompts computed already.
        """
        draw_length = random.Random(_LENGTHS_SEED)  # noqa: S311 - a workload, not a secret
        # A number would lose its sign, and draw the same words for every count.
        draw_word = random.Random(f"{variant} {count} {lengths}")  # noqa: S311 - likewise
        made = []
        for _ in range(count):
            words = draw_word.choices(self._words, k=draw_length.randint(*lengths.prompt))
            text = "".join(word for word, _ in words)
            made.append(Request(text, tuple(token_id for _, token_id in words), draw_length.randint(*lengths.output)))
        return made


def poisson_arrivals(count: int, per_second: float, seed: int) -> list[float]:
    """When `count` requests arrive, in seconds from the start: independent of each other, `per_second` on average."""
    draw = random.Random(seed)  # noqa: S311 - a workload, not a secret
    arrivals, now = [], 0.0
    for _ in range(count):
        now += draw.expovariate(per_second)
        arrivals.append(now)
    return arrivals
