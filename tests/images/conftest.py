"""What was seen of the images, and its table at the end; built ones are looked at by `make test-images` alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.images.built import images
from tests.images.seen import Seen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.images.built import Image

_SEEN = pytest.StashKey[Seen]()
collect_ignore_glob = [] if os.environ.get("TOKENMILL_TEST_IMAGES") else ["test_built_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SEEN] = Seen()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seen = terminalreporter.config.stash[_SEEN]
    if seen.rows:
        terminalreporter.section("images: what was seen")
        for line in seen.lines():
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def seen(request: pytest.FixtureRequest) -> Seen:
    return request.config.stash[_SEEN]


@pytest.fixture(scope="session")
def built() -> Iterator[dict[str, Image]]:
    """The images, by service, and "base"."""
    with images() as mounted:
        yield mounted
