"""What compiled code calls and the compiler does not look into: a function of ours as an operator of torch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch

_NAMESPACE = "tokenmill"


class OpaqueOperator:
    """`compute` under a name of its own, until it is closed.

    torch 2.13 holds on to `compute` even then: whatever is heavy in it, its owner has to let go.

    `like` returns what `compute` does without its contents, for the compiler. The name is the same in every process
    that makes its operators in the same order: it stands in compiled code, which another process would not find in the
    compiler's cache otherwise.
    """

    def __init__(self, name: str, schema: str, compute: Callable[..., Any], like: Callable[..., Any]) -> None:
        taken = getattr(torch.ops, _NAMESPACE)
        free = next(f"{name}_{number}" for number in count() if not hasattr(taken, f"{name}_{number}"))
        library: Any = torch.library.Library  # torch gives it no types
        self._library = library(_NAMESPACE, "FRAGMENT")
        self._library.define(free + schema)
        self._library.impl(free, compute, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{_NAMESPACE}::{free}", like, lib=self._library)
        self.call: Callable[..., Any] = getattr(taken, free)

    def close(self) -> None:
        """Take the operator away; its name is free again."""
        del self._library, self.call
