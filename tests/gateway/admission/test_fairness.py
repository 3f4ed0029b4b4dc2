"""What the order comes to over minutes: shares, floods, classes, and the time that a refused caller is told."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.limits import Limits
from tests.gateway.admission.service import Caller, last_starts, served

# Four places of 100 tokens a second, requests of 100 tokens: 4 requests a second are all there is to have.
FLOOD = Caller("flood", every=0.05)
SEEDS = pytest.mark.parametrize("seed", range(3))


@SEEDS
def test_a_flood_of_one_tenant_costs_another_hardly_more_than_the_request_before_it(seed: int):
    record = served([FLOOD, Caller("modest", every=2.0)], 300, seed=seed)
    waits = record.waits_of("modest")
    assert len(waits) > 100
    assert not [refused for _, refused in record.refused if refused.ticket.tenant == "modest"]
    assert max(waits) < 5, "seconds; a place is free four times a second"
    assert statistics.median(record.waits_of("flood")) > 60


@SEEDS
def test_tenants_that_want_more_than_there_is_have_the_same_work_whatever_the_size_of_their_requests(seed: int):
    small = Caller("small", 0.05, tokens=lambda draw: draw.randint(10, 50))
    large = Caller("large", 1.0, tokens=lambda draw: draw.randint(500, 2000))
    record = served([small, large], 300, Limits(max_queue=200), seed=seed)
    assert record.tokens("small", before=300) == pytest.approx(record.tokens("large", before=300), rel=0.15)


@SEEDS
def test_a_higher_class_hardly_waits_and_a_lower_one_never_longer_than_its_ageing(seed: int):
    """The classes above leave a tenth: what is low gets that, and what has waited for ten classes goes first."""
    high = Caller("", every=0.28, priority=5)
    low = Caller("", every=2.0, priority=-5)
    record = served([high, low], 600, Limits(ageing_seconds=2.0), seed=seed)
    waits = {own: [wait for one, wait in record.waits.items() if one.priority == own] for own in (5, -5)}
    assert statistics.median(waits[5]) < statistics.median(waits[-5])
    assert max(waits[-5]) < 10 * 2.0 + max(waits[5]) + 5
    assert not record.refused


@SEEDS
def test_no_tenant_starves_under_a_flood_of_the_highest_class(seed: int):
    flood = Caller("flood", every=0.05, priority=10)
    modest = Caller("modest", every=4.0, priority=-10)
    record = served([flood, modest], 600, Limits(ageing_seconds=1.0), seed=seed)
    waits = record.waits_of("modest")
    assert len(waits) > 80
    assert max(waits) < 20 * 1.0 + 10, "twenty classes, then its share"
    assert not [refused for _, refused in record.refused if refused.ticket.tenant == "modest"]


def test_many_tenants_share_alike_though_each_waits_for_many_ageing_periods():
    callers = [
        Caller(str(number), every=5.0, tokens=lambda draw, size=50 * (1 + number % 3): size) for number in range(60)
    ]
    record = served(callers, 200, Limits(max_queue=1500, ageing_seconds=1.0))
    had = [record.tokens(str(number), before=200) for number in range(60)]
    assert max(had) < 1.6 * min(had)


SIZES = {
    "equal": lambda _: 100,
    "even": lambda draw: draw.randint(20, 400),
    "skewed": lambda draw: int(draw.lognormvariate(4.5, 0.8)) + 1,
}


@pytest.mark.parametrize("sizes", SIZES)
@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 2**32),
    places=st.integers(2, 32),
    rounds=st.integers(1, 6),
    load=st.sampled_from([1.5, 3.0, 5.0]),
)
def test_a_refused_caller_is_told_how_long_what_waits_will_take_within_a_factor_of_two(
    sizes: str, seed: int, places: int, rounds: int, load: float
):
    tokens = SIZES[sizes]
    mean = statistics.mean(tokens(random.Random(number)) for number in range(500))
    service = mean / 100  # seconds
    caller = Caller("", every=service / places / load, tokens=tokens)
    queue = max(20, 2 * rounds * places)
    seconds = (40 + 6 * queue / places) * service  # the first half for the queue to fill
    record = served([caller], seconds, Limits(max_queue=queue), places=places, seed=seed)
    settled = [(now, refused) for now, refused in record.refused if now > seconds / 2]
    checked = 0
    for told, took in last_starts(record, iter(settled[:: len(settled) // 20 + 1])):
        if 1.5 * service < took < 50:  # less depends on when exactly those end that are worked on
            checked += 1
            assert took / 2 < told < took * 2
    assert checked
