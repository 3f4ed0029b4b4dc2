"""`tokenmill up` and `tokenmill chat` in two terminals, as a person has them."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

pytestmark = pytest.mark.model
PATIENCE_SECONDS = 60.0
PRESS_SECONDS = 1.0
CTRL_C, CTRL_D = b"\x03", b"\x04"
MARKS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")  # colours, erased lines
QUESTION = "What is the capital of France?"


def _take_terminal() -> None:
    """As a login does: it is this session's terminal, and Ctrl-C is not ignored, though it may be by who runs tests."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A terminal in which `tokenmill` runs; what it shows is kept, without colours."""

    def __init__(self, *arguments: str) -> None:
        own, its = os.openpty()
        self._own = own
        # In a session of its own whose terminal this is, so that Ctrl-C is a signal for it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - it has one thread then
        )
        os.close(its)
        self.shown = self._unread = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._own)

    def type(self, keys: str | bytes) -> None:
        os.write(self._own, keys if isinstance(keys, bytes) else keys.encode())

    def until(self, pattern: str, *, pressing: bytes = b"") -> re.Match[str]:
        """Read on until `pattern` has been shown, after what was waited for before; `pressing` keys as people do."""
        press_at = time.monotonic()
        deadline = press_at + PATIENCE_SECONDS
        while not (found := re.search(pattern, self._unread)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self._unread!r}"
            if time.monotonic() >= press_at:
                os.write(self._own, pressing)
                press_at = time.monotonic() + PRESS_SECONDS
            if select.select([self._own], [], [], PRESS_SECONDS)[0]:
                came = MARKS.sub("", os.read(self._own, 4096).decode(errors="replace"))
                self.shown, self._unread = self.shown + came, self._unread + came
        self._unread = self._unread[found.end() :]
        return found

    def ended(self) -> int:
        """The exit code, once it has ended by itself."""
        return self._process.wait(PATIENCE_SECONDS)


def test_five_minutes_of_a_person(demo_model: Path) -> None:
    with Terminal("up", "--free-ports", "--model", str(demo_model)) as up:
        address = up.until(r"gateway (127\.0\.0\.1:\d+) \(")[1]
        up.until("Ctrl-C stops all three")
        with Terminal("chat", "--gateway", address, "--temperature", "0") as chat:
            chat.until("> $")
            chat.type(QUESTION + "\r")
            chat.until(r"Paris[^>]*ms to the first token, [\d.]+ tokens/s\s+> $")
            chat.type("Tell me a long story about a river.\r")
            chat.until(r"river\.\s+\w+ \w+ \w+")
            chat.type(CTRL_C)
            chat.until(r"\(stopped\)[^>]*> $")
            # Python's readline misses a Ctrl-C in the moment between its prompt and its first look at the keys.
            chat.until(r"\(Ctrl-D leaves\)\s+> $", pressing=CTRL_C)
            chat.type(CTRL_D)
            assert chat.ended() == 0
        up.type(CTRL_C)
        assert up.ended() == 0
        print(up.shown, chat.shown, sep="\n")
