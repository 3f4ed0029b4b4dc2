"""One exact stack and one reference for all tests here: both take seconds to load."""

from __future__ import annotations

import pytest

from tests.real_model.reference import Reference
from tests.real_model.stack import EXACT, running_stack


@pytest.fixture(scope="session")
def exact(demo_model):
    with running_stack(demo_model, *EXACT) as caller:
        yield caller


@pytest.fixture(scope="session")
def reference(demo_model):
    return Reference.load(demo_model)
