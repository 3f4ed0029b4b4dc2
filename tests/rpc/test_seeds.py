"""The contract's random numbers. The vectors are the ones in the docs: another implementation must give the same."""

import pytest

from rpc.seeds import hash64, mix64, number


@pytest.mark.parametrize(
    ("seed", "index", "derived"),
    [
        (0, 0, 0),
        (0, 1, 0xE220A8397B1DCDAF),  # the first output of the published splitmix64 with state 0
        (0, 2, 0x6E789E6AA1B965F4),  # and its second
        (42, 0, 42),
        (42, 1, 13679457532755275413),
        (2**64 - 1, 0, 2**64 - 1),
        (2**64 - 1, 2, 16834447057089888969),
    ],
)
def test_the_seed_of_a_sample(seed, index, derived):
    assert mix64(seed, index) == derived


@pytest.mark.parametrize(
    ("seed", "position", "key"),
    [
        (0, 0, 0xE220A8397B1DCDAF),  # finalise(0) is 0: the first output of splitmix64 again
        (0, 1, 7960286522194355700),
        (42, 1000, 15569146856290224442),
        (2**64 - 1, 0, 11923130667873509210),
    ],
)
def test_the_key_of_a_draw(seed, position, key):
    assert hash64(seed, position) == key


@pytest.mark.parametrize(
    ("seed", "position", "racer", "top_52_bits"),
    [
        (0, 0, 0, 2938366760112535),
        (42, 1000, 767, 190491569623867),
        (42, 1000, 2**32 + 49151, 766523446669207),
    ],
)
def test_the_number_of_a_racer(seed, position, racer, top_52_bits):
    assert number(hash64(seed, position), racer) == (top_52_bits + 0.5) * 2.0**-52


def test_no_two_seeds_have_the_same_keys_one_position_apart():
    golden_gamma = 0x9E3779B97F4A7C15
    assert [hash64(golden_gamma, position) for position in range(4)] != [hash64(0, p) for p in range(1, 5)]


def test_numbers_fill_the_unit_interval_evenly():
    numbers = [number(hash64(seed, position), seed) for seed in range(40) for position in range(250)]
    counts = [sum(lower / 10 <= number < (lower + 1) / 10 for number in numbers) for lower in range(10)]
    assert sum(counts) == 10_000
    assert all(abs(count - 1000) < 120 for count in counts), counts  # four standard deviations
