"""The attention function that the model's layers call: it knows which step is computed, and which layer asks.

Keys and values are never repeated: grouped-query heads share them inside the kernel. Options that the model passes
(`scaling`, `sliding_window`, `softcap`, `s_aux`) are honoured; any other is refused when the model is probed
(`attention_probe`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from model_worker.torch_engine.attention.kernel import AttentionKernel, Heads, Options
from model_worker.torch_engine.kv_storage import LayerStorage
from model_worker.torch_engine.opaque_operator import OpaqueOperator
from model_worker.torch_engine.step_layout import StepLayout

_LAYER = "tokenmill_layer"  # buffer of each attention layer: its number, as a tensor
_SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor layer, float? scaling, int? window, float? softcap, "
    "Tensor? sinks) -> Tensor"
)


class RaggedAttention:
    """The attention function of one engine, as transformers' AttentionInterface calls it.

    Owned by the engine, which says with `during` which step is being computed. A compiled layer meets it as one opaque
    operator, to which it tells its number in a tensor: a number in Python would be a constant of the compiled code,
    and every layer would need its own.
    """

    def __init__(self, stores: Mapping[nn.Module, LayerStorage], kernel: AttentionKernel) -> None:
        self._stores = list(stores.values())
        self._modules = list(stores)
        self._kernel = kernel
        self._layout: StepLayout | None = None
        for number, module in enumerate(self._modules):
            module.register_buffer(_LAYER, torch.tensor(number), persistent=False)
        self._operator = OpaqueOperator("attend", _SCHEMA, self._attend, _like_attend)

    @contextmanager
    def during(self, layout: StepLayout) -> Iterator[None]:
        """Attend as `layout` says until the end of the block."""
        self._layout = layout
        try:
            yield
        finally:
            self._layout = None

    def close(self) -> None:
        """Let the model's layers and the storage go."""
        for module in self._modules:
            delattr(module, _LAYER)
        self._modules.clear()
        self._stores.clear()
        self._operator.close()

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
        assert attention_mask is None
        layer = getattr(module, _LAYER)
        if torch.compiler.is_compiling():
            return self._operator.call(query, key, value, layer, scaling, sliding_window, softcap, s_aux), None
        return self._attend(query, key, value, layer, scaling, sliding_window, softcap, s_aux), None

    def _attend(  # noqa: PLR0913, PLR0917 - the operator's arguments
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layer: torch.Tensor,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        assert self._layout is not None
        store = self._stores[int(layer)]
        options = Options(scaling, window, softcap, sinks)
        return self._kernel(Heads(query[0], key[0], value[0]), store, self._layout, options).unsqueeze(0)


def _like_attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: object) -> torch.Tensor:  # noqa: ARG001 - the operator's arguments
    """Return what `_attend` does, without its contents: [1, T, heads, value_size]."""
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
