"""How probable a token was, and what the token is as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and how probable it was (contract: TokenLogprob). From a worker it comes without text."""

    token_id: int
    logprob: float
    rank: int
    alternatives: tuple[TokenLogprob, ...] = ()
    text: bytes = b""

    def spelled(self, text_of: Callable[[int], bytes]) -> TokenLogprob:
        """The same with the text of its token, and of each alternative's."""
        alternatives = tuple([other.spelled(text_of) for other in self.alternatives])
        return TokenLogprob(self.token_id, self.logprob, self.rank, alternatives, text_of(self.token_id))

    def most_bytes(self) -> int:
        """How large it is at most as a message: 24 bytes for its numbers and tags, its text, its alternatives."""
        return 24 + len(self.text) + sum([other.most_bytes() for other in self.alternatives])


def parts_of(logprobs: Iterable[TokenLogprob], most_bytes: int) -> Iterator[list[TokenLogprob]]:
    """`logprobs` in order, in lists of at most `most_bytes` as a message; one that is larger stands alone."""
    part: list[TokenLogprob] = []
    left = most_bytes
    for logprob in logprobs:
        size = logprob.most_bytes()
        if part and size > left:
            yield part
            part, left = [], most_bytes
        part.append(logprob)
        left -= size
    if part:
        yield part
