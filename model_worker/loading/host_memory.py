"""How much memory this process may still take: what the machine has left, or less where a cgroup says so."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

# Limit and use, in bytes, and the statistics, under cgroup v2 and v1.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that can still be allocated without swapping or meeting the cgroup's limit."""
    left = [_left_on_machine(meminfo)]
    for limit_file, use_file, statistics_file in _CGROUP_FILES:
        limit, use = _number(cgroup / limit_file), _number(cgroup / use_file)
        if limit is not None and use is not None:
            # Cached file pages count as used, although the kernel drops them first: the weights just read are such.
            left.append(max(0, limit - use + _inactive_file_bytes(cgroup / statistics_file)))
    return min(left)


def _left_on_machine(meminfo: Path) -> int:
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{meminfo} has no MemAvailable")


def _inactive_file_bytes(statistics: Path) -> int:
    try:
        lines = statistics.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _number(file: Path) -> int | None:
    """Return the number in `file`; None where there is no such file, or no limit ("max")."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def give_back_freed() -> None:
    """Let the kernel have what this process has freed: glibc keeps hundreds of megabytes of a model's loading else."""
    with contextlib.suppress(OSError, AttributeError):  # no other C library needs it, nor has it
        ctypes.CDLL(None).malloc_trim(0)
