"""A disk without room for what the child writes is told from a fault of its program."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from workers import checkpoints
from workers.child import describe


@pytest.fixture
def no_room() -> Iterator[None]:
    """Have the system refuse files of more than 4 kB, as it refuses any on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("no_room")
def test_weights_for_which_there_is_no_room_are_no_fault_of_the_method(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too large") as found:
        checkpoints.save(nn.Linear(100, 100), tmp_path / "weights.safetensors")
    assert describe(found.value)["code"] == "storage_full"
    with pytest.raises(OSError, match="too large") as found:
        checkpoints.save_tensors({"a": torch.zeros(10_000)}, tmp_path / "a.safetensors")
    assert describe(found.value)["code"] == "storage_full"
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_folder_that_is_away_is_an_error_of_the_system_too(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoints.save_tensors({"a": torch.zeros(1)}, tmp_path / "away" / "a.safetensors")
