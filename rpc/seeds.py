"""The random numbers of sampling, as the contract defines them: pure functions of (seed, position), no generator state.

So a seed gives the same text alone or in any batch, on any worker, and after a failover. Everything is arithmetic
modulo 2^64. With the golden gamma G = 0x9E3779B97F4A7C15 and the finaliser of splitmix64 (Steele, Lea, Flood 2014)

    finalise(z):  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31

the two functions are

    mix64(seed, i)          = seed                          if i = 0
                              finalise(seed + G * i)        otherwise
    hash64(seed, position)  = finalise(finalise(seed) + G * (position + 1))

The seed is finalised before the position is added: otherwise the seeds s and s + G would draw the same numbers,
shifted by one position.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFFFFFFFFFF
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def mix64(seed: int, index: int) -> int:
    """Return the seed (uint64) of sample `index` of a request with `seed`; sample 0 has the request's own."""
    return seed if index == 0 else _finalise(seed + _GOLDEN_GAMMA * index)


def uniform(seed: int, position: int) -> float:
    """Return the number in [0, 1) that draws the token at `position`, counted from 0 at the prompt's first token.

    It is the top 53 bits of hash64(seed, position) times 2^-53, so a float64 holds it exactly.
    """
    hash64 = _finalise(_finalise(seed) + _GOLDEN_GAMMA * (position + 1))
    return float(hash64 >> 11) * 2.0**-53


def _finalise(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
