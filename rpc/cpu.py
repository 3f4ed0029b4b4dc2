"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def granted_cores(cpu_max: Path = CGROUP_CPU_MAX) -> int:
    """Cores by affinity, and by the quota of our cgroup (v2) where that is smaller; at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, or "max": no quota
    return max(1, cores)
