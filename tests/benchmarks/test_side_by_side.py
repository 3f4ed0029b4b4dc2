"""Taking turns, and leaving out who fails."""

from __future__ import annotations

from benchmarks.report.results import Section
from benchmarks.sections.side_by_side import Contest
from benchmarks.subjects.remote import SubjectError


def test_subjects_take_turns():
    order = []

    def subject(name):
        return lambda repetition: order.append((name, repetition)) or repetition

    results = Contest(Section("x"), {"a": subject("a"), "b": subject("b")}).run(2)
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert results == {"a": [0, 1], "b": [0, 1]}


def test_what_promises_nothing_is_asked_once():
    subjects = {name: lambda repetition: repetition for name in ("promised", "other")}
    assert Contest(Section("x"), subjects).run(3, promised=["promised"]) == {"promised": [0, 1, 2], "other": [0]}


def test_a_subject_that_fails_is_noted_and_left_out():
    def failing(repetition):
        raise SubjectError("no luck")

    section = Section("x")
    assert Contest(section, {"a": failing, "b": lambda repetition: 1.0}).run(2) == {"b": [1.0, 1.0]}
    assert section.notes == ["a failed: no luck"]
