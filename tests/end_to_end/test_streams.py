"""What streams say, and that it is what the unary calls say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.heard import hear
from tests.end_to_end.requests import FinishReason, chat

if TYPE_CHECKING:
    from tests.end_to_end.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_real_answer_comes_out(stack: Stack) -> None:
    heard = await hear(stack.gateway.StreamChat(chat()))
    assert heard.ends[0].finish.reason == FinishReason.FINISH_REASON_MAX_NEW_TOKENS
    assert len(heard.token_ids[0]) == 10
