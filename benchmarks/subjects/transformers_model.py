"""The model as transformers loads it for the baselines: float32, SDPA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from benchmarks.subjects.threads import THREADS


def load_float32(folder: Path) -> Any:
    """The model in `folder`, ready to generate with as many threads as our worker."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()


def greedy_options(model: Any, max_new_tokens: int) -> dict[str, Any]:
    """Fields of a GenerationConfig: greedy, and exactly `max_new_tokens` tokens.

    There is no token -1, so nothing ends early. `min_new_tokens` would do the same at the price of a pass over the
    logits in every step.
    """
    eos = model.generation_config.eos_token_id
    pad = eos[0] if isinstance(eos, list) else eos
    return {"do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": -1, "pad_token_id": pad}
