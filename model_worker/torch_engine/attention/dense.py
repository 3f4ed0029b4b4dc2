"""Attention over rectangular tensors: by torch's fused kernels, or spelled out for what none of them does."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import scaled_dot_product_attention

from model_worker.torch_engine.attention.kernel import Options


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | Literal["causal"] | None,
    options: Options,
) -> torch.Tensor:
    """Attend `query` [batch, kv_heads, group, length, size] to `keys` [batch, kv_heads, keys, size].

    `mask` is added to the scores, [batch or 1, 1, 1, length, keys]; without one every query sees every key. "causal"
    says the same as the triangular mask of a whole sequence, and is faster; not with what is `spelled_out`. The result
    is [batch, kv_heads, group, length, value_size].
    """
    if spelled_out(options):
        assert mask != "causal"
        return _spelled_out(query, keys, values, mask, options)
    if query.shape[3] == 1:
        # The heads that share a key become the rows of one product: the keys are read once.
        assert mask != "causal"
        rows_mask = None if mask is None else mask.squeeze(2)
        return scaled_dot_product_attention(
            query.squeeze(3), keys, values, attn_mask=rows_mask, scale=options.scaling
        ).unsqueeze(3)
    # Key heads stand as the batch and the queries that share one as its heads, each with the same view of the keys.
    # With `enable_gqa` and a mask no fused kernel of a GPU would do it, but one that copies keys and keeps all scores.
    batch, kv_heads, group, length, size = query.shape
    out = scaled_dot_product_attention(
        query.reshape(batch * kv_heads, group, length, size),
        keys.flatten(0, 1).unsqueeze(1).expand(-1, group, -1, -1),
        values.flatten(0, 1).unsqueeze(1).expand(-1, group, -1, -1),
        attn_mask=mask.expand(batch, kv_heads, 1, -1, -1).flatten(0, 1) if isinstance(mask, torch.Tensor) else None,
        is_causal=mask == "causal",
        scale=options.scaling,
    )
    return out.view(batch, kv_heads, group, length, -1)


def spelled_out(options: Options) -> bool:
    """Whether no fused kernel does what `options` ask for."""
    return options.softcap is not None or options.sinks is not None


def _spelled_out(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, options: Options
) -> torch.Tensor:
    """Attend with plain matrix products: soft-capped scores and attention sinks. Shapes as in `attend`."""
    batch, kv_heads, group, length, size = query.shape
    scaling = options.scaling if options.scaling is not None else size**-0.5
    rows = query.reshape(batch, kv_heads, group * length, size)
    scores = (torch.matmul(rows, keys.transpose(2, 3)) * scaling).view(batch, kv_heads, group, length, -1)
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if mask is not None:
        scores = scores + mask
    if options.sinks is not None:
        sinks = options.sinks.to(scores.dtype).view(1, kv_heads, group, 1, 1).expand(batch, -1, -1, length, -1)
        scores = torch.cat((scores, sinks), dim=-1)
    precision = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=precision).to(values.dtype)[..., : keys.shape[2]]
    out = torch.matmul(weights.reshape(batch, kv_heads, group * length, -1), values)
    return out.view(batch, kv_heads, group, length, -1)
