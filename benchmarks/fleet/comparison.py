"""The policies, what each makes of the same arrivals, and a table and a plot of that."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.fleet.simulation import Outcome, Policy, Scene, simulate
from benchmarks.load.statistics import percentile
from gateway.fleet.choice import Candidate, choose
from gateway.fleet.worker_load import Work

OURS = "least work of two"
LOADS = (0.5, 0.7, 0.8, 0.9)  # of the capacity
SPEEDS = (1.0, 1.0, 2.0, 4.0)


def by_chance(candidates: Sequence[Candidate], _: Work, draw: random.Random) -> int:
    """Anyone."""
    return draw.randrange(len(candidates))


def in_turns() -> Policy:
    """Round robin."""
    turn = itertools.count()
    return lambda candidates, _, __: next(turn) % len(candidates)


def fewest_rows(candidates: Sequence[Candidate], _: Work, __: random.Random) -> int:
    """Who has the fewest rows, as reported and sent since."""
    return min(range(len(candidates)), key=lambda place: candidates[place].work.rows)


# Made anew for each simulation, as some remember.
POLICIES: Mapping[str, Callable[[], Policy]] = {
    "by chance": lambda: by_chance,
    "round robin": in_turns,
    "fewest rows": lambda: fewest_rows,
    OURS: lambda: choose,
}


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds, of all requests of one simulation; `misplaced`: the share of tokens that another worker had to have."""

    first_token_p50: float
    first_token_p99: float
    total_p99: float
    misplaced: float


def capacity(scene: Scene) -> float:
    """Requests per second that the workers finish while none of them runs dry."""
    outcome = simulate(replace(scene, per_second=1e6), choose)
    ends = sorted(job.ended for job in outcome.jobs)
    half = len(ends) // 2
    return half / ends[half]


def compare(scene: Scene, loads: Sequence[float] = LOADS) -> dict[str, dict[float, Result]]:
    """Every policy at every share of the capacity."""
    most = capacity(scene)
    return {
        name: {load: measure(simulate(replace(scene, per_second=load * most), make()), scene) for load in loads}
        for name, make in POLICIES.items()
    }


def measure(outcome: Outcome, scene: Scene) -> Result:
    """What the requests felt, and how far the tokens were from being shared in proportion to speed."""
    first = [job.first_token - job.arrived for job in outcome.jobs]
    total = [job.ended - job.arrived for job in outcome.jobs]
    tokens, speed = sum(outcome.tokens), sum(scene.speeds)
    fair = [tokens * own / speed for own in scene.speeds]
    misplaced = sum(abs(had - due) for had, due in zip(outcome.tokens, fair, strict=True)) / 2 / tokens
    return Result(percentile(first, 50), percentile(first, 99), percentile(total, 99), misplaced)


def table(results: Mapping[str, Mapping[float, Result]]) -> str:
    """As markdown."""
    lines = [
        "| policy | load | first token p50, s | p99, s | whole answer p99, s | tokens in the wrong place |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {load:.0%} | {one.first_token_p50:.2f} | {one.first_token_p99:.2f} | {one.total_p99:.1f} "
        f"| {one.misplaced:.0%} |"
        for name, by_load in results.items()
        for load, one in by_load.items()
    ]
    return "\n".join(lines)
