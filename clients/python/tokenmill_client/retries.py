"""When a call may be made again by itself, and when.

Only while nothing of its answer has come, for a reason that says so: the service was full, or could not be reached. A
generation may then be computed twice, never be answered twice.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from tokenmill_client.errors import OverloadedError, TokenmillError, UnavailableError


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and how long to wait where the service does not say."""

    attempts: int = 3  # of one call, the first included
    backoff_seconds: float = 0.2  # before the second; twice as long before each one after it
    longest_wait_seconds: float = 10.0


class Attempts:
    """The attempts of one call, within the time that the call is given."""

    def __init__(self, retries: Retries, timeout_seconds: float | None) -> None:
        self._retries = retries
        self._until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._failed = 0

    def timeout(self) -> float | None:
        """Seconds left; None: as many as it takes."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def wait_after(self, error: TokenmillError) -> float:
        """How many seconds to wait before the next attempt. Raises `error` if there is not to be one."""
        self._failed += 1
        if self._failed >= self._retries.attempts or not isinstance(error, OverloadedError | UnavailableError):
            raise error
        if isinstance(error, OverloadedError) and error.retry_after_seconds is None:
            raise error  # not for lack of room: it is too large
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - so that not all come back at once
        backoff: float = self._retries.backoff_seconds * 2 ** (self._failed - 1) * spread
        wait = max(backoff, error.retry_after_seconds or 0.0)
        left = self.timeout()
        if wait > self._retries.longest_wait_seconds or (left is not None and wait >= left):
            raise error
        return wait
