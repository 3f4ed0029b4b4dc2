"""What one step looks like to the model: computed once, then read by every attention layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model_worker.engine import Segment

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """The place of a segment, or of a part of one.

    Rows `[row, row + length)` of the step are positions `[position, position + length)` of its sequence, whose K/V
    begin at token `origin` of the arena.
    """

    row: int
    length: int
    position: int
    origin: int


class StepLayout:
    """All segments of one step laid end to end, without padding, as a batch of one row of T tokens.

    `input_ids` and `position_ids` are int64 [1, T] on `device`, `last_rows` is int64 [segments] on the CPU (the row of
    each segment's last token). `spans` are what attention computes at a time: the segments, or with `token_by_token`
    every token by itself. The kernels round a token among others differently than alone. What attention layers ask for
    is made once a step, on each device that has some of them.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device, *, token_by_token: bool = False) -> None:
        assert segments
        spans = _spans(segments)
        positions = np.concatenate([np.arange(span.position, span.position + span.length) for span in spans])
        origins = np.repeat([span.origin for span in spans], [span.length for span in spans])
        ids = np.concatenate([_ids(segment) for segment in segments])
        self.input_ids = torch.from_numpy(ids).to(device).unsqueeze(0)
        self.position_ids = torch.from_numpy(positions).to(device).unsqueeze(0)
        self.last_rows = torch.tensor([span.row + span.length - 1 for span in spans])
        self.spans = [token for span in spans for token in _tokens(span)] if token_by_token else spans
        self._slots = {torch.device("cpu"): torch.from_numpy(origins + positions)}
        self._histories: dict[int | None, list[tuple[int, int]]] = {}
        self._masks: dict[tuple[Span, int | None, torch.dtype, torch.device], torch.Tensor] = {}

    def slots(self, device: torch.device) -> torch.Tensor:
        """Return where each token's K/V go: int64 [T] on `device`."""
        if device not in self._slots:
            self._slots[device] = self._slots[torch.device("cpu")].to(device)
        return self._slots[device]

    def histories(self, window: int | None) -> list[tuple[int, int]]:
        """Return for each span the first token of the arena that it looks at, and how many."""
        if window not in self._histories:
            self._histories[window] = [_history(span, window) for span in self.spans]
        return self._histories[window]

    def mask(self, span: Span, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Return what is added to the scores of `span`: 0 where a query may look, -inf elsewhere.

        [length, keys], over the keys of the span's history, in the dtype and on the device of `like`.
        """
        dtype, device = like.dtype, like.device
        key = (span, window, dtype, device)
        if key not in self._masks:
            query = torch.arange(span.position, span.position + span.length, device=device).unsqueeze(1)
            keys = torch.arange(_first_key(span, window), span.position + span.length, device=device)
            hidden = keys > query
            if window is not None:
                hidden |= keys <= query - window
            self._masks[key] = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
        return self._masks[key]


def _first_key(span: Span, window: int | None) -> int:
    """Return the first position that any query of `span` sees: a window of W shows W tokens, the query's included."""
    return 0 if window is None else max(0, span.position + 1 - window)


def _history(span: Span, window: int | None) -> tuple[int, int]:
    first = _first_key(span, window)
    return span.origin + first, span.position + span.length - first


def _spans(segments: Sequence[Segment]) -> list[Span]:
    spans, row = [], 0
    for segment in segments:
        extent = segment.sequence.extent
        assert extent is not None
        assert segment.start + segment.length <= extent.capacity
        spans.append(Span(row, segment.length, segment.start, extent.start))
        row += segment.length
    return spans


def _tokens(span: Span) -> list[Span]:
    return [Span(span.row + i, 1, span.position + i, span.origin) for i in range(span.length)]


def _ids(segment: Segment) -> Ids:
    return np.asarray(segment.sequence.ids[segment.start : segment.start + segment.length], dtype=np.int64)
