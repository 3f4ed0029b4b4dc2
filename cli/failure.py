"""How a command says that it has failed: one line, a hint, an exit code."""

from __future__ import annotations

import sys
from typing import Self

from tokenmill_client import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    TokenmillError,
    UnavailableError,
)

FAILED, WRONG_USAGE, UNAVAILABLE = 1, 2, 3
_HINTS: dict[type[TokenmillError], str] = {
    NotFoundError: "`tokenmill models` lists what is served",
    OverloadedError: "there is no room now: try again in a moment",
    DeadlineExceededError: "it took too long: ask for less, or raise --timeout",
    RefusedError: "--api-key KEY, or TOKENMILL_API_KEY, says who asks",
}


class CommandError(Exception):
    """A command cannot do what it was asked to."""

    def __init__(self, message: str, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    @classmethod
    def of_call(cls, error: TokenmillError, gateway: str) -> Self:
        """What a failed call to `gateway` means to a person."""
        if isinstance(error, UnavailableError) and not error.reason:
            hint = "`tokenmill up` starts one on this machine; --gateway HOST:PORT names another"
            return cls(f"nobody answers at {gateway}", hint, UNAVAILABLE)
        code = WRONG_USAGE if isinstance(error, InvalidRequestError | NotFoundError) else FAILED
        return cls(
            error.message, _HINTS.get(type(error), ""), UNAVAILABLE if isinstance(error, UnavailableError) else code
        )


def tell(error: CommandError) -> int:
    """Say it; return the exit code."""
    sys.stderr.write(f"tokenmill: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"  hint: {error.hint}\n")
    return error.code
