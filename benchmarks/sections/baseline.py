"""The baselines get what is best for them on this machine today."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.load.requests import Lengths, PromptWords
from benchmarks.options import BenchOptions
from benchmarks.report.results import Section
from benchmarks.subjects.generate import GenerateSubject
from benchmarks.subjects.remote import Remote
from benchmarks.subjects.threads import ENVIRONMENT

# Threads that spin for a while when they wait (what OpenMP does if nobody says anything) save some milliseconds a step
# on an idle machine; beside a neighbour on the same cores they can be sixteen times slower. Our worker's threads spin
# for a sixth of a millisecond.
ENVIRONMENTS = {"spin": ENVIRONMENT, "sleep": {**ENVIRONMENT, "OMP_WAIT_POLICY": "passive"}}
TRIAL_ROWS = 8
TRIAL_LENGTHS = Lengths.exactly(prompt=8, output=12)
TRIALS = 2


def best_environment(options: BenchOptions, words: PromptWords, section: Section) -> Mapping[str, str]:
    """The environment in which `generate()` is faster now: its threads spin or sleep while they wait."""
    rates = dict.fromkeys(ENVIRONMENTS, 0.0)
    with ExitStack() as stack:
        trials = {
            name: stack.enter_context(Remote(GenerateSubject, options.model, environment=environment))
            for name, environment in ENVIRONMENTS.items()
        }
        for variant in range(TRIALS):
            for name, generate in trials.items():
                requests = words.requests(TRIAL_ROWS, TRIAL_LENGTHS, variant=variant)
                rates[name] = max(rates[name], generate.ask(GenerateSubject.decode, requests))
    best = max(rates, key=lambda name: rates[name])
    trial = ", ".join(f"{rate:.0f} tokens/s if they {name}" for name, rate in rates.items())
    section.notes.append(f"The baselines' threads {best} while they wait, which is faster for them here ({trial}).")
    return ENVIRONMENTS[best]
