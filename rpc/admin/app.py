"""What can be asked of a process on its admin port, and changed in it until it ends."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rpc import log
from rpc.admin import stacks
from rpc.admin.refusal import Refusal
from rpc.admin.shown_settings import shown
from rpc.health import Health
from rpc.running_calls import RunningCalls
from rpc.settings import ServiceSettings

LOGGER = logging.getLogger("tokenmill.admin")
Shown: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Operated:
    """The process, as far as it can be operated."""

    full_name: str  # of the service
    settings: ServiceSettings
    health: Health
    running: RunningCalls
    describe: Callable[[], Shown]  # what it serves


@dataclass(frozen=True, slots=True)
class Route:
    """What one method of one path does. `answer` gets the request's body."""

    does: str
    answer: Callable[[Operated, bytes], Shown]


def index(operated: Operated, _body: bytes) -> Shown:
    """What there is."""
    return {
        "service": operated.full_name,
        "routes": {f"{method} {path}": route.does for (method, path), route in ROUTES.items()},
    }


def drain_state(operated: Operated, _body: bytes) -> Shown:
    """Whether calls are welcome, and how many there are."""
    return {
        "drained": operated.health.is_drained,
        "ready": operated.health.is_ready,
        "running_calls": operated.running.working_calls,
    }


def drain(operated: Operated, body: bytes) -> Shown:
    """Say that no calls are welcome, and go on answering those that come."""
    return _set_drained(operated, body, drained=True)


def undrain(operated: Operated, body: bytes) -> Shown:
    """Take that back."""
    return _set_drained(operated, body, drained=False)


def log_levels(_operated: Operated, _body: bytes) -> Shown:
    """That of the service, and those of loggers that have one of their own."""
    return log.levels()


def set_log_level(_operated: Operated, body: bytes) -> Shown:
    """Set one. Errors: Refusal."""
    level, logger = _wanted_level(body)
    try:
        log.set_level(level, logger)
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    log.announce(LOGGER, "log level set", to=level, of=logger)
    return log.levels()


ROUTES: dict[tuple[str, str], Route] = {
    ("GET", "/"): Route("what there is", index),
    ("GET", "/drain"): Route("whether it is drained, and how many calls run", drain_state),
    ("POST", "/drain"): Route("not ready from now on; what comes is answered all the same", drain),
    ("DELETE", "/drain"): Route("ready again", undrain),
    ("GET", "/loglevel"): Route("levels of the log", log_levels),
    ("PUT", "/loglevel"): Route('{"level": …}, or {"level": …, "logger": …}: until the process ends', set_log_level),
    ("GET", "/models"): Route("what is served", lambda operated, _body: operated.describe()),
    ("GET", "/settings"): Route("settings that hold", lambda operated, _body: shown(operated.settings)),
    ("GET", "/tasks"): Route("where the tasks of the event loop stand", lambda _operated, _body: stacks.tasks()),
    ("GET", "/threads"): Route("where threads stand", lambda _operated, _body: stacks.threads()),
}


def answer_to(operated: Operated, method: str, path: str, body: bytes) -> Shown:
    """Errors: Refusal."""
    route = ROUTES.get(("GET" if method == "HEAD" else method, path))
    if route is not None:
        return route.answer(operated, body)
    allowed = [method for method, known in ROUTES if known == path]
    if allowed:
        raise Refusal(405, f"only {', '.join(allowed)}")
    raise Refusal(404, f"there are {', '.join(sorted({path for _, path in ROUTES}))}")


def _wanted_level(body: bytes) -> tuple[str | None, str]:
    """Errors: Refusal."""
    try:
        wanted = json.loads(body)
    except ValueError:
        wanted = None
    if isinstance(wanted, dict) and "level" in wanted and not wanted.keys() - {"level", "logger"}:
        level, logger = wanted["level"], wanted.get("logger", log.OURS)
        if isinstance(level, str | None) and isinstance(logger, str):
            return level, logger
    raise Refusal(400, 'the body must be {"level": TEXT} or {"level": TEXT or null, "logger": TEXT}')


def _set_drained(operated: Operated, body: bytes, *, drained: bool) -> Shown:
    if drained != operated.health.is_drained:
        operated.health.set_drained(drained=drained)
        message = "drained by an operator, not ready" if drained else "no longer drained"
        log.announce(LOGGER, message, ready=operated.health.is_ready)
    return drain_state(operated, body)


def text_of(answer: Any) -> bytes:
    """For people with curl as for programs."""
    return (json.dumps(answer, indent=2, ensure_ascii=False) + "\n").encode()
