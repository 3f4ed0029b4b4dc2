"""How OpenMP's threads wait for one another: they spin for a sixth of a millisecond, then they sleep.

They compute torch's own operations. Compiled int8 has other threads (`torch_engine/native/crew.cpp`).
"""

from __future__ import annotations

import os

# Measured with int8 compiled by torch alone on 2 cores, ms per step at 1 / 8 / 32 rows. Waking a thread dozens of times
# in each layer costs more than the work: threads that sleep at once 62 / 92 / 125, these 32 / 48 / 86, spinning for
# milliseconds, which is the default, 31 / 44 / 71. Beside a busy process on the same cores the long spin is worst by
# far, because a thread spins while the one it waits for does not run: 332 / 623 with 30,000 turns, 80 / 133 / 169 with
# these.
_TURNS = "3000"


def spin_briefly() -> None:
    """Say so to the OpenMP runtime, unless the operator has said something. It is read when torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)
