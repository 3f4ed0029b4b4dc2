from __future__ import annotations

from cli.log_line import LogLine


def test_a_json_line_reads_as_a_sentence_with_its_fields() -> None:
    line = LogLine.parse('{"time": "…", "level": "info", "logger": "x", "message": "listening", "port": 50053}\n')
    assert (str(line), line.severe, line.fields) == ("listening port=50053", False, {"port": 50053})


def test_warnings_and_errors_are_severe() -> None:
    assert LogLine.parse('{"level": "error", "message": "broken"}').severe


def test_what_is_not_a_json_object_is_kept_as_it_is() -> None:
    for text in ("Traceback (most recent call last):", "[1, 2]", "12", ""):
        assert str(LogLine.parse(text)) == text
        assert not LogLine.parse(text).severe
