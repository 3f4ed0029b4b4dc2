"""The tensors behind the K/V arena: keys and values of every attention layer, for a fixed number of tokens."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model_worker.sequence import Extent

_PIECE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer stores for each token. Key and value sizes may differ."""

    kv_heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """K and V of one token in this layer."""
        return self.kv_heads * (self.key_size + self.value_size) * self.dtype.itemsize


class LayerStorage:
    """K and V of one layer, token-major: `keys` is [capacity, kv_heads, key_size], `values` likewise."""

    def __init__(self, shape: LayerShape, capacity: int) -> None:
        self.keys = _zeros((capacity, shape.kv_heads, shape.key_size), shape)
        self.values = _zeros((capacity, shape.kv_heads, shape.value_size), shape)
        # The same memory as attention wants to see it: [1, kv_heads, capacity, size]. A slice along dimension 2 is
        # one sequence's history, without a copy.
        self.keys_by_head = self.keys.transpose(0, 1).unsqueeze(0)
        self.values_by_head = self.values.transpose(0, 1).unsqueeze(0)

    def free(self) -> None:
        """Let the tensors go, whoever still holds this."""
        del self.keys, self.values, self.keys_by_head, self.values_by_head

    def write(self, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store `key` and `value` ([kv_heads, tokens, size]) at the token indices `slots` (int64 [tokens])."""
        self.keys.index_copy_(0, slots, key.transpose(0, 1))
        self.values.index_copy_(0, slots, value.transpose(0, 1))


class KvStorage:
    """K/V of all layers. It starts zeroed: what nobody has written yet is a number, never a stray NaN."""

    def __init__(self, shapes: Sequence[LayerShape], capacity: int) -> None:
        self.layers = [LayerStorage(shape, capacity) for shape in shapes]

    def copy(self, source: Extent, target: Extent, tokens: int) -> None:
        """Copy the first `tokens` tokens of `source` to the start of `target`; the extents may overlap.

        Where they do it goes piece by piece, away from what is still to be read. A piece that overlaps its own target
        goes through a copy, which is small: this is done when memory is short.
        """
        assert tokens <= min(source.capacity, target.capacity)
        distance = abs(source.start - target.start)
        piece = max(distance, _PIECE_TOKENS)
        starts = range(0, tokens, piece)
        for stored in self._tensors():
            for start in starts if target.start < source.start else reversed(starts):
                length = min(piece, tokens - start)
                moved = stored.narrow(0, source.start + start, length)
                stored.narrow(0, target.start + start, length).copy_(moved.clone() if length > distance else moved)

    def clear(self, extent: Extent) -> None:
        """Zero `extent`."""
        for stored in self._tensors():
            stored[extent.start : extent.start + extent.capacity] = 0

    def free(self) -> None:
        """Give the memory back; the storage is not used afterwards."""
        for layer in self.layers:
            layer.free()
        self.layers.clear()

    def _tensors(self) -> list[torch.Tensor]:
        return [stored for layer in self.layers for stored in (layer.keys, layer.values)]


def _zeros(size: tuple[int, int, int], shape: LayerShape) -> torch.Tensor:
    """Return zeroed storage.

    On the CPU it is anonymous memory, which the kernel zeroes page by page when first touched: an arena of gigabytes
    costs neither start-up time nor memory before it is used, where `torch.zeros` writes all of it (4 GiB in 11 s).

    Errors: MemoryError, torch.OutOfMemoryError.
    """
    count = size[0] * size[1] * size[2]
    if shape.device.type != "cpu" or count == 0:
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)
    try:
        pages = mmap.mmap(-1, count * shape.dtype.itemsize)
    except OSError as error:
        raise MemoryError(f"no address space for {count * shape.dtype.itemsize} bytes of K/V storage") from error
    return torch.frombuffer(pages, dtype=shape.dtype).view(size)
