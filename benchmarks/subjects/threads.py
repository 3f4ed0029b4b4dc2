"""How many threads a baseline computes with: as many as our worker takes."""

from __future__ import annotations

from rpc.cpu import granted_cores

THREADS = granted_cores()
# What our worker sets for itself it gets from its own code; the baselines keep their libraries' defaults otherwise.
ENVIRONMENT = {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
