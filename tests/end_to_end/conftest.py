"""The tokenizer service is loaded once: all tests here run on one event loop, that of the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.end_to_end.stack import Stack, TokenizerTier, running_stack, tokenizer_tier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tier(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TokenizerTier]:
    async with tokenizer_tier(tmp_path_factory.mktemp("model") / "tiny") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tier: TokenizerTier) -> AsyncIterator[Stack]:
    """A stack without faults, shared by the tests of a module; each must leave it idle."""
    async with running_stack(tier) as running:
        yield running
