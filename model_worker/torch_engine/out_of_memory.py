"""One name for what torch raises for want of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model_worker.engine import OutOfMemory


@contextmanager
def named_out_of_memory() -> Iterator[None]:
    """Turn what torch raises for want of memory, which on the CPU has no class of its own, into OutOfMemory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(str(error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise OutOfMemory(str(error)) from error
