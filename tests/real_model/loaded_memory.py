"""`python -m tests.real_model.loaded_memory DIR SCHEME`: load an engine and print, as JSON, what it takes.

A process of its own, because memory is the process's: what another test left would be counted too.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
from pathlib import Path

from model_worker.torch_engine.loader import LoadSettings, load_engine

# What loading imports: tens of megabytes that are no copy of the weights.
LIBRARIES = ("bitsandbytes", "transformers.integrations.bitsandbytes", "transformers.models.llama.modeling_llama")


def anonymous_bytes() -> int:
    """What is resident of this process and in no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def mapped_weight_files() -> int:
    """How many mappings of safetensors files there are."""
    return sum(line.endswith(".safetensors") for line in Path("/proc/self/maps").read_text().splitlines())


def measure(model: Path, scheme: str) -> dict[str, int]:
    for library in LIBRARIES:
        importlib.import_module(library)
    before = anonymous_bytes()
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    settings = LoadSettings(model=model, device="cpu", quantization=scheme, kv_cache_memory=2**26, threads=1)
    engine = load_engine(settings, lambda _: None)
    done.set()
    watcher.join()
    return {
        "weights": engine.spec.weight_bytes,
        "grown": anonymous_bytes() - before,
        "peak": peak - before,
        "mapped_files": mapped_weight_files(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
