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
from model_worker.torch_engine.direct_calls import Backend, DirectModule
from model_worker.torch_engine.int8.joining import JoinLinears
from model_worker.torch_engine.int8.linear import Int8Linear
from model_worker.torch_engine.int8.packed_linear import PackedLinear

_LONGEST_REASON = 300  # characters of what the compiler has to say
_OPTIONS = {
    # Checks of the compiler's own work in every call of every layer: they cost 6 % of a step with one row.
    "size_asserts": False,
    "alignment_asserts": False,
    # Headers would be compiled into a folder in /tmp, whatever ours is: 150 MB where there may be less, and where
    # others could have their code compiled into ours. Without, the first start takes some 5 s more.
    "cpp_cache_precompile_headers": False,
    "post_grad_custom_pre_pass": JoinLinears(),
}
# What is left between our operators is so little that waking a thread for it takes longer.
_BETWEEN_NATIVE = {"cpp.threads": 1}
_log = logging.getLogger("tokenmill.worker.load")


def compiled(model: PreTrainedModel, folder: Path, run: Callable[[], None]) -> bool:
    """Compile the regions of `model`, keeping what is compiled in `folder`. False: they do not compile, all run eager.

    `run` computes a step of every kind that there will be, so that nothing is compiled when requests wait: what turns
    out to need another graph then runs eager. Errors: what `run` raises where the model is eager, too.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    backend = Backend(_OPTIONS | (_BETWEEN_NATIVE if _has_packed(model) else {}))
    regions = [DirectModule(module, backend) for module in _regions(model)]
    try:
        # A module's own numbers are constants of its code.
        with torch.compiler.set_stance("default"), torch._dynamo.config.patch(specialize_float=True):  # noqa: SLF001
            run()
    except OutOfMemory:
        raise
    except Exception as error:  # noqa: BLE001 - a compiler fails in many ways, and all of them mean the same to us
        for region in regions:
            region.forget()
        reason = shorten(str(error) or type(error).__name__, _LONGEST_REASON)
        _log.warning("%s does not compile and runs eager: %s", type(model).__name__, reason)
        run()
        return False
    torch.compiler.set_stance("eager_on_recompile")
    for region in regions:
        region.learn()
    _log.info("%d of %d compiled layers are called directly", sum(each.is_direct for each in regions), len(regions))
    return True


def _regions(model: PreTrainedModel) -> list[nn.Module]:
    """Return the decoder layers of `model`, which its author names as what must stay on one device, and an int8 head.

    Any other head is one product, with nothing to join.
    """
    names = set(model._no_split_modules or ())  # noqa: SLF001 - transformers has no public getter
    layers = [module for module in model.modules() if type(module).__name__ in names]
    head = model.get_output_embeddings()
    return [*layers, head] if isinstance(head, Int8Linear) else layers


def _has_packed(model: nn.Module) -> bool:
    return any(isinstance(module, PackedLinear) for module in model.modules())
