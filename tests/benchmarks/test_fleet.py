"""The simulation that compares policies, and what it says of ours."""

import pytest

from benchmarks.fleet.comparison import OURS, POLICIES, SPEEDS, capacity, compare, measure, table
from benchmarks.fleet.simulation import Scene, simulate

SCENE = Scene(SPEEDS, gateways=2, requests=600, per_second=0.0)


@pytest.fixture(scope="module")
def results():
    return compare(SCENE, loads=[0.8])


def test_every_request_ends_after_it_began_and_its_tokens_are_counted_once():
    scene = Scene(SPEEDS, gateways=2, requests=200, per_second=5.0)
    for make in POLICIES.values():
        outcome = simulate(scene, make())
        assert len(outcome.jobs) == 200
        assert all(job.arrived < job.first_token <= job.ended for job in outcome.jobs)
        assert sum(outcome.tokens) >= sum(job.output for job in outcome.jobs)


def test_the_same_scene_goes_the_same_way_twice():
    first, second = (measure(simulate(Scene(SPEEDS, 2, 100, 5.0), POLICIES[OURS]()), SCENE) for _ in range(2))
    assert first == second


def test_twice_the_speed_is_twice_the_capacity():
    fast = Scene(tuple(2 * speed for speed in SPEEDS), 2, 300, 0.0)
    assert capacity(fast) == pytest.approx(2 * capacity(Scene(SPEEDS, 2, 300, 0.0)), rel=0.1)


def test_ours_shares_tokens_by_speed_and_keeps_first_tokens_early(results):
    ours = results[OURS][0.8]
    assert ours.misplaced < 0.1
    for other in ("by chance", "round robin"):
        assert ours.first_token_p99 < results[other][0.8].first_token_p99 / 2


def test_the_table_has_a_line_for_each_policy_and_load(results):
    assert table(results).count("80%") == len(POLICIES)
