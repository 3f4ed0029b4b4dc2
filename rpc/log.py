"""Structured logs on stderr: one JSON object or one console line per event. Never prompts, completions or secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
from pathlib import PurePath
from typing import Any, Literal

from rpc.call_record import CURRENT
from rpc.log_writer import LogWriter

LOGGER = logging.getLogger("tokenmill.log")
LogFormat = Literal["json", "console"]
OURS = "tokenmill"  # the logger that all of ours are below
LEVELS = ("debug", "info", "warning", "error")
FIELDS = "fields"
FLUSH_SECONDS = 1.0  # that the end of a process waits for a reader of its log
MAX_CAUSES = 8  # of one exception that are logged; a chain can be a circle


def configure(log_format: LogFormat, level: str) -> None:
    """Send everything that is logged in this process to stderr in `log_format`.

    `level` holds for our own loggers ("tokenmill.…"). Those of libraries warn only: at lower levels they may quote what
    they work on.
    """
    handler = LogWriter(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    set_level(level)


def set_level(level: str | None, logger: str = OURS) -> None:
    """Have `logger`, one of ours, log from `level` on; all of ours if not given; None: as the others of ours.

    Errors: ValueError saying what there is.
    """
    known = _ours()
    if logger not in known:
        raise ValueError(f"logger: must be one of {', '.join(sorted(known))}")
    if level not in LEVELS and (level is not None or logger == OURS):
        raise ValueError(f"level: must be one of {', '.join(LEVELS)}{'' if logger == OURS else ', null'}")
    least = logging.NOTSET if level is None else logging.getLevelNamesMapping()[level.upper()]
    known[logger].setLevel(least)
    if logger == OURS:
        logging.getLogger().setLevel(max(least, logging.WARNING))


def levels() -> dict[str, object]:
    """What is logged now: the level of ours, those of single loggers of ours, and the names there are."""
    known = _ours()
    own = {name: _level_name(logger) for name, logger in known.items() if logger.level and name != OURS}
    return {"level": _level_name(known[OURS]), "loggers": own, "known_loggers": sorted(known)}


def flush() -> bool:
    """Wait until what was logged is written, unless nobody reads it. Whether it is."""
    writers = [handler for handler in logging.getLogger().handlers if isinstance(handler, LogWriter)]
    return all(writer.written(FLUSH_SECONDS) for writer in writers)


def event(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log `message` with structured `fields`."""
    logger.log(level, message, extra={FIELDS: fields})


def announce(logger: logging.Logger, message: str, **fields: object) -> None:
    """Log a warning whatever the level: for what an operator does, above all to the levels themselves."""
    logger.handle(logger.makeRecord(logger.name, logging.WARNING, "", 0, message, (), None, extra={FIELDS: fields}))


def loop_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no task could be told, without the `repr` of exceptions that asyncio would put into the message."""
    LOGGER.error(context["message"], exc_info=context.get("exception"))


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info and record.exc_info[1]:
            line |= {"exception": causes(record.exc_info[1]), "frames": frames(record.exc_info[1])}
        return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    """One line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = "".join(f" {key}={value}" for key, value in fields_of(record).items())
        line = f"{timestamp(record.created)} {record.levelname:<7} {record.name}: {record.getMessage()}{fields}"
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            line += f" exception={causes(error)} at {' < '.join(reversed(frames(error)))}"
        return line.replace("\n", "\\n")


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a line, with the ids of the call that is handled: a line is formatted where it is logged."""
    call = CURRENT.get(None)
    own: dict[str, object] = getattr(record, FIELDS, {})
    return {**own, **call.ids, **own} if call else own


def causes(error: BaseException) -> str:
    """The type of `error` and of those that caused it, without their messages: those can quote a prompt."""
    names: list[str] = []
    cause: BaseException | None = error
    while cause and len(names) < MAX_CAUSES:
        names.append(type(cause).__name__)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return " < ".join(names)


def frames(error: BaseException) -> list[str]:
    """Where `error` came from."""
    trace = traceback.extract_tb(error.__traceback__)
    return [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in trace]


def _ours() -> dict[str, logging.Logger]:
    """Loggers are made as modules are imported, and a name that is asked for later must not make another."""
    ours = logging.getLogger(OURS)
    made = list(logging.Logger.manager.loggerDict.items())
    return {OURS: ours} | {
        name: logger for name, logger in made if isinstance(logger, logging.Logger) and name.startswith(f"{OURS}.")
    }


def _level_name(logger: logging.Logger) -> str:
    return logging.getLevelName(logger.level).lower()


def timestamp(seconds: float) -> str:
    """`seconds` since the epoch as UTC, to the millisecond."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"
