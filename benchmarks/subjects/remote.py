"""A subject in a process of its own: its threads, its memory and what it sets in its libraries touch nobody else's.

While it is not asked anything it costs nothing, so subjects can stand ready side by side and be measured in turns.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

SubjectType = TypeVar("SubjectType")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
END_SECONDS = 10.0


class SubjectError(Exception):
    """A subject cannot be had or cannot do what it was asked to; the message is one line for the report."""


class Remote(Generic[SubjectType]):
    """Owns a process with one subject in it, `make(*arguments)`. A context: after it the process is gone."""

    def __init__(
        self, make: Callable[..., SubjectType], *arguments: object, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the process, with `environment` beside ours. Errors: SubjectError, if the subject cannot be made."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_live, args=(theirs, make, arguments), daemon=True)
        with _environment(environment or {}):
            self._process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self._end()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def ask(
        self,
        method: Callable[Concatenate[SubjectType, Parameters], Result],
        *arguments: Parameters.args,
        **named: Parameters.kwargs,
    ) -> Result:
        """What `method` of the subject's class returns, called over there. Errors: SubjectError."""
        with contextlib.suppress(OSError):  # it has ended, and the answer that does not come says how
            self._connection.send((method, arguments, named))
        result: Result = self._answer()
        return result

    def __enter__(self) -> Self:
        """The process runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._end()

    def _answer(self) -> Any:
        try:
            result, failure = self._connection.recv()
        except EOFError:
            self._process.join(END_SECONDS)
            raise SubjectError(f"its process ended with exit code {self._process.exitcode}") from None
        if failure is not None:
            raise SubjectError(failure)
        return result

    def _end(self) -> None:
        self._connection.close()  # it reads the end of its orders
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _live(orders: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """In the process: make the subject and carry out orders until there are no more."""
    try:
        subject = make(*arguments)
        orders.send((None, None))
        while True:
            method, positional, named = orders.recv()
            orders.send((method(subject, *positional, **named), None))
    except (EOFError, KeyboardInterrupt):
        pass
    except BaseException as error:  # noqa: BLE001 - whatever it is, the report says so
        orders.send((None, _in_one_line(error)))


def _in_one_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
