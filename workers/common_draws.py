"""Random numbers that belong to a sample: the same wherever, whenever and beside whatever else it is measured.

    draw(x, seed, j, i) = mix(mix(key(x) + mix(seed)) + mix(j) + i golden)       64-bit words, wrapping
    mix is the finaliser of SplitMix64: Steele, Lea & Flood, OOPSLA 2014, section 5.

key(x) is a polynomial hash of the sample's bytes, so two models, two runs or two orders of a set are compared on equal
draws, and an erased neighbour changes nobody's. Samples of equal bytes share their draws. Not for secrets.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BASE = 0x5851F42D4C957F2D


def sample_keys(images: Tensor) -> Tensor:
    """Return a key (N,), int64, of each uint8 image (N, C, H, W), from its bytes and shape alone."""
    flat = images.flatten(1).to(torch.int64) + 1
    powers = torch.full(flat.shape[1:], _signed(_BASE), dtype=torch.int64, device=flat.device).cumprod(0)
    shape = torch.tensor([*images.shape[1:]], dtype=torch.int64, device=flat.device)
    return _mix((flat * powers).sum(1) + _mix(shape).sum())


def normal(keys: Tensor, shape: tuple[int, ...], *, seed: int, draw: int) -> Tensor:
    """Return standard normal numbers (N, *shape), float32, of the draw of that number."""
    drawn: Tensor = torch.special.ndtri(_uniform(keys, shape, seed=seed, draw=draw))
    return drawn.float()


def uniform(keys: Tensor, *, seed: int, draw: int) -> Tensor:
    """Return a number (N,), float64, between 0 and 1, of a draw; normal numbers of that draw are independent of it."""
    return _uniform(keys, (1,), seed=seed, draw=-1 - draw).squeeze(1)


def timesteps(keys: Tensor, *, steps: int, seed: int, draw: int, part: int = 0, parts: int = 1) -> Tensor:
    """Return a timestep (N,), int64, of a draw, even over one of equal `parts` of 0..steps-1.

    Draws over all parts cover the range once, so that a mean over them varies less.
    """
    return ((part + uniform(keys, seed=seed, draw=draw)) / parts * steps).long().clamp(max=steps - 1)


def _uniform(keys: Tensor, shape: tuple[int, ...], *, seed: int, draw: int) -> Tensor:
    """Return float64 in the open interval (0, 1)."""
    count = torch.Size(shape).numel()
    device = keys.device
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=device) * _signed(_GOLDEN)
    stream = _mix(keys + _mix(torch.tensor(seed, dtype=torch.int64, device=device)))
    stream = stream + _mix(torch.tensor(draw, dtype=torch.int64, device=device) + 1)
    bits = _logical_shift(_mix(stream[:, None] + counter), 11)
    return ((bits.double() + 0.5) * 2.0**-53).view(len(keys), *shape)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _logical_shift(x, 30)) * _signed(_FIRST)
    x = (x ^ _logical_shift(x, 27)) * _signed(_SECOND)
    return x ^ _logical_shift(x, 31)


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically: the copies of the sign are cleared
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """Return the int64 of the same bits."""
    return word - (1 << 64) if word >= 1 << 63 else word
