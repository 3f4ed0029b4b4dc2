"""The attention kernels that a CPU can run."""

from __future__ import annotations

from model_worker.torch_engine.attention.native import NativeAttention
from model_worker.torch_engine.attention.padded import PaddedAttention
from model_worker.torch_engine.attention.views import ViewAttention
from model_worker.torch_engine.native.library import NativeLibrary
from tests.model_worker.exactness.stage import Kernels


def all_kernels(native: NativeLibrary) -> Kernels:
    return Kernels(
        {
            "views": ViewAttention(),
            "token by token": ViewAttention(token_by_token=True),
            "padded": PaddedAttention(),
            "native": NativeAttention(native),
        }
    )
