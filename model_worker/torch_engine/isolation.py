"""A row whose sampling raises an exception fails alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from model_worker.engine import OutOfMemory, RowFailure
from model_worker.torch_engine.out_of_memory import named_out_of_memory

SAMPLING_FAILED = RowFailure("SAMPLING_FAILED", "The next token of this row could not be drawn.")

_log = logging.getLogger("tokenmill.worker")

Result = TypeVar("Result")


def fail_alone(
    compute: Callable[[Sequence[int]], list[Result | RowFailure]], rows: Sequence[int]
) -> list[Result | RowFailure]:
    """Return what `compute` gives for `rows`, one result each.

    Where that raises, each row is computed by itself: those that raise again get SAMPLING_FAILED and a line in the log,
    the others what they would have got. `compute` changes nothing. Errors: OutOfMemory, which concerns all.
    """
    try:
        with named_out_of_memory():
            return compute(rows)
    except OutOfMemory:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, it is this row that has it, and the others go on
        if len(rows) == 1:
            _log.exception("the sampling of a row failed")
            return [SAMPLING_FAILED]
    # Outside of the handler, so that the exception and the tensors that its frames hold on to are gone.
    return [fail_alone(compute, [row])[0] for row in rows]
