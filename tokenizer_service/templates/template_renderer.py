"""Renders chat templates off the event loop, in a few processes that are replaced when a template breaks them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from tokenizer_service.errors import InvalidInput, RendererClosed, RendererUnavailable, RenderQueueFull
from tokenizer_service.templates.render_child import RenderChild
from tokenizer_service.templates.render_limits import RenderLimits

_log = logging.getLogger("tokenmill.tokenizer.templates")


@dataclass(frozen=True, slots=True)
class _Job:
    request: bytes
    text: asyncio.Future[str]


class TemplateRenderer:
    """A pool of render processes; each is driven by one task, and all tasks take jobs from one bounded queue.

    A caller who stops waiting never disturbs a process: its job is dropped, or rendered for nobody.
    """

    def __init__(self, limits: RenderLimits, *, processes: int = 2, max_waiting: int = 64) -> None:
        self._limits = limits
        self._processes = processes
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(max_waiting)
        self._unanswered: set[asyncio.Future[str]] = set()
        self._children: list[RenderChild] = []  # child i is replaced by driver i only
        self._drivers: list[asyncio.Task[None]] = []
        self._closed = False

    async def start(self) -> None:
        """Start the processes and wait until all are ready. Errors: OSError, and then none is left running."""
        try:
            for place in range(self._processes):
                self._children.append(await RenderChild.start(self._limits))
                self._drivers.append(asyncio.create_task(self._drive(place)))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End every process. Jobs without an answer fail with RendererClosed."""
        self._closed = True
        for driver in self._drivers:
            driver.cancel()
        await asyncio.gather(*self._drivers, return_exceptions=True)
        await asyncio.gather(*(child.kill() for child in self._children))
        for text in self._unanswered:
            if not text.done():
                text.set_exception(RendererClosed())

    @property
    def process_ids(self) -> list[int]:
        """The processes that can render now."""
        return [child.pid for child in self._children if child.alive]

    async def render(self, template: str, variables: Mapping[str, object]) -> str:
        """Return the text that `template` makes of `variables` (JSON values only).

        Errors: InvalidInput (too large as JSON), TemplateFailed, TemplateTooSlow, TemplateTooLarge, RenderQueueFull,
        RendererUnavailable, RendererClosed.
        """
        if self._closed:
            raise RendererClosed
        request = json.dumps({"template": template, "variables": variables}, ensure_ascii=False).encode()
        if len(request) > self._limits.input_bytes:
            text = f"the chat has {len(request)} bytes as JSON, its template included; at most"
            raise InvalidInput("messages", f"{text} {self._limits.input_bytes} are rendered")
        job = _Job(request, asyncio.get_running_loop().create_future())
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            raise RenderQueueFull("too many chats wait to be rendered") from None
        self._unanswered.add(job.text)
        try:
            return await job.text
        finally:
            self._unanswered.discard(job.text)

    async def _drive(self, place: int) -> None:
        while True:
            job = await self._jobs.get()
            if job.text.done():  # its caller went away
                continue
            try:
                text = await self._answer(place, job.request)
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller hears of it
                if not job.text.done():
                    job.text.set_exception(error)
            else:
                if not job.text.done():
                    job.text.set_result(text)
            if not self._children[place].alive:  # replaced now, so that the next job need not wait for it
                await self._replaced(place)

    async def _answer(self, place: int, request: bytes) -> str:
        if not self._children[place].alive and not await self._replaced(place):
            raise RendererUnavailable("no process could be started to render the chat")
        return await self._children[place].render(request)

    async def _replaced(self, place: int) -> bool:
        try:
            self._children[place] = await RenderChild.start(self._limits)
        except OSError as error:
            _log.error("a render process could not be started: %s", error)
            return False
        return True
