"""Regional compilation: one graph for all decoder layers, and one for the output head, by torch.compile.

Compiling each layer by itself takes a fraction of the time that the whole model takes, and between the layers there
is next to nothing. The layers share their graph: attention tells them apart by a tensor (see attention/ragged.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten

import torch
from torch import nn
from transformers import PreTrainedModel

from model_worker.engine import OutOfMemory
from model_worker.torch_engine.int8_linear import Int8Linear

_LONGEST_REASON = 300  # characters of what the compiler has to say
# Checks of the compiler's own work in every call of every layer: they cost 6 % of a step with one row.
_OPTIONS = {"size_asserts": False, "alignment_asserts": False}
_log = logging.getLogger("tokenmill.worker.load")


def compiled(model: PreTrainedModel, folder: Path, run: Callable[[], None]) -> bool:
    """Compile the regions of `model`, keeping what is compiled in `folder`. False: they do not compile, all run eager.

    `run` computes a step of every kind that there will be, so that nothing is compiled when requests wait: what turns
    out to need another graph then runs eager. Errors: what `run` raises where the model is eager, too.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    regions = _regions(model)
    for region in regions:
        region.compile(dynamic=True, fullgraph=True, options=_OPTIONS)
    try:
        with torch.compiler.set_stance("default"):
            run()
    except OutOfMemory:
        raise
    except Exception as error:  # noqa: BLE001 - a compiler fails in many ways, and all of them mean the same to us
        for region in regions:
            region._compiled_call_impl = None  # noqa: SLF001 - torch has no public way back
        reason = shorten(str(error) or type(error).__name__, _LONGEST_REASON)
        _log.warning("%s does not compile and runs eager: %s", type(model).__name__, reason)
        run()
        return False
    torch.compiler.set_stance("eager_on_recompile")
    return True


def _regions(model: PreTrainedModel) -> list[nn.Module]:
    """Return the decoder layers of `model`, which its author names as what must stay on one device, and an int8 head.

    Any other head is one product, with nothing to join.
    """
    names = set(model._no_split_modules or ())  # noqa: SLF001 - transformers has no public getter
    layers = [module for module in model.modules() if type(module).__name__ in names]
    head = model.get_output_embeddings()
    return [*layers, head] if isinstance(head, Int8Linear) else layers
