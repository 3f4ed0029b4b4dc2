"""Log lines on their way out, written by a thread of their own: whoever reads them slowly must not stop an event loop.

A pipe that is full blocks who writes to it, and with an event loop every call and the health of the service.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TextIO

MAX_LINES = 10_000  # that wait to be written, a few MB; what is beyond is lost, and how much that was is said
COLLECT_SECONDS = 0.005  # for what is logged at about the same time: it is written together


class LogWriter(logging.Handler):
    """Formats records where they are logged. `handle` holds the handler's lock, which guards what waits."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: list[str] = []
        self._lost = 0
        self._more = threading.Event()
        self._is_written = threading.Event()
        self._is_written.set()
        threading.Thread(target=self._write_for_ever, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Let the line of `record` wait to be written."""
        if len(self._waiting) >= MAX_LINES:
            self._lost += 1
            return
        try:
            self._waiting.append(self.format(record))
        except Exception:  # noqa: BLE001 - as every handler does: what cannot be formatted is no reason to fail
            self.handleError(record)
        self._is_written.clear()
        self._more.set()

    def written(self, seconds: float) -> bool:
        """Wait until all that was logged is written, for so long at most. Whether it is."""
        return self._is_written.wait(seconds)

    def _write_for_ever(self) -> None:
        while True:
            self._more.wait()
            time.sleep(COLLECT_SECONDS)
            self._more.clear()
            with self._lock_held():
                lines, self._waiting = self._waiting, []
                lost, self._lost = self._lost, 0
            if lost:
                lines.append(self.format(_loss(lost)))
            with suppress(OSError, ValueError):  # closed, or nobody will read it
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            with self._lock_held():
                if not self._waiting:
                    self._is_written.set()

    def _lock_held(self) -> threading.RLock:
        assert self.lock is not None, "the library makes one for every handler"
        return self.lock


def _loss(lines: int) -> logging.LogRecord:
    record = logging.LogRecord("tokenmill.log", logging.ERROR, "", 0, "log lines lost, as they were not read", (), None)
    record.fields = {"lines": lines}
    return record
