"""A subject in another process answers, fails and ends."""

from __future__ import annotations

import os

import pytest

from benchmarks.subjects.remote import Remote, SubjectError
from benchmarks.subjects.usage import CpuMeter, memory_bytes, peak_memory_bytes

pytestmark = pytest.mark.slow  # each starts an interpreter


class Adder:
    def __init__(self, start: int) -> None:
        if start < 0:
            raise ValueError("starts\nbelow zero")
        self.sum = start

    def add(self, number: int) -> int:
        self.sum += number
        return self.sum

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)

    def die(self) -> None:
        os._exit(7)


def test_a_subject_keeps_its_state_has_its_own_environment_and_ends():
    with Remote(Adder, 5, environment={"BENCH_TEST": "yes"}) as adder:
        meter = CpuMeter({"adder": adder.pid})
        assert [adder.ask(Adder.add, 1), adder.ask(Adder.add, 2)] == [6, 8]
        assert adder.ask(Adder.variable, "BENCH_TEST") == "yes"
        assert "BENCH_TEST" not in os.environ
        assert meter.seconds()["adder"] >= 0
        assert 0 < memory_bytes(adder.pid) <= peak_memory_bytes(adder.pid)
    assert memory_bytes(adder.pid) is None


def test_what_goes_wrong_there_is_one_line_here():
    with pytest.raises(SubjectError, match="ValueError: starts below zero"):
        Remote(Adder, -1)
    with Remote(Adder, 0) as adder:
        with pytest.raises(SubjectError, match="exit code 7"):
            adder.ask(Adder.die)
        with pytest.raises(SubjectError, match="exit code 7"):
            adder.ask(Adder.add, 1)
