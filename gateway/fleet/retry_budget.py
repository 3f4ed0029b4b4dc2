"""How much may be tried again: a share of what comes in, so that retries never become the load that breaks the rest."""

from __future__ import annotations

SHARE = 0.2  # retries for each request
# Retries saved up for when nothing much comes in. A service that dies takes all its requests with it at once, a worker
# 288 by its defaults (--max-num-seqs and --max-queued-rows), and each of them is to go on elsewhere.
RESERVE = 300.0


class RetryBudget:
    """A bucket that every request fills a little and every retry empties by one."""

    def __init__(self) -> None:
        self._saved = RESERVE
        self.spent = 0  # retries, ever

    def earn(self) -> None:
        """Note a request."""
        self._saved = min(RESERVE, self._saved + SHARE)

    def spend(self) -> bool:
        """Take one retry, if there is one."""
        if self._saved < 1:
            return False
        self._saved -= 1
        self.spent += 1
        return True
