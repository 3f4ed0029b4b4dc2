"""How a person sees the load: a bar on a terminal, a line per stage elsewhere."""

import io
import logging

from model_worker.loading.load_progress import LoadProgress, ProgressDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEPS = [
    LoadProgress("checking files", 0),
    LoadProgress("loading weights", 0.35),
    LoadProgress("loading weights", 0.7),
    LoadProgress("ready", 1),
]


def test_a_terminal_gets_one_line_that_redraws_itself():
    terminal = Terminal()
    display = ProgressDisplay(terminal)
    for step in [*STEPS[:2], STEPS[1], *STEPS[2:]]:
        display(step)
    shown = terminal.getvalue()
    assert shown.count("\r") == 4
    assert shown.count("\n") == 1
    assert shown.endswith("[##############################] 100% ready           \n")
    assert len({len(line) for line in shown.strip("\r\n").split("\r")}) == 1, "a shorter line leaves the old one's end"


def test_elsewhere_each_stage_is_a_log_line(caplog):
    stream = io.StringIO()
    display = ProgressDisplay(stream)
    with caplog.at_level(logging.INFO):
        for step in STEPS:
            display(step)
    assert caplog.messages == ["checking files (0 %)", "loading weights (35 %)", "ready (100 %)"]
    assert not stream.getvalue()
