"""Log lines: one event is one line, and an exception tells where it came from but not what it quoted."""

from __future__ import annotations

import asyncio
import json
import logging
import warnings
from typing import TYPE_CHECKING

import pytest

from rpc import log
from rpc.call_record import CURRENT, CallRecord
from rpc.tracing.span import PassedOn
from rpc.tracing.trace_context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGER = logging.getLogger("tokenmill.test")
MARKER = "a secret prompt"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("tokenmill")
    before = (root.handlers[:], root.level, ours.level)
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], level, ours_level = before
    root.setLevel(level)
    ours.setLevel(ours_level)


def written(capsys: pytest.CaptureFixture[str]) -> str:
    """What has been logged since the last call."""
    assert log.flush()
    return capsys.readouterr().err


def fail() -> None:
    try:
        raise KeyError(MARKER)
    except KeyError as error:
        raise ValueError(MARKER) from error


def test_an_event_is_one_json_object(capsys):
    log.configure("json", "info")
    log.event(LOGGER, logging.INFO, "two\nlines", tokens=3, path=pytest)
    (line,) = written(capsys).splitlines()
    fields = json.loads(line)
    assert (fields["level"], fields["message"], fields["tokens"]) == ("info", "two\nlines", 3)


def test_lines_about_a_call_have_its_ids(capsys):
    log.configure("json", "info")
    trace = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    before = CURRENT.set(CallRecord("/any", "mine", span=PassedOn(trace)))
    log.event(LOGGER, logging.WARNING, "within")
    log.event(LOGGER, logging.WARNING, "about another", request_id="other")
    CURRENT.reset(before)
    log.event(LOGGER, logging.WARNING, "outside")
    within, other, outside = map(json.loads, written(capsys).splitlines())
    assert (within["request_id"], within["trace_id"]) == ("mine", trace.trace_id)
    assert other["request_id"] == "other"
    assert not {"request_id", "trace_id"} & outside.keys()


def test_an_event_is_one_console_line(capsys):
    log.configure("console", "info")
    log.event(LOGGER, logging.INFO, "two\nlines", tokens=3)
    (line,) = written(capsys).splitlines()
    assert line.endswith("INFO    tokenmill.test: two\\nlines tokens=3")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_logged_by_its_types_and_frames_without_its_message(capsys, log_format):
    log.configure(log_format, "info")
    try:
        fail()
    except ValueError:
        LOGGER.exception("it failed")
    (line,) = written(capsys).splitlines()
    assert "ValueError < KeyError" in line
    assert "test_log.py" in line
    assert MARKER not in line


def test_causes_that_form_a_circle_end():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert log.causes(first).count("ValueError") == log.MAX_CAUSES / 2


def test_the_level_is_ours_and_libraries_warn_only(capsys):
    log.configure("console", "debug")
    LOGGER.debug("ours")
    logging.getLogger("some_library").info("theirs")
    logging.getLogger("some_library").warning("their warning")
    assert [line.rpartition(": ")[2] for line in written(capsys).splitlines()] == ["ours", "their warning"]
    log.configure("console", "error")
    logging.getLogger("some_library").warning("their warning")
    assert written(capsys) == ""


def test_warnings_are_log_lines(capsys):
    log.configure("json", "info")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old age", stacklevel=1)
    assert json.loads(written(capsys))["logger"] == "py.warnings"


async def test_what_no_task_is_told_is_logged_without_its_message(capsys):
    log.configure("json", "info")
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log.loop_exception)
    loop.call_soon(fail)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    line = written(capsys)
    assert json.loads(line)["exception"] == "ValueError < KeyError"
    assert MARKER not in line
