"""A disk without room for what the child writes is told from a fault of its program, and costs no training."""

import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from service.catalogue.recipe import Recipe
from workers import checkpoints
from workers.child import describe
from workers.classification import Classification
from workers.journal import FILE, FileJournal, Terms
from workers.line import Line, Stopped
from workers.reproducibility import deterministic, generator_for
from workers.samples import LabelledSet
from workers.training import train
from workers.training_state import Keeper


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


class Parent(Line):
    """Takes each file away, and makes room once so many could not be written."""

    def __init__(self, folder: Path, *, room_after: int) -> None:
        self.folder, self.room_after = folder, room_after
        self.told: list[tuple[str, int]] = []

    def tell(self, message: Mapping[str, Any]) -> None:
        self.told.append((message["type"], message["epochs"]))
        if message["type"] == "checkpoint":
            (self.folder / FILE).rename(self.folder / "taken")
            return
        assert message["code"] == "storage_full"
        assert not list(self.folder.iterdir()), "nothing half written is left"
        if len(self.told) == self.room_after:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    def stopping(self) -> bool:
        return False


def _trained(keeper: Keeper) -> dict[str, torch.Tensor]:
    images = torch.randint(256, (12, 1, 8, 8), generator=generator_for(0), dtype=torch.uint8)
    samples = LabelledSet(images=images, labels=torch.arange(12) % 3)
    with deterministic(1):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.Linear(40, 3))
        train(net, samples, Recipe(epochs=4), task=Classification(), generator=generator_for(1), keeper=keeper)
    return net.state_dict()


def test_a_training_goes_on_without_a_checkpoint_for_which_there_is_no_room(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    unbroken = _trained(Keeper())
    request.getfixturevalue("no_room")
    parent = Parent(tmp_path, room_after=2)
    journal = FileJournal(Terms(folder=tmp_path, seconds=0, bound_to={"order": "o"}), parent)
    found = _trained(journal.part("train", last=True))
    assert parent.told == [
        ("checkpoint_not_written", 1), ("checkpoint_not_written", 2), ("checkpoint", 3), ("checkpoint", 4),
    ]  # fmt: skip
    assert all(torch.equal(found[name], tensor) for name, tensor in unbroken.items())


def test_a_worker_that_is_to_stop_on_a_full_disk_stops_all_the_same(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue("no_room")
    parent = Parent(tmp_path, room_after=9)
    monkeypatch.setattr(parent, "stopping", lambda: True)
    journal = FileJournal(Terms(folder=tmp_path, seconds=3600, bound_to={"order": "o"}), parent)
    with pytest.raises(Stopped):
        _trained(journal.part("train", last=True))
    assert parent.told == [("checkpoint_not_written", 1)]


def test_a_folder_that_is_away_is_an_error_of_the_system_too(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoints.save_tensors({"a": torch.zeros(1)}, tmp_path / "away" / "a.safetensors")
