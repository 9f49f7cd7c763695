"""How far two weights files are apart, by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from workers.checkpoints import largest_difference, save_tensors

FIRST = {"w": torch.tensor([[1.0, -4.0], [2.0, 0.0]]), "b": torch.tensor([0.5]), "n": torch.tensor(3)}


def _apart(tmp_path: Path, first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    save_tensors(first, tmp_path / "first")
    save_tensors(second, tmp_path / "second")
    return largest_difference(tmp_path / "first", tmp_path / "second")


def test_equal_files_are_not_apart(tmp_path: Path) -> None:
    assert _apart(tmp_path, FIRST, FIRST) == 0.0


def test_the_difference_is_a_share_of_the_tensors_largest_value(tmp_path: Path) -> None:
    # w: 0.5 of 4 is 0.125; b: 0.25 of 0.5 is 0.5
    other = {"w": torch.tensor([[1.0, -4.0], [2.0, 0.5]]), "n": torch.tensor(3)}
    assert _apart(tmp_path, FIRST, {**other, "b": FIRST["b"]}) == 0.125
    assert _apart(tmp_path, FIRST, {**other, "b": torch.tensor([0.75])}) == 0.5


@pytest.mark.parametrize(
    "changed",
    [
        {"w": FIRST["w"].double()},
        {"w": FIRST["w"].flatten()},
        {"b": torch.tensor([math.nan])},
        {"b": torch.tensor([math.inf])},
        {"extra": torch.tensor([1.0])},
    ],
    ids=["dtype", "shape", "nan", "infinite", "name"],
)
def test_what_cannot_be_compared_is_infinitely_apart(tmp_path: Path, changed: dict[str, Tensor]) -> None:
    assert _apart(tmp_path, FIRST, {**FIRST, **changed}) == math.inf
    assert _apart(tmp_path, {**FIRST, **changed}, FIRST) == math.inf


def test_any_change_of_a_tensor_of_zeros_is_infinite(tmp_path: Path) -> None:
    zeros = {"w": torch.zeros(2)}
    assert _apart(tmp_path, zeros, {"w": torch.tensor([0.0, 1e-9])}) == math.inf
