from __future__ import annotations

import io

import pytest

from cli.progress import ERASE_LINE, StartProgress, described


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_each_stage_is_one_line() -> None:
    log = io.StringIO()
    progress = StartProgress(log)
    for fraction in (0.1, 0.5, 0.9):
        progress.show("worker", "loading", fraction)
    progress.show("worker", "ready", 1.0)
    assert log.getvalue() == "worker: loading\nworker: ready\n"


def test_on_a_terminal_one_line_is_redrawn_with_a_bar() -> None:
    terminal = Terminal()
    progress = StartProgress(terminal)
    progress.show("tokenizer", "ready", 1.0)
    progress.show("worker", "loading", 0.5)
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().split(ERASE_LINE)[-1] == "tokenizer ready   worker loading ██████░░░░░░ 50%"


def test_a_line_never_wraps_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    progress = StartProgress(terminal)
    progress.show("worker", "loading" * 100)
    assert len(terminal.getvalue().split(ERASE_LINE)[-1]) == 39


def test_a_stage_without_a_measure_has_no_bar() -> None:
    assert described("gateway", "starting", 0.0) == "gateway starting"
