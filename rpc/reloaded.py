"""What files say, read again once one of them has changed. A new content that is broken changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from rpc import log

LOGGER = logging.getLogger("tokenmill.reloaded")
Content = TypeVar("Content")


class RefusedContentError(Exception):
    """Files cannot be read, or do not say what they should; the message is one line for people."""


class Reloaded(Generic[Content]):
    """Looks at the files whenever it is asked: that is one `stat` of each, and their change shows at once.

    Threads may share one. Two that find a change at the same time both read it, and whoever has read an older state
    finds at the next look that there is a newer one.
    """

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], Content]) -> None:
        """`read` reads them, and raises RefusedContentError. Errors: that, if there is nothing to begin with."""
        self._what = what
        self._paths = paths
        self._read = read
        self._seen = self._state()
        self._content = read()

    @property
    def current(self) -> Content:
        """The newest content that was understood."""
        state = self._state()
        if state != self._seen:
            self._seen = state
            self._read_again()
        return self._content

    def _read_again(self) -> None:
        try:
            self._content = self._read()
        except RefusedContentError as error:
            log.event(LOGGER, logging.ERROR, "not reloaded, as before", what=self._what, why=str(error))
        else:
            log.event(LOGGER, logging.INFO, "reloaded", what=self._what)

    def _state(self) -> list[tuple[int, int, int] | None]:
        """What tells one content from another without reading it; None for a file that is not there."""
        return [_state_of(path) for path in self._paths]


def read_file(path: Path, flag: str) -> bytes:
    """What `path` holds. Errors: RefusedContentError naming the flag."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RefusedContentError(f"{flag}: {path}: {error.strerror}") from error


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()  # of what a link leads to: Kubernetes replaces a mounted secret by moving a link
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
