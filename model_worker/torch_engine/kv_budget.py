"""How many tokens the K/V storage gets: from a flag, or from what the machine has left."""

from __future__ import annotations

import torch

from model_worker.loading.host_memory import available_bytes
from model_worker.loading.load_errors import UnavailableOptionError

_CPU_CEILING = 4 * 2**30  # bytes: more rows than this holds, no CPU computes in useful time
_CPU_SHARE = 0.25  # of what is left: other processes live on the same machine
_CUDA_SHARE = 0.8  # of what is left beside the weights; the rest is for a step's activations


def kv_capacity(requested_bytes: int | None, bytes_per_token: int, device: torch.device, at_least: int) -> int:
    """Return the storage's size in tokens. Errors: UnavailableOptionError when it is below `at_least` tokens."""
    if requested_bytes is not None:
        budget = requested_bytes
    elif device.type == "cuda":
        torch.cuda.empty_cache()  # what loading used and torch keeps counts as taken otherwise
        budget = int(torch.cuda.mem_get_info(device)[0] * _CUDA_SHARE)
    else:
        budget = min(_CPU_CEILING, int(available_bytes() * _CPU_SHARE))
    capacity = budget // bytes_per_token
    if capacity < at_least:
        raise UnavailableOptionError(
            f"{budget} bytes of K/V memory hold {capacity} tokens of {bytes_per_token} bytes; {at_least} are the least "
            "that can be served (--kv-cache-memory)"
        )
    return capacity
