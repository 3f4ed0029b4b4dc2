"""From the token ids of an output to its text, as they arrive.

The text of an output is what its ids add to the prompt: decode(tail + ids) without what it has in common with
decode(tail), from the beginning on, special tokens skipped unless kept (`decode_output`). The tail
(`TokenizerArtefact.prompt_tail`) gives the output its context: the space before a word, the rest of a character, `##`.
Almost always decode(tail) is a prefix of the whole and simply falls away. Where the prompt ends inside a character it
is not: then the output's text begins with the character that the first ids complete.

`Detokenizer` says the same text in parts, whatever the chunks in which ids arrive, each part as soon as no further id
can change it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from gateway.text.artefact import TokenizerArtefact
from gateway.text.text_assembler import Span


def decode_output(
    tokenizer: Tokenizer, prompt_tail: Sequence[int], ids: Sequence[int], *, keep_special_tokens: bool = False
) -> str:
    """The text of a whole output: the definition that `Detokenizer` keeps to."""
    before = tokenizer.decode(prompt_tail, skip_special_tokens=not keep_special_tokens)
    whole = tokenizer.decode([*prompt_tail, *ids], skip_special_tokens=not keep_special_tokens)
    return whole[_common_length(before, whole) :]


class Detokenizer:
    """The text of one output. Owned by the task that reads the output's ids; O(1) per token."""

    def __init__(
        self, artefact: TokenizerArtefact, prompt_tail: Sequence[int], *, keep_special_tokens: bool = False
    ) -> None:
        self._text = artefact.pieces(keep_special_tokens=keep_special_tokens).assembler(len(prompt_tail))
        self._text.push(prompt_tail)
        self.token_text = artefact.token_text
        # The end of decode(tail) that the first ids may still change.
        self._prompt_rest = "".join(span.text for span in self._text.rest())

    @property
    def settled_tokens(self) -> int:
        """How many tokens of the output are decided: no text that is still to come ends before the next one."""
        return max(self._text.settled_tokens, 0)

    def push(self, ids: Sequence[int]) -> list[Span]:
        """Append ids and return the text that has become certain, with the number of tokens that completes it."""
        return self._without_prompt(self._text.push(ids))

    def flush(self) -> list[Span]:
        """No ids will follow: the rest of the text."""
        return self._without_prompt(self._text.rest())

    def _without_prompt(self, spans: list[Span]) -> list[Span]:
        if not self._prompt_rest:
            return spans
        said = []
        for text, tokens in spans:
            common = _common_length(self._prompt_rest, text)
            self._prompt_rest = self._prompt_rest[common:] if common == len(text) else ""
            said.append(Span(text[common:], max(tokens, 1)))
        return [span for span in said if span.text]


def _common_length(one: str, other: str) -> int:
    shorter = min(len(one), len(other))
    return next((position for position in range(shorter) if one[position] != other[position]), shorter)
