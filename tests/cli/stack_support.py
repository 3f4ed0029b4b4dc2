"""What the tests of the local stack share: a stack of fakes, and a look at the machine's processes."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import psutil

from cli.local_stack import LocalStack, Modules, StackOptions
from cli.progress import StartProgress

FAKES = Modules("tests.cli.fake_gateway", "tests.cli.fake_tokenizer", "tests.cli.fake_worker")


class Screen(io.StringIO):
    """What a person would see; a test can wait for a text on it."""

    def __init__(self) -> None:
        super().__init__()
        self._written = asyncio.Event()

    def write(self, text: str) -> int:
        """Show more."""
        self._written.set()
        return super().write(text)

    async def shows(self, text: str) -> None:
        """Return once `text` has been written."""
        while text not in self.getvalue():
            self._written.clear()
            await self._written.wait()


def fake_stack(*worker_arguments: str, screen: io.StringIO | None = None) -> LocalStack:
    """A stack whose three services are fakes; `worker_arguments` can make its worker misbehave."""
    options = StackOptions(Path("model"), "fake", worker_arguments=worker_arguments, modules=FAKES)
    return LocalStack(options, StartProgress(screen or io.StringIO()))


def children() -> list[psutil.Process]:
    """Living processes of stacks below this one; other tests of the session may have theirs."""
    return [child for child in psutil.Process().children(recursive=True) if is_of_a_stack(child)]


def is_of_a_stack(process: psutil.Process) -> bool:
    """Whether `process` was started as one of a stack's services."""
    try:
        return any(word.startswith(("tests.cli.", "cli.")) for word in process.cmdline())
    except psutil.Error:  # it has ended meanwhile; a zombie has no command line
        return False
