"""Which attention kernel an engine gets."""

from __future__ import annotations

from collections.abc import Collection

from model_worker.loading.schemes import Scheme
from model_worker.torch_engine.attention.kernel import AttentionKernel
from model_worker.torch_engine.attention.native import NativeAttention
from model_worker.torch_engine.attention.padded import PaddedAttention
from model_worker.torch_engine.attention.varlen import VarlenAttention
from model_worker.torch_engine.attention.views import ViewAttention
from model_worker.torch_engine.kv_storage import LayerShape
from model_worker.torch_engine.native.library import NativeLibrary


def attention_kernel(shapes: Collection[LayerShape], scheme: Scheme, library: NativeLibrary | None) -> AttentionKernel:
    """Return the fastest kernel for layers of these `shapes`, `library` being our C++ for CPUs.

    int8 layers give each token the same bits whatever runs beside it, but turn the last bit that attention rounds
    differently into a whole step. So a CPU attends token by token then, and a row's text is the same in any batch and
    any chunking; on a GPU, where each token would be a launch, that is not done.
    """
    if all(VarlenAttention.supports(shape) for shape in shapes):
        return VarlenAttention()
    if any(shape.device.type != "cpu" for shape in shapes):
        return PaddedAttention()
    if library is not None and all(NativeAttention.supports(shape) for shape in shapes):
        return NativeAttention(library)
    return ViewAttention(token_by_token=scheme == "int8")
