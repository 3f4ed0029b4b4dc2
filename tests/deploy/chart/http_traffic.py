"""Callers over HTTP who ask again and again, each on a connection that it keeps as long as it can."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_SECONDS = 30.0


class HttpTraffic:
    """What they were answered: `seen` counts statuses, and errors by their names. Nothing is asked a second time."""

    def __init__(self, address: str, model: str, most_tokens: int) -> None:
        self.seen: Counter[str] = Counter()
        self._url = f"http://{address}"
        self._model = model
        self._most_tokens = most_tokens
        self._is_over = False

    @asynccontextmanager
    async def of(self, callers: int) -> AsyncIterator[None]:
        """So many at any time during the body; at its end all calls have been answered."""
        async with asyncio.TaskGroup() as calling:
            for number in range(callers):
                calling.create_task(self._ask_again_and_again(number))
            yield
            self._is_over = True

    async def _ask_again_and_again(self, number: int) -> None:
        async with httpx2.AsyncClient(base_url=self._url, timeout=DEADLINE_SECONDS) as client:
            while not self._is_over:
                number += 37
                tokens = 1 + number % self._most_tokens
                body = {"model": self._model, "prompt": f"{number}", "max_tokens": tokens, "stream": number % 2 == 0}
                try:
                    self.seen[str((await client.post("/v1/completions", json=body)).status_code)] += 1
                except httpx2.HTTPError as error:
                    self.seen[type(error).__name__] += 1
