"""The attention kernels that a CPU can run."""

from __future__ import annotations

from pathlib import Path

from model_worker.torch_engine.attention.native import NativeAttention
from model_worker.torch_engine.attention.padded import PaddedAttention
from model_worker.torch_engine.attention.views import ViewAttention
from tests.model_worker.exactness.stage import Kernels


def all_kernels(native_library: Path) -> Kernels:
    return Kernels(
        {
            "views": ViewAttention(),
            "token by token": ViewAttention(token_by_token=True),
            "padded": PaddedAttention(),
            "native": NativeAttention(native_library),
        }
    )
