"""How far loading has come: the value that is passed around, and how a person gets to see it. No torch here."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Literal, TextIO

LoadStage = Literal[
    "checking files", "loading weights", "quantizing", "preparing", "testing", "compiling", "warming up", "ready"
]
_BAR_CELLS = 30
_log = logging.getLogger("tokenmill.worker.load")


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """`fraction` is of the whole load, 0 to 1, and never falls."""

    stage: LoadStage
    fraction: float


class ProgressDisplay:
    """Shows progress as one line that redraws itself on a terminal, and as a log line per stage elsewhere."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._on_terminal = stream.isatty()
        self._shown = ""

    def __call__(self, progress: LoadProgress) -> None:
        """Show `progress`; what would look the same as before is not shown again."""
        shown = self._bar(progress) if self._on_terminal else progress.stage
        if shown == self._shown:
            return
        self._shown = shown
        if not self._on_terminal:
            _log.info("%s (%.0f %%)", progress.stage, 100 * progress.fraction)
            return
        self._stream.write(f"\r{shown}" + ("\n" if progress.stage == "ready" else ""))
        self._stream.flush()

    @staticmethod
    def _bar(progress: LoadProgress) -> str:
        full = round(_BAR_CELLS * progress.fraction)
        return f"[{'#' * full}{' ' * (_BAR_CELLS - full)}] {progress.fraction:4.0%} {progress.stage:<16}"
