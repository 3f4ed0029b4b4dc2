"""The service's end of one render process: starts it, asks it, ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import asdict
from pathlib import Path

from tokenizer_service.errors import TemplateFailed, TemplateTooLarge, TemplateTooSlow
from tokenizer_service.templates.render_limits import FRAME_LENGTH, Answer, RenderLimits

# Only what Python needs to run: credentials in the service's environment are none of a template's business.
_INHERITED = ("TZ", "LD_LIBRARY_PATH", "PYTHONHOME")
# Where this package stands; the service may have found it in its working directory, where the process does not look.
_IMPORT_ROOT = str(Path(__file__).resolve().parents[2])
_START_SECONDS = 30.0  # starting takes 0.1 s; a machine that needs longer than this cannot serve
_BACKSTOP_SECONDS = 1.0  # the process's own alarm comes first; this is for one that hangs outside of Python


class RenderChild:
    """One render process, owned by one task. After any error but TemplateFailed it may no longer be `alive`."""

    def __init__(self, process: Process, limits: RenderLimits) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._requests = process.stdin
        self._answers = process.stdout
        self._limits = limits
        self._retired = False

    @classmethod
    async def start(cls, limits: RenderLimits) -> RenderChild:
        """Start a process and wait until it is ready. Errors: OSError, also when it does not become ready."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tokenizer_service.templates.render_process", json.dumps(asdict(limits))),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,  # a traceback would put prompts into the log
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the service, which goes on rendering while it drains
        )
        child = cls(process, limits)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await child._receive()
        except BaseException as error:
            await child.kill()
            if isinstance(error, (asyncio.IncompleteReadError, TimeoutError)):
                raise OSError("a render process ended before it was ready") from error
            raise
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._retired and self._process.returncode is None

    async def render(self, request: bytes) -> str:
        """Return what the template makes of `request` (JSON). Errors: TemplateFailed, -TooSlow, -TooLarge."""
        try:
            async with asyncio.timeout(self._limits.seconds + _BACKSTOP_SECONDS):
                self._requests.write(FRAME_LENGTH.pack(len(request)) + request)
                await self._requests.drain()
                answer = await self._receive()
        except TimeoutError:
            await self.kill()
            raise self._too_slow() from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._explain_end() from None
        return self._read(answer)

    async def kill(self) -> None:
        """End it now and wait for its end."""
        self._retired = True
        self._requests.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _receive(self) -> bytes:
        (length,) = FRAME_LENGTH.unpack(await self._answers.readexactly(FRAME_LENGTH.size))
        return await self._answers.readexactly(length)

    def _read(self, answer: bytes) -> str:
        kind, text = answer[:1], answer[1:].decode()
        if kind == Answer.RENDERED:
            return text
        if kind == Answer.FAILED:
            raise TemplateFailed(text)
        if kind == Answer.OUTPUT_TOO_LARGE:
            raise TemplateTooLarge(f"the chat template wrote more than {self._limits.output_characters} characters")
        self._retired = True
        raise TemplateTooLarge("the chat template needed too much memory")

    async def _explain_end(self) -> Exception:
        code = await self._process.wait()
        if code == -signal.SIGALRM:
            return self._too_slow()
        if code == -signal.SIGKILL:  # the kernel or a container runtime ran out of memory
            return TemplateTooLarge("the chat template needed too much memory")
        return TemplateFailed("the chat template ended the process that rendered it")

    def _too_slow(self) -> TemplateTooSlow:
        return TemplateTooSlow(f"the chat template took longer than {self._limits.seconds:g} s")


def _environment() -> dict[str, str]:
    search_path = os.pathsep.join(filter(None, (_IMPORT_ROOT, os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": search_path} | {name: os.environ[name] for name in _INHERITED if name in os.environ}
