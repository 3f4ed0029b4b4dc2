"""What one step looks like to the model: computed once, then read by every attention layer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from model_worker.engine import Segment

Ids = npt.NDArray[np.int64]
Made = TypeVar("Made")


class Span(NamedTuple):
    """The place of a segment, or of a part of one.

    Rows `[row, row + length)` of the step are positions `[position, position + length)` of its sequence, whose K/V
    begin at token `origin` of the arena. A tuple, because masks are kept by it.
    """

    row: int
    length: int
    position: int
    origin: int


class StepLayout:
    """All segments of one step laid end to end, without padding, as a batch of one row of T tokens.

    `input_ids` and `position_ids` are int64 [1, T] on `device`, `last_rows` is int64 [segments] on the CPU (the row of
    each segment's last token). `spans` are the places of the segments. What attention layers ask for is made once a
    step, on each device that has some of them.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        assert segments
        self.spans = _spans(segments)
        lengths = [span.length for span in self.spans]
        positions = np.concatenate([np.arange(span.position, span.position + span.length) for span in self.spans])
        self._origins = np.repeat([span.origin for span in self.spans], lengths)
        self._positions = positions
        ids = np.concatenate([_ids(segment) for segment in segments])
        self.input_ids = torch.from_numpy(ids).to(device).unsqueeze(0)
        self.position_ids = torch.from_numpy(positions).to(device).unsqueeze(0)
        self.last_rows = torch.tensor([span.row + span.length - 1 for span in self.spans])
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` returns; under the same `key` it is asked only the first time in this step."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def slots(self, device: torch.device) -> torch.Tensor:
        """Return where each token's K/V go: int64 [T] on `device`."""
        return self.once(("slots", device), lambda: torch.from_numpy(self._origins + self._positions).to(device))

    def token_histories(self, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return for each token the first token of the arena that its query looks at, and how many: int64 [T], CPU."""
        return self.once(("token histories", window), lambda: self._token_histories(window))

    def mask(self, span: Span, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Return what is added to the scores of `span`: 0 where a query may look, -inf elsewhere.

        [length, keys], over the keys of the span's history, in the dtype and on the device of `like`.
        """
        key = ("mask", span, window, like.dtype, like.device)
        return self.once(key, lambda: _mask(span, window, like))

    def _token_histories(self, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self._positions + 1
        count = seen if window is None else np.minimum(seen, window)
        return torch.from_numpy(self._origins + seen - count), torch.from_numpy(count)


def history(span: Span, window: int | None) -> tuple[int, int]:
    """Return the first token of the arena that any query of `span` looks at, and how many there are from it on.

    A window of W shows a query W tokens, its own included.
    """
    first = _first_key(span, window)
    return span.origin + first, span.position + span.length - first


def _mask(span: Span, window: int | None, like: torch.Tensor) -> torch.Tensor:
    query = torch.arange(span.position, span.position + span.length, device=like.device).unsqueeze(1)
    keys = torch.arange(_first_key(span, window), span.position + span.length, device=like.device)
    hidden = keys > query
    if window is not None:
        hidden |= keys <= query - window
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)


def _first_key(span: Span, window: int | None) -> int:
    return 0 if window is None else max(0, span.position + 1 - window)


def _spans(segments: Sequence[Segment]) -> list[Span]:
    spans, row = [], 0
    for segment in segments:
        extent = segment.sequence.extent
        assert extent is not None
        assert segment.start + segment.length <= extent.capacity
        spans.append(Span(row, segment.length, segment.start, extent.start))
        row += segment.length
    return spans


def _ids(segment: Segment) -> Ids:
    return np.asarray(segment.sequence.ids[segment.start : segment.start + segment.length], dtype=np.int64)
