"""How far each service has come, for a person: one line that is redrawn on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

BAR_CELLS = 12
ERASE_LINE = "\r\x1b[K"


class StartProgress:
    """The stage of each service while a stack starts."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.on_terminal = stream.isatty()
        self.started = time.monotonic()
        self._stages: dict[str, tuple[str, float]] = {}

    def show(self, service: str, stage: str, fraction: float = 0.0) -> None:
        """`service` is in `stage`, of which `fraction` (0 to 1) is done; 0: unknown."""
        before, _ = self._stages.get(service, ("", 0.0))
        self._stages[service] = (stage, fraction)
        if self.on_terminal:
            self._redraw()
        elif stage != before:
            self._write(f"{service}: {stage}\n")

    def note(self, line: str) -> None:
        """Write a line of its own above the progress."""
        self._write(f"{ERASE_LINE if self.on_terminal else ''}{line}\n")

    def done(self) -> None:
        """All services are ready."""
        self.note(f"ready in {time.monotonic() - self.started:.1f} s")

    def _redraw(self) -> None:
        line = "   ".join(described(service, *stage) for service, stage in self._stages.items())
        self._write(ERASE_LINE + line[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def described(service: str, stage: str, fraction: float) -> str:
    """One service's progress in a few words, with a bar where there is something to measure."""
    if not 0 < fraction < 1:
        return f"{service} {stage}"
    full = round(fraction * BAR_CELLS)
    return f"{service} {stage} {'█' * full}{'░' * (BAR_CELLS - full)} {fraction:.0%}"
