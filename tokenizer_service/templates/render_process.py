"""A process that renders chat templates and can be killed: jinja's sandbox stops escapes, not loops or memory.

Started as `python -m tokenizer_service.templates.render_process <limits as JSON>`; requests on stdin, answers
on stdout, ends with stdin. The kernel enforces the limits, and so it ends in time even when the service was killed.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO

from jinja2 import Template, TemplateError

from tokenizer_service.templates.render_limits import FRAME_LENGTH, Answer, RenderLimits
from tokenizer_service.templates.template_environment import chat_environment


class _OutputLimitError(Exception):
    """More characters were rendered than may be."""


# Compiling takes ten times as long as rendering. Bounded, although a service has only a few templates.
@lru_cache(maxsize=64)
def _compiled(template: str) -> Template:
    return chat_environment().from_string(template)


def _render(request: bytes, limits: RenderLimits) -> bytes:
    """Return the rendered text (UTF-8). Errors: whatever the template raises."""
    document = json.loads(request)
    pieces: list[str] = []
    characters = 0
    for piece in _compiled(document["template"]).generate(document["variables"]):
        characters += len(piece)
        if characters > limits.output_characters:
            raise _OutputLimitError
        pieces.append(piece)
    return "".join(pieces).encode()


def _answer(request: bytes, limits: RenderLimits) -> bytes:
    try:
        return Answer.RENDERED + _render(request, limits)
    except _OutputLimitError:
        return Answer.OUTPUT_TOO_LARGE
    except MemoryError:
        return Answer.OUT_OF_MEMORY
    except TemplateError as error:
        message = str(error)
    except Exception as error:  # noqa: BLE001 - whatever a template runs into is that template's failure
        message = f"{type(error).__name__}: {error}"
    return Answer.FAILED + message[:1000].encode(errors="replace")


def _requests(stream: BinaryIO) -> Iterator[bytes]:
    while header := stream.read(FRAME_LENGTH.size):
        (length,) = FRAME_LENGTH.unpack(header)
        yield stream.read(length)


def _send(stream: BinaryIO, answer: bytes) -> None:
    stream.write(FRAME_LENGTH.pack(len(answer)) + answer)
    stream.flush()


def main() -> None:
    """Answer requests until stdin ends, or until memory ran out: what is left of the heap is not to be trusted."""
    limits = RenderLimits(**json.loads(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold prompts
    answers = sys.stdout.buffer
    _send(answers, b"")
    for request in _requests(sys.stdin.buffer):
        # Nobody handles SIGALRM, so the kernel ends the process, in the middle of any computation.
        signal.setitimer(signal.ITIMER_REAL, limits.seconds)
        answer = _answer(request, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer)
        if answer == Answer.OUT_OF_MEMORY:
            return


if __name__ == "__main__":
    main()
