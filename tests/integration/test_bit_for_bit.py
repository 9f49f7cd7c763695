"""Unlearning done twice gives equal bytes on the CPU: in the warm child, and in one that has done nothing before."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from service.catalogue.methods import METHODS
from service.catalogue.recipe import Recipe, Sharding
from workers import checkpoints
from workers.data import read
from workers.data.pools import cut
from workers.pipeline import ModelSpec, train_original
from workers.reproducibility import generator_for
from workers.runner import Runner
from workers.samples import LabelledSet

SOURCE = {"source": "sklearn:digits"}
SHORT: dict[str, dict[str, Any]] = {
    "scrub": {"epochs": 3, "msteps": 2, "lr_decay_epochs": [2]},
    "scrub_r": {"epochs": 3, "msteps": 2, "lr_decay_epochs": [2], "more_epochs": 1},
    "delete": {"epochs": 2},
    "neggrad": {"epochs": 3},
    "finetune": {"epochs": 2},
    "l1_sparse": {"epochs": 2},
    "cf_k": {"epochs": 2},
    "noise_finetune": {"epochs": 2},
    "conv_transpose": {"epochs": 1},
    "msg": {"epochs": 2},
    "mu_mis": {"max_checks": 3},
    "influence": {"iterations": 10, "scales": [1.0, 5.0]},
}
NETWORKS: dict[str, ModelSpec] = {
    name: ModelSpec(
        architecture=architecture,
        options=options,
        image_shape=(1, 8, 8),
        num_classes=10,
        recipe=Recipe(epochs=2, batch_size=64, seed=0, sisa=sharding),
    )
    for name, architecture, options, sharding in (
        ("plain", "small_cnn", {"width": 4}, None),
        ("in shards", "small_cnn", {"width": 4}, Sharding(shards=2, slices=2)),
        ("with dropout", "small_vit", {"width": 8, "depth": 1, "dropout": 0.2}, None),
    )
}


class Place:
    """A dataset, parents of each network, and orders about them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        arrays = read(SOURCE)
        names = cut(arrays, bytes(4))[1]
        self.digest = arrays.digest()
        self.train = [i for i, name in enumerate(names) if name == "train"][:400]
        self.selection = [i for i, name in enumerate(names) if name == "selection"]
        images, labels = torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels)
        samples = LabelledSet(images=images[self.train], labels=labels[self.train])
        for name, spec in NETWORKS.items():
            done = train_original(spec, samples, positions=torch.tensor(self.train))
            checkpoints.save(done.model, folder / f"{name}.safetensors")
            for kind, tensors in done.prepared.items():
                checkpoints.save_tensors(tensors, folder / f"{name} {kind}.safetensors")

    def order(self, method: str, out: Path, *, network: str = "plain") -> dict[str, Any]:
        """Return an order to do the method again; what it is compared with are the parent's weights."""
        out.mkdir(parents=True)
        parent = self.folder / f"{network}.safetensors"
        shutil.copy(parent, out / "weights.safetensors")
        spec = NETWORKS[network]
        return {
            "kind": "reexecute",
            "device": "cpu",
            "out": str(out),
            "spec": {
                "architecture": spec.architecture,
                "options": spec.options,
                "image_shape": spec.image_shape,
                "num_classes": spec.num_classes,
                "recipe": spec.recipe.model_dump(mode="json"),
            },
            "dataset": {
                "source": SOURCE,
                "roots": [],
                "digest": self.digest,
                "cache": str(self.folder / "cache"),
                "erased": [],
            },
            "train": self.train,
            "selection": self.selection,
            "forget_index": torch.randperm(len(self.train), generator=generator_for(1))[:40].tolist(),
            "weights": str(parent),
            "sha256": checkpoints.file_digest(parent),
            "method": method,
            "config": SHORT.get(method, {}),
            "seed": 7,
            "bar": {"max_accuracy_drop": 1.0},
            "prepared": {
                path.stem.rsplit(" ", 1)[1]: {"path": str(path), "sha256": checkpoints.file_digest(path)}
                for path in self.folder.glob(f"{network} *.safetensors")
            },
        }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Place(tmp_path_factory.mktemp("bits"))
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _child() -> Iterator[Runner]:
    found = Runner(time_limit_seconds=300, idle_seconds=0)
    try:
        yield found
    finally:
        found.release_idle()


def _done(runner: Runner, order: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    told: list[str] = []
    result = runner.run(order, progress=lambda phase, _, __: told.append(phase), stop=lambda: False)
    assert set(told) == {"reexecute"}
    return checkpoints.file_digest(Path(order["out"]) / "reexecuted.safetensors"), result


def _network(method: str) -> str:
    return "in shards" if method == "sisa" else "plain"


def test_every_method_repeats_bit_for_bit_in_the_same_child_and_in_another(place: Place, tmp_path: Path) -> None:
    digests: dict[str, list[str]] = {}
    for turn, methods in {"warm": [*METHODS, *METHODS], "fresh": [*reversed(METHODS)]}.items():
        with _child() as runner:
            for i, method in enumerate(methods):
                order = place.order(method, tmp_path / turn / str(i), network=_network(method))
                digest, result = _done(runner, order)
                assert result["device"] == "cpu"
                # compared with the parent's weights, which it must have moved
                assert result["max_relative_difference"] != 0, method
                digests.setdefault(method, []).append(digest)
    assert {method: len(set(found)) for method, found in digests.items()} == dict.fromkeys(METHODS, 1)
    assert {len(found) for found in digests.values()} == {3}


def test_dropout_and_several_threads_repeat_too(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    found = set()
    for turn in range(2):
        with _child() as runner:
            for network in ("with dropout", "plain"):
                order = place.order("finetune", tmp_path / f"{turn} {network}", network=network)
                found.add((network, _done(runner, order)[0]))
    assert len(found) == 2


def test_equal_weights_differ_by_nothing_and_another_seed_by_something(place: Place, tmp_path: Path) -> None:
    first, again = place.order("finetune", tmp_path / "first"), place.order("finetune", tmp_path / "again")
    with _child() as runner:
        _done(runner, first)
        shutil.copy(Path(first["out"]) / "reexecuted.safetensors", Path(again["out"]) / "weights.safetensors")
        assert _done(runner, again)[1]["max_relative_difference"] == 0.0
        assert _done(runner, {**again, "seed": 8})[1]["max_relative_difference"] > 0.0
