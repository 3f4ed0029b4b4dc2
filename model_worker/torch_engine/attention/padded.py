"""The plain kernel of a GPU: histories gathered and padded, rows of one length class in one product.

A kernel launch per row would cost a GPU more than the arithmetic; gathering keys costs it little. Single tokens, the
decoding rows, go together; longer spans, of which a step has few, one after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from model_worker.torch_engine.attention.dense import attend
from model_worker.torch_engine.attention.kernel import Heads, Options, grouped
from model_worker.torch_engine.kv_storage import LayerStorage
from model_worker.torch_engine.step_layout import Span, StepLayout, history


class PaddedAttention:
    """An AttentionKernel for every device and dtype."""

    def __call__(self, heads: Heads, store: LayerStorage, layout: StepLayout, options: Options) -> torch.Tensor:
        """Return [T, heads, value_size]."""
        store.write(layout.slots(heads.key.device), heads.key, heads.value)
        queries = grouped(heads)
        out = heads.query.new_empty(queries.shape[2], heads.query.shape[0], heads.value.shape[2])
        key = ("batches", options.window, queries.dtype, queries.device)
        for batch in layout.once(key, lambda: _batches(options.window, layout, queries)):
            query = queries[:, :, batch.rows].permute(2, 0, 1, 3, 4)
            keys, values = (stored[batch.slots].transpose(1, 2) for stored in (store.keys, store.values))
            attended = attend(query, keys, values, batch.mask, options)
            out[batch.rows] = attended.flatten(1, 2).transpose(1, 2)
        return out


class _Batch(NamedTuple):
    """Spans of one length: `rows` [batch, length] of the step, `slots` [batch, keys] of the arena, and which to see."""

    rows: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor  # [batch, 1, 1, length, keys]


def _batches(window: int | None, layout: StepLayout, like: torch.Tensor) -> list[_Batch]:
    singles = [span for span in layout.spans if span.length == 1]
    spans = [[span] for span in layout.spans if span.length > 1] + ([singles] if singles else [])
    return [_gathered(batch, window, layout, like) for batch in spans]


def _gathered(spans: list[Span], window: int | None, layout: StepLayout, like: torch.Tensor) -> _Batch:
    length = spans[0].length
    histories = [history(span, window) for span in spans]
    longest = max(count for _, count in histories)
    begins, counts = torch.tensor(histories, device=like.device).unsqueeze(2).unbind(1)
    place = torch.arange(longest, device=like.device)
    rows = torch.tensor([range(span.row, span.row + length) for span in spans], device=like.device)
    if length > 1:
        mask = layout.mask(spans[0], window, like)[None, None, None]
    else:
        mask = torch.zeros(len(spans), longest, dtype=like.dtype, device=like.device)
        mask = mask.masked_fill_(place >= counts, -torch.inf)[:, None, None, None]
    return _Batch(rows, begins + torch.minimum(place, counts - 1), mask)
