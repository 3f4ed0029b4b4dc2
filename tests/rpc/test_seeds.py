"""The contract's random numbers. The vectors are the ones in the docs: another implementation must give the same."""

import pytest

from rpc.seeds import mix64, uniform


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
    ("seed", "position", "top_53_bits"),
    [
        (0, 0, 7956156453446585),
        (0, 1, 3886858653415212),
        (1, 0, 6753131800803418),
        (42, 1000, 7602122488422961),
        (2**64 - 1, 0, 5821841146422611),
        (2**64 - 1, 1000, 8367858325002397),
    ],
)
def test_the_number_that_draws_a_position(seed, position, top_53_bits):
    assert uniform(seed, position) == top_53_bits * 2.0**-53


def test_no_two_seeds_draw_the_same_numbers_one_position_apart():
    golden_gamma = 0x9E3779B97F4A7C15
    assert [uniform(golden_gamma, position) for position in range(4)] != [uniform(0, p) for p in range(1, 5)]


def test_numbers_fill_the_unit_interval_evenly():
    numbers = [uniform(seed, position) for seed in range(40) for position in range(250)]
    counts = [sum(lower / 10 <= number < (lower + 1) / 10 for number in numbers) for lower in range(10)]
    assert sum(counts) == 10_000
    assert all(abs(count - 1000) < 120 for count in counts), counts  # four standard deviations
