"""`tokenmill chat`: a conversation in the terminal. Ctrl-C stops an answer, not the program."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import Any

from cli.asking import add_gateway, add_parameters, client, parameters
from cli.failure import CommandError, tell
from cli.interrupts import stopped_by_ctrl_c
from tokenmill_client import Client, Message, Parameters, TokenmillError

HELP = """/system TEXT  set the system prompt      /clear  begin anew
/set NAME NUMBER  change a parameter      /again  answer once more
/exit, or Ctrl-D  leave                   Ctrl-C  stop an answer"""


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("chat", help="talk with a model", description="Talk with a model.")
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")
    add_gateway(parser)
    add_parameters(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Talk until the person leaves."""
    with client(options) as asked:
        asked.models()  # so that nobody types a question to nobody
        Conversation(asked, parameters(options), options.system or "", options.gateway).hold()
    return 0


class Conversation:
    """Owns what was said."""

    def __init__(self, asked: Client, given: Parameters, system: str, gateway: str) -> None:
        self._client = asked
        self._parameters: dict[str, Any] = dict(given)
        self._system = system
        self._gateway = gateway
        self._said: list[Message] = []

    def hold(self) -> None:
        """Read lines and answer them."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - lines can be edited, and brought back by the arrow keys
        if sys.stdin.isatty():
            print("/help tells what there is beside talking")
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except KeyboardInterrupt:
                print("\n(Ctrl-D leaves)")
                continue
            except EOFError:
                break
            if line in {"/exit", "/quit"}:
                break
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._said.append(Message("user", line))
                self._answer()

    def _command(self, line: str) -> None:
        word, _, rest = line[1:].partition(" ")
        match word:
            case "system":
                self._system = rest.strip()
            case "clear":
                self._said.clear()
            case "again" if any(one.role == "user" for one in self._said):
                while self._said[-1].role != "user":
                    self._said.pop()
                self._answer()
            case "set":
                self._set(rest)
            case _:
                print(HELP)

    def _set(self, rest: str) -> None:
        name, _, number = rest.strip().partition(" ")
        name = name.replace("-", "_")
        if name not in Parameters.__annotations__:
            print(f"there is no parameter {name!r}")
            return
        try:
            self._parameters[name] = float(number) if "." in number else int(number)
        except ValueError:
            print(f"{number!r} is no number")

    def _answer(self) -> None:
        """Stream an answer; what was said until it is stopped, or fails, is kept."""
        messages = [Message("system", self._system)] if self._system else []
        text, began, first, tokens = "", time.monotonic(), None, 0
        stream = self._client.stream_chat([*messages, *self._said], **self._parameters)
        try:
            with stream, stopped_by_ctrl_c(stream.cancel) as pressed:
                for delta in stream:
                    if delta.text:
                        first = first or time.monotonic()
                        text += delta.text
                        print(delta.text, end="", flush=True)
                    if delta.usage is not None:
                        tokens = delta.usage.completion_tokens
            if pressed.is_set():
                print(" (stopped)", end="")
        except TokenmillError as error:
            tell(CommandError.of_call(error, self._gateway))
        print()
        if first is not None and tokens > 1:
            rate = (tokens - 1) / max(1e-9, time.monotonic() - first)
            told = f"{(first - began) * 1000:.0f} ms to the first token, {rate:.1f} tokens/s"
            print(f"\x1b[2m{told}\x1b[0m" if sys.stdout.isatty() else told)
        if text:
            self._said.append(Message("assistant", text))
        elif self._said and self._said[-1].role == "user":
            self._said.pop()  # it was not answered
