"""What the tests of the model worker share."""

from __future__ import annotations

import pytest

from model_worker.torch_engine.native.library import NativeLibrary, native_library


@pytest.fixture(scope="session")
def native(request: pytest.FixtureRequest) -> NativeLibrary:
    """Our C++, kept from one run to the next: the library's name says from what it was made."""
    return native_library(request.config.cache.mkdir("native"))
