"""Why a request to the admin port is not answered as its sender hoped."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 - what happened to the request
    """`status` is HTTP's; the message is one line for people."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
