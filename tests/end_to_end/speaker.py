"""A model that says what the test wants, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_worker.engines.fake_engine import FakeModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_worker.sequence import Sequence as Row
    from tests.end_to_end.stack import TokenizerTier


@dataclass(frozen=True, slots=True)
class Speaker(FakeModel):
    """A row whose prompt begins with token i says script i, over and over."""

    scripts: tuple[tuple[int, ...], ...] = ()

    def next_token(self, sequence: Row, likeliest: int) -> int:
        script = self.scripts[sequence.ids[0]]
        return script[sequence.generated_tokens % len(script)]


def speaker(tier: TokenizerTier, *scripts: Sequence[int], **given: int) -> Speaker:
    """A model of the tier's vocabulary with these scripts."""
    vocabulary_size = tier.model().vocabulary_size
    return Speaker(vocabulary_size=vocabulary_size, scripts=tuple(map(tuple, scripts)), **given)
