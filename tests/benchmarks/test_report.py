"""What was found survives JSON, reads well and lands between its marks."""

from __future__ import annotations

import pytest

from benchmarks.report import json_file
from benchmarks.report.markdown import BEGIN, END, FILES, as_markdown, check_line, publish, shown
from benchmarks.report.results import Check, Plot, Results, Section, Table

SECTION = Section(
    "Decoding",
    [Table("Throughput", ["tokens/s", "1 row"], [["fp32", 12.34], ["none", None]])],
    [Check("ratio", 2.5, at_least=2.0, goal=3.0)],
    [Plot("Decoding", "rows", "tokens per second", {"fp32": [(1.0, 10.0), (8.0, 50.0)]})],
    ["a note"],
)
RESULTS = Results({"CPU": "some"}, {"decode": SECTION})


@pytest.mark.parametrize(
    ("cell", "text"), [(None, "-"), (3, "3"), ("x", "x"), (1234.5, "1,234"), (99.96, "100.0"), (0.456, "0.46")]
)
def test_a_cell_shows_the_digits_that_mean_something(cell, text):
    assert shown(cell) == text


@pytest.mark.parametrize(
    ("check", "met"),
    [
        (Check("x", 2.0, at_least=2.0), True),
        (Check("x", 1.9, at_least=2.0), False),
        (Check("x", 15.0, at_most=15.0), True),
        (Check("x", 15.1, at_most=15.0), False),
        (Check("x", None, at_least=2.0), False),
        (Check("x", None, at_most=2.0), False),
    ],
)
def test_a_promise_that_was_not_measured_is_not_kept(check, met):
    assert check.met is met
    assert ("MISSED" in check_line(check)) is not met


def test_results_survive_json(tmp_path):
    json_file.write(RESULTS, tmp_path / "results.json")
    assert json_file.read_or_new(tmp_path / "results.json", {"CPU": "some"}) == RESULTS


def test_results_of_other_conditions_are_not_mixed_in(tmp_path):
    json_file.write(RESULTS, tmp_path / "results.json")
    assert json_file.read_or_new(tmp_path / "results.json", {"CPU": "other"}) == Results({"CPU": "other"})


def test_the_report_has_the_table_the_promise_and_the_note():
    text = as_markdown(RESULTS)
    assert "| fp32 | 12.3 |" in text
    assert "- met: ratio: 2.50 (at least 2, goal 3)" in text
    assert "- a note" in text


def test_publishing_replaces_what_stands_between_the_marks(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    publish("new", page)
    publish("newer", page)
    assert page.read_text() == f"before\n{BEGIN}\n\n{FILES}\n\nnewer\n{END}\nafter\n"


@pytest.mark.slow  # matplotlib takes a second to import
def test_the_same_results_draw_the_same_picture(tmp_path):
    from benchmarks.report import plot

    plot.draw(RESULTS, tmp_path / "one.svg")
    plot.draw(RESULTS, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
