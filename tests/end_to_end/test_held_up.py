"""A gateway whose own event loop is held up does not blame its workers for what it could not hear meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from gateway.fleet.worker_load import SILENT_SECONDS
from tests.end_to_end.stack import running_stack

if TYPE_CHECKING:
    from tests.end_to_end.stack import TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
TURNS = 20  # of the event loop between two times that it is held up: too few for a report to come


async def test_no_worker_is_lost(tier: TokenizerTier) -> None:
    async with running_stack(tier) as stack:
        (worker,) = stack.workers()
        for seconds in (SILENT_SECONDS - 0.1, 0.6, 0.6):
            time.sleep(seconds)  # noqa: ASYNC251 - it is what is tested
            for _ in range(TURNS):
                await asyncio.sleep(0)
                (worker,) = stack.workers()
                assert worker.ready
