"""Attention over a ragged step: each sequence's queries against a view of its own extent, and nothing else.

Keys and values are never copied or repeated: grouped-query heads share them inside the kernel. Options that the model
passes (`scaling`, `sliding_window`, `softcap`, `s_aux`) are honoured; any other is refused when the model is probed
(`attention_probe`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from model_worker.torch_engine.kv_storage import LayerStorage
from model_worker.torch_engine.step_layout import Span, StepLayout


class Options(NamedTuple):
    """How one layer attends. `sinks` has one logit per query head; `window` counts the query itself.

    A tuple, because one is made in every layer of every step.
    """

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
        store.write(layout.slots(key.device), key, value)
        options = Options(scaling, sliding_window, softcap, s_aux)
        attend = _attend if softcap is None and s_aux is None else _attend_spelled_out
        rows = query[0].transpose(0, 1).reshape(query.shape[2], key.shape[1], -1, query.shape[3])
        parts = []
        for span, (begin, count) in zip(layout.spans, layout.histories(sliding_window), strict=True):
            keys = store.keys_by_head.narrow(2, begin, count)
            values = store.values_by_head.narrow(2, begin, count)
            parts.append(attend(rows.narrow(0, span.row, span.length), keys, values, _Place(layout, span, options)))
        return torch.cat(parts).view(1, query.shape[2], query.shape[1], -1), None


class _Place(NamedTuple):
    """Which part of which step is attended, and how. A tuple for the same reason."""

    layout: StepLayout
    span: Span
    options: Options


def _attend(rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, place: _Place) -> torch.Tensor:
    """Attend with torch's fused kernel.

    `rows` is one span's queries [length, kv_heads, group, size], `keys` and `values` its history [1, kv_heads, keys,
    size]; the result is [length, kv_heads, group, value_size].
    """
    layout, span, options = place
    if span.length == 1:
        # One token sees all of its (windowed) history, so the heads that share a key become its rows: no mask.
        return scaled_dot_product_attention(rows, keys, values, scale=options.scaling)
    from_the_start = span.position == 0 and (options.window is None or span.length <= options.window)
    # Key heads stand as the batch and the queries that share one as its heads, each with the same view of the keys.
    # With `enable_gqa` and a mask no fused kernel of a GPU would do it, but one that copies keys and keeps all scores.
    group = rows.shape[2]
    out = scaled_dot_product_attention(
        rows.permute(1, 2, 0, 3),
        keys[0].unsqueeze(1).expand(-1, group, -1, -1),
        values[0].unsqueeze(1).expand(-1, group, -1, -1),
        attn_mask=None if from_the_start else layout.mask(span, options.window, rows),
        is_causal=from_the_start,
        scale=options.scaling,
    )
    return out.permute(2, 0, 1, 3)


def _attend_spelled_out(rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, place: _Place) -> torch.Tensor:
    """Attend with plain matrix products, for what no fused kernel does: soft-capped scores and attention sinks.

    Shapes as in `_attend`.
    """
    layout, span, options = place
    length, kv_heads, group, size = rows.shape
    scaling = options.scaling if options.scaling is not None else size**-0.5
    query = rows.permute(1, 2, 0, 3).reshape(kv_heads, group * length, size)
    scores = (torch.bmm(query, keys[0].transpose(1, 2)) * scaling).view(kv_heads, group, length, -1)
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if span.length > 1:
        scores = scores + layout.mask(span, options.window, scores)
    if options.sinks is not None:
        sinks = options.sinks.to(scores.dtype).view(kv_heads, group, 1, 1).expand(kv_heads, group, length, 1)
        scores = torch.cat((scores, sinks), dim=-1)
    precision = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=precision).to(values.dtype)[..., : keys.shape[2]]
    out = torch.bmm(weights.reshape(kv_heads, group * length, -1), values[0])
    return out.view(kv_heads, group, length, -1).permute(2, 0, 1, 3)
