"""Which shard and slice a sample belongs to, and the seed of each stage. Decided by position and seed alone.

Nothing here depends on which other samples there are, so a sample keeps its place whatever is erased around it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.catalogue.recipe import MAX_SEED, MAX_SHARDS, Sharding

# SplitMix64: Steele, Lea & Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_SHARD_KEY, _SLICE_KEY = 1, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Shard, int64 (n,) from 0, and slice, int64 (n,) from 1, of each sample, on the CPU."""

    shard: Tensor
    slice: Tensor


def places_of(positions: Tensor, sharding: Sharding, *, seed: int) -> Places:
    """Return where samples at these positions of their dataset, int64 (n,), belong.

    Shard and slice are two independent hashes, uniform but for chance: shards differ in size by about the square
    root of it, and some may be empty.
    """
    at = positions.cpu()
    return Places(
        shard=_below(sharding.shards, at, seed=seed, key=_SHARD_KEY),
        slice=1 + _below(sharding.slices, at, seed=seed, key=_SLICE_KEY),
    )


def stage_seed(seed: int, *, shard: int, stage: int) -> int:
    """Return the seed, 0 <= s < 2**31, of a shard's stage, from 1; stage 1's also initialises the shard's network.

    That of shard 0, stage 1 is the model's own: a single shard in one slice is plain training.
    """
    return seed ^ (int(_finalised(torch.tensor(shard * MAX_SHARDS + stage - 1))) & MAX_SEED)


def splitmix(state: Tensor) -> Tensor:
    """Return SplitMix64's output for each int64 state, read as 64 bits without a sign."""
    return _finalised(state + _signed(_GAMMA))


def _below(bound: int, positions: Tensor, *, seed: int, key: int) -> Tensor:
    """Return a hash below `bound` of each position; 63 bits over a bound of 64 at most leave no bias to speak of."""
    start = splitmix(splitmix(torch.tensor(seed)) + key)
    bits = splitmix(splitmix(positions) ^ start) & (2**63 - 1)
    return bits.remainder(bound)


def _finalised(z: Tensor) -> Tensor:
    """Mix the bits one to one; 0 stays 0. Products wrap around, as they should."""
    z = (z ^ _shifted(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shifted(z, 27)) * _signed(_MIX_2)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, where int64 alone would repeat the sign."""
    return z.bitwise_right_shift(bits).bitwise_and(2 ** (64 - bits) - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
