"""`python -m cli.dequantize FILE FOLDER`: turn a GGUF file into a normal model folder (float32, safetensors).

A process of its own: torch and the two copies of the weights are gone when it ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

OWNER_WRITES_ALL_READ = 0o644


def dequantize(gguf_file: Path, folder: Path) -> None:
    """Save model, tokenizer and chat template of `gguf_file` into `folder`."""
    source = str(gguf_file.parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file.name)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf_file.name, dtype=torch.float32)
    # A GGUF-loaded model refuses to be saved while it believes itself quantized.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():  # the weights come out private to the user, and containers run as another one
        file.chmod(OWNER_WRITES_ALL_READ)


if __name__ == "__main__":
    logging.disable_progress_bar()
    dequantize(Path(sys.argv[1]), Path(sys.argv[2]))
