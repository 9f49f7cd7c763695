"""Weights as safetensors files: the digest is checked before anything is parsed, nothing is ever unpickled."""

import hashlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


class BadCheckpoint(ValueError):
    """The file is not the weights it should be; the message says how."""


def save(model: nn.Module, path: Path) -> None:
    """Write every parameter and buffer, on the CPU, in the state dict's order and dtypes."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write(state, path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, on the CPU, in their dtypes."""
    write({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def write(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as they are. Raises OSError where the disk is full or refuses."""
    try:
        save_file(dict(tensors), path, metadata=dict(metadata) if metadata is not None else None)
    except SafetensorError as error:
        # The library says so in the words of its message alone.
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def load(path: Path, *, sha256: str) -> Mapping[str, Tensor]:
    """Return the tensors, on the CPU. Raises BadCheckpoint."""
    found = file_digest(path)
    if found != sha256:
        raise BadCheckpoint(f"the weights' SHA-256 is {found}, not {sha256}")
    try:
        tensors: Mapping[str, Tensor] = load_file(path)
    except SafetensorError:
        raise BadCheckpoint("the file is not safetensors") from None
    return tensors


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, lowercase hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def largest_difference(path: Path, other: Path) -> float:
    """Return the largest difference of any value, as a share of the largest value of its tensor in ``path``.

    Infinite where names, shapes or dtypes differ, a value is not finite, or a tensor of zeros is not one in ``other``.
    """
    first, second = load_file(path), load_file(other)
    if {name: (t.shape, t.dtype) for name, t in first.items()} != {n: (t.shape, t.dtype) for n, t in second.items()}:
        return math.inf
    return max((_difference(first[name], second[name]) for name in first), default=0.0)


def _difference(first: Tensor, second: Tensor) -> float:
    if torch.equal(first, second):
        return 0.0
    apart, scale = float((second.double() - first.double()).abs().max()), float(first.double().abs().max())
    return apart / scale if math.isfinite(apart) and 0 < scale < math.inf else math.inf
