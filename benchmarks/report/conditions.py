"""What the numbers were measured on. Nothing that names a machine or a person."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.subjects.threads import THREADS


def conditions(model: Path) -> dict[str, str]:
    """Model, machine and versions."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "model": model.resolve().name,
        "CPU": _cpu_model(),
        "threads": str(THREADS),
        "memory": f"{memory:.0f} GiB",
        "Python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "grpcio", "tokenmill")},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
