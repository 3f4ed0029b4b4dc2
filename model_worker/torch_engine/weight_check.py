"""Whether the weights in the files are the weights of the model, no fewer and no others."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from pathlib import Path

from torch import nn

from model_worker.loading.load_errors import ModelFolderError

_log = logging.getLogger("tokenmill.worker.load")


def check_weights(model: nn.Module, path: Path, *, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Check what transformers found in `path` against `model`, and warn of what the files hold besides.

    Errors: ModelFolderError when weights are missing, or when there are more layers of them than config.json says.
    """
    name = type(model).__name__
    if missing:
        raise ModelFolderError(f"{path} lacks {len(missing)} weights of {name}, first {min(missing)}")
    kinds = {_kind(weight) for weight, _ in model.named_parameters()}
    further = [weight for weight in unexpected if _kind(weight) in kinds]
    if further:
        raise ModelFolderError(
            f"{path} has {len(further)} weights for more layers than config.json says, first {min(further)}"
        )
    if unexpected:
        _log.warning("%d weights in %s are none of %s, first %s", len(unexpected), path, name, min(unexpected))


def _kind(weight: str) -> str:
    """Return the weight's name without its numbers: the same for all layers and experts."""
    return re.sub(r"\d+", "#", weight)
