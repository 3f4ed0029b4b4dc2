"""`tokenmill admin`: a service's admin port, from inside its container or on its machine."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
from typing import Any

from cli.failure import UNAVAILABLE, WRONG_USAGE, CommandError

HOST = "127.0.0.1"  # services listen nowhere else
VARIABLE = "TOKENMILL_ADMIN_PORT"  # the service's own: in its container it says where to ask
SECONDS = 10.0
# Of each action, what is asked for, and what it is.
ACTIONS = {
    "drain": ("POST", "/drain", "not ready from now on; what comes is answered all the same"),
    "undrain": ("DELETE", "/drain", "ready again"),
    "state": ("GET", "/drain", "whether it is drained, and how many calls run"),
    "loglevel": ("GET", "/loglevel", "show the levels of the log, or set one"),
    "models": ("GET", "/models", "what is served, with what and by whom"),
    "settings": ("GET", "/settings", "the settings that hold"),
    "tasks": ("GET", "/tasks", "where the tasks of the event loop stand"),
    "threads": ("GET", "/threads", "where threads stand"),
}


def add_to(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "admin",
        help="look into a service on this machine, drain it, set its log level",
        description="Ask the admin port (--admin-port) of a service on this machine.",
    )
    parser.add_argument("--port", type=int, metavar="N", help=f"(default: {VARIABLE})")
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    for name, (_, _, text) in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
        if name == "loglevel":
            action.add_argument("level", nargs="?", help="debug, info, warning, error; not given: show them")
            action.add_argument("--logger", metavar="NAME", help="one alone; `default` as its level takes that back")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the answer, which is JSON. Errors: CommandError."""
    method, path, _ = ACTIONS[options.action]
    body = ""
    if options.action == "loglevel" and options.level:
        logger = {"logger": options.logger} if options.logger else {}
        level = None if options.level == "default" else options.level
        method, body = "PUT", json.dumps({"level": level, **logger})
    sys.stdout.write(_asked(_port(options), method, path, body))
    return 0


def _port(options: argparse.Namespace) -> int:
    if options.port is not None:
        return int(options.port)
    given = os.environ.get(VARIABLE, "")
    if not given.isascii() or not given.isdigit():
        raise CommandError("--port N is required", f"or {VARIABLE}, as the service has it", WRONG_USAGE)
    return int(given)


def _asked(port: int, method: str, path: str, body: str) -> str:
    if not 0 < port < 65536:
        raise CommandError("--port: must be from 1 to 65535", "what a service with 0 picked is in its log", WRONG_USAGE)
    connection = http.client.HTTPConnection(HOST, port, timeout=SECONDS)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        hint = (
            "a service listens there with --admin-port; one whose event loop is stuck tells by SIGUSR1 where it stands"
        )
        raise CommandError(f"nobody answers at {HOST}:{port}", hint, UNAVAILABLE) from None
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise CommandError(_error_of(answer), code=WRONG_USAGE)
    return answer


def _error_of(answer: str) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return "what answers there is not an admin port"
