"""How much one credential may ask for: requests at once, and requests per minute. Each gateway counts for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.access.identity import Identity
from rpc.errors import credential_limit

BUSY_RETRY_SECONDS = 1.0  # when one of its own requests ends, nobody can tell
MINUTE_SECONDS = 60.0


@dataclass(slots=True)
class _Use:
    left: float  # requests that may begin now: at most those of a minute, which come back evenly
    counted_at: float
    inflight: int = 0


class Quotas:
    """Owns what every credential with limits has used, by its name; event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def request(self, identity: Identity) -> Iterator[None]:
        """Count one request during the body. Errors: ServiceError (RESOURCE_EXHAUSTED) beyond the limits."""
        if identity.max_inflight is None and identity.requests_per_minute is None:
            yield
            return
        use = self._begin(identity)
        use.inflight += 1
        try:
            yield
        finally:
            use.inflight -= 1

    def _begin(self, identity: Identity) -> _Use:
        now = self._clock()
        per_minute = identity.requests_per_minute
        use = self._uses.setdefault(identity.name, _Use(left=per_minute or 0, counted_at=now))
        if identity.max_inflight is not None and use.inflight >= identity.max_inflight:
            raise credential_limit(f"{identity.max_inflight} requests at once", BUSY_RETRY_SECONDS)
        if per_minute is not None:
            per_second = per_minute / MINUTE_SECONDS
            use.left = min(per_minute, use.left + (now - use.counted_at) * per_second)
            use.counted_at = now
            if use.left < 1:
                raise credential_limit(f"{per_minute} requests per minute", (1 - use.left) / per_second)
            use.left -= 1
        return use
