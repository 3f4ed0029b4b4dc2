"""The fast kernel of a GPU: torch's variable-length flash attention, reading each history where it stands in the arena.

It takes 16-bit numbers and neither soft-capped scores nor sinks; a layer with those goes to the plain kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.attention.varlen import varlen_attn

from model_worker.torch_engine.attention.dense import spelled_out
from model_worker.torch_engine.attention.kernel import Heads, Options
from model_worker.torch_engine.attention.padded import PaddedAttention
from model_worker.torch_engine.kv_storage import LayerShape, LayerStorage
from model_worker.torch_engine.step_layout import Span, StepLayout

# What flash attention takes.
_SIZE_MULTIPLE = 8
_LARGEST_SIZE = 256
_LEAST_CAPABILITY = (8, 0)


class VarlenAttention:
    """An AttentionKernel for CUDA from Ampere on, in float16 and bfloat16."""

    def __init__(self) -> None:
        self._plain = PaddedAttention()

    @staticmethod
    def supports(shape: LayerShape) -> bool:
        """Whether a layer of this `shape` can be computed."""
        size = shape.key_size
        return (
            shape.device.type == "cuda"
            and shape.dtype in {torch.float16, torch.bfloat16}
            and size == shape.value_size
            and size % _SIZE_MULTIPLE == 0
            and size <= _LARGEST_SIZE
            and torch.cuda.get_device_capability(shape.device) >= _LEAST_CAPABILITY
        )

    def __call__(self, heads: Heads, store: LayerStorage, layout: StepLayout, options: Options) -> torch.Tensor:
        """Return [T, heads, value_size]."""
        if spelled_out(options):
            return self._plain(heads, store, layout, options)
        device = heads.query.device
        store.write(layout.slots(device), heads.key, heads.value)
        ranges = layout.once(("ranges", device), lambda: _ranges(layout.spans, store.keys.shape[0], device))
        # The arena is one packed batch in which each sequence begins at its extent and uses so many tokens of it. The
        # starts are in the order of the queries and so not ascending; with `seqused_k` no length is taken from them.
        out = varlen_attn(
            heads.query.transpose(0, 1),
            store.keys,
            store.values,
            ranges.query_starts,
            ranges.key_starts,
            ranges.longest_query,
            ranges.longest_history,
            scale=options.scaling,
            window_size=(-1 if options.window is None else options.window - 1, 0),
            enable_gqa=True,
            seqused_k=ranges.history_lengths,
        )
        assert isinstance(out, torch.Tensor)
        return out


class _Ranges(NamedTuple):
    """Where each sequence's queries and keys stand; tensors are int32, starts [sequences + 1], lengths [sequences]."""

    query_starts: torch.Tensor
    key_starts: torch.Tensor
    history_lengths: torch.Tensor
    longest_query: int
    longest_history: int


def _ranges(spans: list[Span], capacity: int, device: torch.device) -> _Ranges:
    lengths = [span.position + span.length for span in spans]
    tokens = spans[-1].row + spans[-1].length

    def numbers(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return _Ranges(
        query_starts=numbers([*(span.row for span in spans), tokens]),
        key_starts=numbers([*(span.origin for span in spans), capacity]),
        history_lengths=numbers(lengths),
        longest_query=max(span.length for span in spans),
        longest_history=max(lengths),
    )
