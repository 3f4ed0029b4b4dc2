"""Where a row's time went, in its trace: once it has ended, its queueing, prefill and decoding as parts of the call."""

from __future__ import annotations

import time
from collections.abc import Callable

from model_worker.batching.row_events import FinishedEvent
from rpc.tracing.span import Span

NANOSECONDS = 1_000_000_000


class Phases:
    """Of the rows of one call, which arrive as this is made."""

    def __init__(self, span: Span, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """`span`: the call's."""
        self._span = span
        self._arrived_ns = clock_ns()

    def tell(self, event: FinishedEvent) -> None:
        """A row has ended."""
        if not self._span.is_recording:
            return
        usage, timing = event.usage, event.timing
        row = {"tokenmill.row": event.row}
        admitted_ns = self._tell("queue", self._arrived_ns, timing.queue_seconds, row)
        if timing.time_to_first_token_seconds is None:
            return
        prompt = {"tokenmill.prompt_tokens": usage.prompt_tokens, "tokenmill.cached_tokens": usage.cached_prompt_tokens}
        first_ns = self._tell("prefill", admitted_ns, timing.prefill_seconds, row | prompt)
        completion = {"tokenmill.completion_tokens": usage.completion_tokens}
        self._tell("decode", first_ns, timing.decode_seconds, row | completion)

    def _tell(self, name: str, began_ns: int, seconds: float, attributes: dict[str, int]) -> int:
        """Returns when it was over."""
        ended_ns = began_ns + round(seconds * NANOSECONDS)
        self._span.past_child(name, began_ns, ended_ns, attributes)
        return ended_ns
