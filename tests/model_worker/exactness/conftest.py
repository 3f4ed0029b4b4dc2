"""What the matrix shares, and its table at the end of a run."""

from __future__ import annotations

import pytest

from tests.model_worker.exactness.tally import Tally

_TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TALLY] = Tally()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tally = terminalreporter.config.stash[_TALLY]
    if tally.subjects:
        terminalreporter.section("exactness: schedules tried, and in how many of them what came up")
        for line in tally.lines():
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Tally:
    return request.config.stash[_TALLY]
