"""What stands ready side by side to be measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from benchmarks.options import BenchOptions
from benchmarks.report.results import Section
from benchmarks.subjects.engine import EngineSubject
from benchmarks.subjects.remote import Remote, SubjectError

Result = TypeVar("Result")
GENERATE = "transformers generate()"
CONTINUOUS = "transformers continuous batching"


def start_engines(stack: ExitStack, options: BenchOptions, section: Section) -> dict[str, Remote[EngineSubject]]:
    """Our engine in each configuration, ended with `stack`; one that cannot be had is noted in `section`."""
    engines = {}
    for name in options.configurations:
        try:
            engines[name] = stack.enter_context(Remote(EngineSubject, options.model, options.flags(name)))
        except SubjectError as error:
            section.notes.append(f"{name} could not be loaded: {error}")
    return engines


@dataclass(slots=True)
class Contest(Generic[Result]):
    """Runs the same task on several subjects in turns, so that what disturbs the machine disturbs all alike."""

    section: Section  # where failures are noted
    subjects: Mapping[str, Callable[[int], Result]]  # each called with the number of the repetition

    def run(self, repetitions: int, promised: Collection[str] = ()) -> dict[str, list[Result]]:
        """The results by subject, one per repetition. A subject that failed is left out from then on, and noted.

        With `promised`, only those subjects are asked more than once: the others would take most of an hour.
        """
        results: dict[str, list[Result]] = {name: [] for name in self.subjects}
        for repetition in range(repetitions):
            for name in [name for name in results if not (repetition and promised) or name in promised]:
                try:
                    results[name].append(self.subjects[name](repetition))
                except SubjectError as error:
                    self.section.notes.append(f"{name} failed: {error}")
                    del results[name]
        return results
