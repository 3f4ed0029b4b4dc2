"""What processes cost: CPU time and memory, of each with all its children. Linux."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import psutil


class CpuMeter:
    """CPU seconds that named process trees have used since it was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before = self._now()

    def seconds(self) -> dict[str, float]:
        """By name."""
        return {name: used - self._before[name] for name, used in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {name: _tree_seconds(pid) for name, pid in self._pids.items()}


def _tree_seconds(pid: int) -> float:
    process = psutil.Process(pid)
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # a child that ends now is counted by its parent
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def peak_memory_bytes(pid: int) -> int | None:
    """The most memory the process itself ever had resident; None if it has ended."""
    return _status_bytes(pid, "VmHWM:")


def memory_bytes(pid: int) -> int | None:
    """What the process itself has resident now; None if it has ended."""
    return _status_bytes(pid, "VmRSS:")


def _status_bytes(pid: int, field: str) -> int | None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None
