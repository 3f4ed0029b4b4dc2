"""Attention over a ragged step: each sequence's queries against a view of its own extent, and nothing else.

Keys and values are never copied or repeated: grouped-query heads share them inside the kernel. Options that the model
passes (`scaling`, `sliding_window`, `softcap`, `s_aux`) are honoured; any other is refused when the model is probed
(`attention_probe`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from model_worker.kv_storage import LayerStorage
from model_worker.step_layout import Span, StepLayout, first_key


@dataclass(frozen=True, slots=True)
class Options:
    """How one layer attends. `sinks` has one logit per query head; `window` counts the query itself."""

    scaling: float | None
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None


class RaggedAttention:
    """The attention function of one engine, as transformers' AttentionInterface calls it.

    Owned by the engine, which says with `during` which step is being computed.
    """

    def __init__(self, stores: Mapping[nn.Module, LayerStorage]) -> None:
        self._stores = stores
        self._layout: StepLayout | None = None

    @contextmanager
    def during(self, layout: StepLayout) -> Iterator[None]:
        """Attend as `layout` says until the end of the block."""
        self._layout = layout
        try:
            yield
        finally:
            self._layout = None

    def __call__(  # noqa: PLR0913 - the signature is the AttentionInterface's
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_checked_when_probed: object,
    ) -> tuple[torch.Tensor, None]:
        """Store this step's K/V and attend: query [1, heads, T, size] gives [1, T, heads, value_size]."""
        layout = self._layout
        assert layout is not None
        assert attention_mask is None
        store = self._stores[module]
        store.write(layout.slots, key, value)
        rows = query[0].transpose(0, 1)
        options = Options(scaling, sliding_window, softcap, s_aux)
        if softcap is None and s_aux is None:
            parts = [_attend(rows, store, span, layout, options) for span in layout.spans]
        else:
            parts = [_attend_spelled_out(rows, store, span, layout, options) for span in layout.spans]
        return torch.cat(parts).unsqueeze(0), None


def _attend(rows: torch.Tensor, store: LayerStorage, span: Span, layout: StepLayout, options: Options) -> torch.Tensor:
    """Attend with torch's fused kernel; the result is [length, heads, value_size]."""
    keys, values = _history(store, span, options.window)
    if span.length == 1:
        # One token sees all of its (windowed) history, so the heads that share a key become its rows: no mask.
        grouped = rows[span.row].view(1, keys.shape[1], -1, rows.shape[2])
        out = scaled_dot_product_attention(grouped, keys, values, scale=options.scaling)
        return out.reshape(1, rows.shape[1], -1)
    from_the_start = span.position == 0 and (options.window is None or span.length <= options.window)
    out = scaled_dot_product_attention(
        rows[span.row : span.row + span.length].transpose(0, 1).unsqueeze(0),
        keys,
        values,
        attn_mask=None if from_the_start else layout.mask(span, options.window, rows.dtype),
        is_causal=from_the_start,
        scale=options.scaling,
        enable_gqa=rows.shape[1] != keys.shape[1],
    )
    return out[0].transpose(0, 1)


def _attend_spelled_out(
    rows: torch.Tensor, store: LayerStorage, span: Span, layout: StepLayout, options: Options
) -> torch.Tensor:
    """Attend with plain matrix products, for what no fused kernel does: soft-capped scores and attention sinks."""
    keys, values = _history(store, span, options.window)
    kv_heads, heads = keys.shape[1], rows.shape[1]
    query = rows[span.row : span.row + span.length].transpose(0, 1)  # [heads, length, size]
    scaling = options.scaling if options.scaling is not None else query.shape[-1] ** -0.5
    grouped = query.reshape(kv_heads, -1, query.shape[-1])  # [kv_heads, group * length, size]
    scores = (torch.bmm(grouped, keys[0].transpose(1, 2)) * scaling).view(heads, span.length, -1)
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    scores = scores + layout.mask(span, options.window, scores.dtype)
    if options.sinks is not None:
        sinks = options.sinks.to(scores.dtype).view(heads, 1, 1).expand(heads, span.length, 1)
        scores = torch.cat((scores, sinks), dim=-1)
    precision = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=precision).to(values.dtype)
    weights = weights[..., : keys.shape[2]].reshape(kv_heads, -1, keys.shape[2])
    return torch.bmm(weights, values[0]).view(heads, span.length, -1).transpose(0, 1)


def _history(store: LayerStorage, span: Span, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of what `span` may look at: K and V, each [1, kv_heads, keys, size]."""
    begin = span.origin + first_key(span, window)
    count = span.origin + span.position + span.length - begin
    return store.keys_by_head.narrow(2, begin, count), store.values_by_head.narrow(2, begin, count)
