"""The pages for people: files that ask this gateway and nobody else, and what they show of the workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from importlib.resources import files

from gateway.fleet.worker_state import WorkerState
from gateway.http.messages import Answer, HttpRequest, json_answer

# Nothing is loaded from elsewhere, nobody is told anything, and nobody may put the page into a frame.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Page:
    """Shows the page at `/`."""

    def __init__(self, workers: Callable[[], Sequence[WorkerState]], grpc_port: int) -> None:
        self._grpc_port = grpc_port  # for those who want to do the same from a program
        self._shown = file_answer("page.html")
        self._workers = workers

    async def show(self, _request: HttpRequest) -> Answer:
        """The page itself."""
        return self._shown

    async def workers(self, _request: HttpRequest) -> Answer:
        """Every worker as it is now."""
        workers = [dataclasses.asdict(worker) for worker in self._workers()]
        return json_answer({"grpc_port": self._grpc_port, "workers": workers})


def file_answer(name: str) -> Answer:
    """A file of this package, as a page."""
    content = files("gateway.http").joinpath(name).read_bytes()
    return Answer(content, media_type="text/html; charset=utf-8", headers=_HEADERS)
