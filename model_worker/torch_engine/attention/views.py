"""The plain kernel: each sequence's queries against a view of its own extent, one after the other. Copies nothing."""

from __future__ import annotations

from typing import Literal

import torch

from model_worker.torch_engine.attention.dense import attend, spelled_out
from model_worker.torch_engine.attention.kernel import Heads, Options, grouped
from model_worker.torch_engine.kv_storage import LayerStorage
from model_worker.torch_engine.step_layout import Span, StepLayout, history


class ViewAttention:
    """An AttentionKernel for every device and dtype.

    With `token_by_token` every query attends by itself: torch's kernels round a token among others differently than
    alone. It slows long prompts down.
    """

    def __init__(self, *, token_by_token: bool = False) -> None:
        self._token_by_token = token_by_token

    def __call__(self, heads: Heads, store: LayerStorage, layout: StepLayout, options: Options) -> torch.Tensor:
        """Return [T, heads, value_size]."""
        store.write(layout.slots(heads.key.device), heads.key, heads.value)
        spans = layout.once("tokens", lambda: _tokens(layout.spans)) if self._token_by_token else layout.spans
        key = ("histories", options.window, self._token_by_token)
        histories = layout.once(key, lambda: [history(span, options.window) for span in spans])
        queries = grouped(heads).unsqueeze(0)
        parts = []
        for span, (begin, count) in zip(spans, histories, strict=True):
            query = queries.narrow(3, span.row, span.length)
            keys = store.keys_by_head.narrow(2, begin, count)
            values = store.values_by_head.narrow(2, begin, count)
            mask = _mask(span, options, layout, query)
            parts.append(attend(query, keys, values, mask, options)[0].flatten(0, 1).transpose(0, 1))
        return torch.cat(parts)


def _mask(
    span: Span, options: Options, layout: StepLayout, query: torch.Tensor
) -> torch.Tensor | Literal["causal"] | None:
    if span.length == 1:
        return None  # one token sees all of its (windowed) history
    if span.position == 0 and span.length <= (options.window or span.length) and not spelled_out(options):
        return "causal"
    return layout.mask(span, options.window, query)


def _tokens(spans: list[Span]) -> list[Span]:
    return [Span(span.row + i, 1, span.position + i, span.origin) for span in spans for i in range(span.length)]
