"""Structured logs on stderr: one JSON object or one console line per event. Never prompts, completions or secrets."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from types import TracebackType
from typing import Literal

LogFormat = Literal["json", "console"]
FIELDS = "fields"


def configure(log_format: LogFormat, level: str) -> None:
    """Send everything that is logged in this process to stderr in `log_format`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def event(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """Log `message` with structured `fields`."""
    logger.log(level, message, extra={FIELDS: fields})


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and record.exc_info[0]:
            line |= {"exception": record.exc_info[0].__name__, "frames": frames(record.exc_info[2])}
        return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    """One line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = "".join(f" {key}={value}" for key, value in getattr(record, FIELDS, {}).items())
        line = f"{timestamp(record.created)} {record.levelname:<7} {record.name}: {record.getMessage()}{fields}"
        if record.exc_info and record.exc_info[0]:
            line += f" exception={record.exc_info[0].__name__} at {' < '.join(reversed(frames(record.exc_info[2])))}"
        return line


def frames(trace: TracebackType | None) -> list[str]:
    """Where an exception came from, without its message: that can quote a prompt."""
    return [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(trace)]


def timestamp(seconds: float) -> str:
    """`seconds` since the epoch as UTC, to the millisecond."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"
