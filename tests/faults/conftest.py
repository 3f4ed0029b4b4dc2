"""The matrix that the tests of a session fill, and its table at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.stack import write_model_folder
from tests.faults.matrix import Matrix

if TYPE_CHECKING:
    from pathlib import Path

_MATRIX = pytest.StashKey[Matrix]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_MATRIX] = Matrix()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    matrix = terminalreporter.config.stash[_MATRIX]
    if matrix.seen:
        terminalreporter.section("faults: what callers saw")
        for line in matrix.lines():
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def matrix(request: pytest.FixtureRequest) -> Matrix:
    return request.config.stash[_MATRIX]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder: a tokenizer and a chat template."""
    return write_model_folder(tmp_path_factory.mktemp("model") / "tiny")
