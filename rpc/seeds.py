"""The random numbers of sampling, as the contract defines them: pure functions of (seed, position), no generator state.

So a seed gives the same text alone or in any batch, on any worker, and after a failover. Everything is arithmetic
modulo 2^64. With the golden gamma G = 0x9E3779B97F4A7C15 and the finaliser of splitmix64 (Steele, Lea, Flood 2014)

    finalise(z):  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31

the functions are

    mix64(seed, i)          = seed                          if i = 0
                              finalise(seed + G * i)        otherwise
    hash64(seed, position)  = finalise(finalise(seed) + G * (position + 1))

A draw is a race (docs/seeds.md); with key = hash64(seed, position) the number of its racer r, in (0, 1), is

    number(key, r)          = ((finalise(key + G * (r + 1)) >> 12) + 1/2) * 2^-52

The seed is finalised before the position is added: otherwise the seeds s and s + G would draw the same numbers,
shifted by one position.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFFFFFFFFFF
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def mix64(seed: int, index: int) -> int:
    """Return the seed (uint64) of sample `index` of a request with `seed`; sample 0 has the request's own."""
    return seed if index == 0 else _finalise(seed + _GOLDEN_GAMMA * index)


def hash64(seed: int, position: int) -> int:
    """Return the key (uint64) of the draw at `position`, counted from 0 at the prompt's first token."""
    return _finalise(_finalise(seed) + _GOLDEN_GAMMA * (position + 1))


def number(key: int, racer: int) -> float:
    """Return the number of `racer` in the draw with `key`; the worker computes all of them where its logits are."""
    return ((_finalise(key + _GOLDEN_GAMMA * (racer + 1)) >> 12) + 0.5) * 2.0**-52


def _finalise(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
