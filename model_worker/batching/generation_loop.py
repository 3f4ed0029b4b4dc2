"""The worker's front for the event loop, and the one thread behind it that owns engine, scheduler and sequences.

In: an inbox. Out: one TokenStream per request and a load snapshot per step. The thread lives by one rule: take what
came in, compute a step, publish; with nothing to compute it is blocked on the inbox.
"""

from __future__ import annotations

import asyncio
import collections.abc
import logging
import threading
import time
from collections import deque
from functools import partial

from model_worker.batching.capacity import check_capacity
from model_worker.batching.continuous_batch import ContinuousBatch
from model_worker.batching.inbox import Cancel, Close, Inbox, Message, StopRow, Submit, SubmittedRow
from model_worker.batching.load import LoadSnapshot
from model_worker.batching.publisher import Publisher
from model_worker.batching.refusals import Draining, EngineBroken, QueueFull, Refusal, RequestFailed, TooManyRows
from model_worker.batching.scheduler import SchedulerLimits
from model_worker.batching.token_gaps import TokenGaps
from model_worker.batching.token_stream import TokenStream
from model_worker.engine import Engine

CLOSE_SECONDS = 10.0  # any step of a sound engine ends within
LOGGER = logging.getLogger("tokenmill.worker")
OnBroken = collections.abc.Callable[[Exception], None]


class GenerationLoop:
    """Generates rows of token ids. All methods but `close` belong to the event loop thread that called `start`."""

    def __init__(
        self,
        engine: Engine,
        limits: SchedulerLimits,
        *,
        enable_prefix_caching: bool = True,
        clock: collections.abc.Callable[[], float] = time.monotonic,
        on_broken: OnBroken = lambda _: None,
    ) -> None:
        """`on_broken` is called on the event loop, once, when the engine failed as a whole; the process has to end.

        Without prefix caching, only rows of one request share K/V, and nothing is kept of a row that ended.
        """
        self._engine = engine
        self._spec = engine.spec
        self._limits = limits
        self._clock = clock
        self._on_broken = on_broken
        self._inbox = Inbox()
        self._accepting: deque[Message] = deque()  # generation thread: taken from the inbox, not carried out yet
        self._batch = ContinuousBatch(engine, limits, clock, enable_prefix_caching=enable_prefix_caching)
        self._submitted_rows = 0
        self._refusal: Refusal | None = None
        self._publisher: Publisher | None = None
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self, event_loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread. It wakes readers on `event_loop`, which has to outlive it: `close` comes first."""
        self._publisher = Publisher(event_loop, self._batch.load())
        self._thread.start()

    def submit(self, rows: collections.abc.Sequence[SubmittedRow]) -> TokenStream:
        """Queue the rows of one request: each row's ids, array("i") and not empty, with its parameters.

        Rows with identical ids compute them once. Precondition: `check_capacity` passed for each row.

        Errors: TooManyRows, QueueFull, Draining, EngineBroken; then nothing was queued.
        """
        if self._refusal is not None:
            raise self._refusal
        live_rows = self._submitted_rows - self._batch.ended_rows  # never too few: only we add, only they end
        max_rows = self._limits.max_num_seqs + self._limits.max_queue
        if len(rows) > max_rows:
            raise TooManyRows(len(rows), max_rows)
        if live_rows + len(rows) > max_rows:
            raise QueueFull(live_rows, max_rows)
        for ids, params in rows:
            check_capacity(len(ids) - params.generated_prefix, params.max_new_tokens, self._spec)
        stream = TokenStream(max(0, params.max_new_tokens - params.generated_prefix) for _, params in rows)
        self._submitted_rows += len(rows)
        self._inbox.put(Submit(stream, rows, self._clock()))
        return stream

    def stop_row(self, stream: TokenStream, row: int) -> None:
        """End one row with STOP_STRING; the others go on. A row that is unknown or has ended stays as it is."""
        if stream.ask_stop(row):
            self._inbox.put(StopRow(stream, row))

    def cancel(self, stream: TokenStream) -> None:
        """Forget the request: within one step it costs nothing any more. Its reader gets RequestFailed."""
        if stream.cancel():
            self._inbox.put(Cancel(stream))

    def snapshot(self) -> LoadSnapshot:
        """How busy the worker is, as of the latest step."""
        return self._published.load

    @property
    def token_gaps(self) -> TokenGaps:
        """How long rows have waited between their tokens."""
        return self._batch.token_gaps

    async def load_changed(self, seen: LoadSnapshot) -> LoadSnapshot:
        """The latest snapshot that is not `seen`; waits for the next step if there is none."""
        return await self._published.changed(seen)

    def refuse(self) -> None:
        """Refuse new requests from now on; what was submitted goes on."""
        self._refusal = self._refusal or Draining()

    async def drain(self) -> None:
        """Refuse new requests and wait until every row has ended. May be cancelled; it still refuses then."""
        self.refuse()
        while not isinstance(self._refusal, EngineBroken):
            seen = self.snapshot()
            if self._submitted_rows == self._batch.ended_rows:
                return
            await self.load_changed(seen)

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Fail what still runs, close the engine and join the thread. May be repeated.

        Blocks for the rest of a step, so a caller on the event loop uses a thread. A step that hangs is left behind
        after `timeout_seconds`: its thread does not keep the process from ending.
        """
        self._refusal = self._refusal or Draining()
        if self._publisher is None:
            self._engine.close()
        elif self._thread.is_alive():
            self._inbox.put(Close())
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                LOGGER.error("the engine has not ended its step within %g s: left behind", timeout_seconds)

    def _after_break(self, error: Exception) -> None:
        """The thread is over: refuse what comes, fail what it has not carried out, wake everyone.

        Publishing here, after the refusal is set, lets whoever drains see it: there is no later wake-up.
        """
        self._refusal = EngineBroken()
        try:
            for message in [*self._accepting, *self._inbox.take(wait=False)]:
                if isinstance(message, Submit):
                    message.stream.fail(RequestFailed(EngineBroken.reason, str(self._refusal)))
                    message.stream.wake()
            self._publish()
        finally:
            self._on_broken(error)

    @property
    def _published(self) -> Publisher:
        assert self._publisher is not None, "not started"
        return self._publisher

    # From here on: the generation thread.

    def _run(self) -> None:
        try:
            while self._accept():
                self._step()
            self._batch.fail_all("SHUTTING_DOWN", "the worker is shutting down")
            self._batch.forget_all()
            self._publish()
            self._engine.close()
        except Exception as error:  # noqa: BLE001 - whatever it is: the engine's state is unknown now
            try:
                self._batch.fail_all(EngineBroken.reason, str(EngineBroken()))
            finally:
                self._published.call(partial(self._after_break, error))  # the thread's last act

    def _accept(self) -> bool:
        """Carry out what came in. False: the loop is to end."""
        self._accepting.extend(self._inbox.take(wait=not self._batch))
        while self._accepting:
            match self._accepting[0]:
                case Submit(stream, rows, arrived_at):
                    self._batch.add(stream, rows, arrived_at)
                case StopRow(stream, row):
                    self._batch.stop_row(stream, row)
                case Cancel(stream):
                    self._batch.cancel(stream)
                case Close():
                    return False
            self._accepting.popleft()  # only now: what raises is failed with those behind it
        return True

    def _step(self) -> None:
        if work := self._batch.plan():
            self._published.show(self._batch.load())
            self._batch.compute(work)
        self._publish()

    def _publish(self) -> None:
        self._published.publish(self._batch.touched, self._batch.load())
        self._batch.touched.clear()
