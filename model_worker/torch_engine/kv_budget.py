"""How many tokens the K/V storage gets: from a flag, or from what the machine and its devices have left."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from model_worker.loading.host_memory import available_bytes
from model_worker.loading.load_errors import UnavailableOptionError

_CPU_CEILING = 4 * 2**30  # bytes: more rows than this holds, no CPU computes in useful time
_CPU_SHARE = 0.25  # of what is left: other processes live on the same machine
_CUDA_SHARE = 0.8  # of what is left beside the weights; the rest is for a step's activations


def kv_capacity(requested_bytes: int | None, bytes_per_token: Mapping[torch.device, int], at_least: int) -> int:
    """Return the storage's size in tokens: what the device with the least room for its layers can hold.

    `bytes_per_token` is what the layers on each device store for one token; `requested_bytes` are for all of them
    together. Errors: UnavailableOptionError when the size is below `at_least` tokens.
    """
    if requested_bytes is not None:
        budget, per_token = requested_bytes, sum(bytes_per_token.values())
    else:
        budgets = {device: _budget(device) for device in bytes_per_token}
        tightest = min(budgets, key=lambda device: budgets[device] / bytes_per_token[device])
        budget, per_token = budgets[tightest], bytes_per_token[tightest]
    capacity = budget // per_token
    if capacity < at_least:
        raise UnavailableOptionError(
            f"{budget} bytes of K/V memory hold {capacity} tokens of {per_token} bytes; {at_least} are the least "
            "that can be served (--kv-cache-memory)"
        )
    return capacity


def _budget(device: torch.device) -> int:
    """Return how many bytes of `device` keys and values may take."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what loading used and torch keeps counts as taken otherwise
        return int(torch.cuda.mem_get_info(device)[0] * _CUDA_SHARE)
    return min(_CPU_CEILING, int(available_bytes() * _CPU_SHARE))
