"""Why the worker does not take a request, or could not go on with one: named values, each with a stable reason."""

from __future__ import annotations

from typing import ClassVar


class Refusal(Exception):  # noqa: N818 - the subclasses are named for what is the case
    """A request is not taken; nothing was scheduled. `reason` is stable, the message is for the caller."""

    reason: ClassVar[str]


class QueueFull(Refusal):
    """As many rows run and wait as may. Trying again later helps."""

    reason = "QUEUE_FULL"

    def __init__(self, live_rows: int, max_rows: int) -> None:
        super().__init__(f"the worker already holds {live_rows} of at most {max_rows} rows")
        self.live_rows = live_rows
        self.max_rows = max_rows


class TooManyRows(Refusal):
    """One request has more rows than may run and wait together: it would be refused for ever."""

    reason = "CAPACITY_EXCEEDED"

    def __init__(self, rows: int, max_rows: int) -> None:
        super().__init__(f"{rows} outputs in one request, this worker takes at most {max_rows} at once: send fewer")
        self.rows = rows
        self.max_rows = max_rows


class Draining(Refusal):
    """The worker finishes what it has and takes nothing new. Another worker helps."""

    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("the worker is shutting down")


class EngineBroken(Refusal):
    """The engine failed as a whole; the process is about to end."""

    reason = "ENGINE_BROKEN"

    def __init__(self) -> None:
        super().__init__("the engine of this worker failed")


class CapacityExceeded(Refusal):
    """A row would need more K/V than the arena holds, even alone."""

    reason = "CAPACITY_EXCEEDED"

    def __init__(self, needed_tokens: int, capacity_tokens: int) -> None:
        super().__init__(
            f"the row may need the K/V of {needed_tokens} tokens, this worker holds {capacity_tokens}: "
            "shorten the prompt or lower max_new_tokens"
        )
        self.needed_tokens = needed_tokens
        self.capacity_tokens = capacity_tokens


class RequestFailed(Exception):  # noqa: N818 - it is a fact about the request, raised to its reader
    """A request that was taken ended as a whole, without a terminal event for its open rows."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason  # UPPER_SNAKE_CASE, stable
        self.message = message
