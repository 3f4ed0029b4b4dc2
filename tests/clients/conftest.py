"""The tests of the clients need compilers, so only `make test-clients` collects them."""

from __future__ import annotations

import os

import pytest

from tests.clients.programs import CLIENTS

collect_ignore_glob = [] if os.environ.get("TOKENMILL_TEST_CLIENTS") else ["test_*.py"]


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command of one client; HOST:PORT and a question follow."""
    return CLIENTS[request.param]
