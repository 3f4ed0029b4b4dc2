"""How much may be tried again: a share of what comes in, so that retries never become the load that breaks the rest."""

from __future__ import annotations

SHARE = 0.2  # retries for each request
RESERVE = 20.0  # retries that are always saved up for, when nothing much comes in


class RetryBudget:
    """A bucket that every request fills a little and every retry empties by one."""

    def __init__(self, reserve: float = RESERVE) -> None:
        """`reserve`: what it holds at most, and at first."""
        self._reserve = self._saved = reserve

    def earn(self) -> None:
        """Note a request."""
        self._saved = min(self._reserve, self._saved + SHARE)

    def spend(self) -> bool:
        """Take one retry, if there is one."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
