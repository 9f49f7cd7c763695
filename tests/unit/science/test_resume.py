"""A training that is broken off after any epoch and gone on with elsewhere ends bit for bit as an unbroken one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from service.catalogue.methods import RetrainConfig, SisaConfig
from service.catalogue.recipe import Recipe, Sharding
from tests import diffusion_cases
from workers import checkpoints
from workers.checkpoints import BadCheckpoint
from workers.classification import Classification
from workers.diffusion import Diffusion
from workers.journal import FILE, FileJournal, Terms
from workers.line import Line, Stopped
from workers.micro_batches import Split, splitting
from workers.pipeline import ModelSpec, build_model, train_original, unlearn
from workers.reference_training import PlacedSamples, train_references
from workers.reproducibility import deterministic, generator_for
from workers.samples import LabelledSet
from workers.stacked_training import Copy, train_copies
from workers.training import train
from workers.training_state import Journal
from workers.unlearning.interface import UnlearningSplits

EPOCHS = 4
TERMS = {"order": "o", "device": "cpu"}


def _samples(count: int = 41, seed: int = 0) -> LabelledSet:
    images = torch.randint(256, (count, 1, 8, 8), generator=generator_for(seed), dtype=torch.uint8)
    return LabelledSet(images=images, labels=torch.arange(count) % 3)


SAMPLES, POSITIONS = _samples(), torch.arange(41)


class Taken(Line):
    """A parent that takes each file away, and asks for a stop once so many came."""

    def __init__(self, folder: Path, *, stop_at: int = 0) -> None:
        self.folder, self.stop_at = folder, stop_at
        self.epochs: list[int] = []
        self.resumed: list[int] = []

    def tell(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "resumed":
            self.resumed.append(message["epochs"])
            return
        (self.folder / FILE).rename(self.folder / f"taken-{len(self.epochs)}")
        self.epochs.append(message["epochs"])

    def stopping(self) -> bool:
        return bool(self.stop_at) and len(self.epochs) + 1 >= self.stop_at


def _journal(line: Taken, *, seconds: float = 0, terms: Mapping[str, str] = TERMS) -> FileJournal:
    return FileJournal(Terms(folder=line.folder, seconds=seconds, bound_to=terms), line)


def _gone_on(line: Taken, number: int, folder: Path) -> FileJournal:
    """Return a new journal that goes on from the file of that number."""
    folder.mkdir()
    journal, path = _journal(Taken(folder)), line.folder / f"taken-{number}"
    journal.go_on(path, sha256=checkpoints.file_digest(path))
    return journal


class Net(nn.Module):
    """Batch norm, whose statistics are buffers, and dropout, which draws from torch's own random state."""

    def __init__(self, *, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(144, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


def _fresh(dropout: float) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Net(dropout=dropout)


CASES = {
    "plain sgd": {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"},
    "sgd with momentum": {"optimizer": "sgd", "momentum": 0.9, "schedule": "one_cycle"},
    "adam": {"optimizer": "adam", "momentum": 0.9, "schedule": "cosine"},
    "adamw, mixed": {"optimizer": "adamw", "momentum": 0.9, "schedule": "one_cycle", "precision": "mixed"},
    "sgd, mixed": {"optimizer": "sgd", "momentum": 0.9, "schedule": "one_cycle", "precision": "mixed"},
}


def _run(recipe: Recipe, journal: Journal, *, dropout: float) -> tuple[dict[str, Tensor], tuple[float, ...], list[Any]]:
    """Train, and return weights and buffers, losses, and what the generators would draw next."""
    generator, net = generator_for(9), _fresh(dropout)
    with deterministic(2):
        history = train(
            net,
            SAMPLES,
            recipe,
            task=Classification(mixed=recipe.precision == "mixed"),
            generator=generator,
            keeper=journal.part("train", last=True),
        )
        after = [torch.rand(1).item(), torch.rand(1, generator=generator).item()]
    return net.state_dict(), history.epoch_losses, after


def _equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def _diffusion(journal: Journal) -> dict[str, Tensor]:
    model = diffusion_cases.net(dropout=0.3)
    with deterministic(2):
        train(
            model,
            diffusion_cases.samples(),
            diffusion_cases.RECIPE.model_copy(update={"epochs": 3}),
            task=Diffusion(),
            generator=generator_for(9),
            keeper=journal.part("train", last=True),
        )
    return model.state_dict()


def test_a_moving_average_and_the_draws_of_steps_go_on_as_well(tmp_path: Path) -> None:
    unbroken, line = _diffusion(Journal()), Taken(tmp_path)
    assert _equal(_diffusion(_journal(line)), unbroken)
    assert int(unbroken["ema_updates"]) == 9
    for number in (0, 1):
        assert _equal(_diffusion(_gone_on(line, number, tmp_path / f"after-{number}")), unbroken)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_broken_off_after_any_epoch_it_ends_as_an_unbroken_one(tmp_path: Path, case: str, dropout: float) -> None:
    recipe = Recipe(epochs=EPOCHS, batch_size=16, lr=0.02, weight_decay=0.01, **CASES[case])
    unbroken = _run(recipe, Journal(), dropout=dropout)
    line = Taken(tmp_path)
    kept = _run(recipe, _journal(line), dropout=dropout)
    assert _equal(kept[0], unbroken[0]), "keeping it changes nothing"
    assert line.epochs == [1, 2, 3, 4]
    for number in range(EPOCHS):
        again = _run(recipe, _gone_on(line, number, tmp_path / f"again-{number}"), dropout=dropout)
        assert _equal(again[0], unbroken[0])
        assert again[1:] == unbroken[1:]


def test_a_training_broken_off_twice_says_so_and_ends_the_same(tmp_path: Path) -> None:
    recipe = Recipe(epochs=EPOCHS, batch_size=16, lr=0.02)
    line = Taken(tmp_path)
    unbroken = _run(recipe, _journal(line), dropout=0.5)
    second = _gone_on(line, 0, tmp_path / "second")
    _run(recipe, second, dropout=0.5)
    taken = second.line
    assert isinstance(taken, Taken)
    third = _gone_on(taken, 1, tmp_path / "third")
    assert third.resumed_from == (1, 3)
    assert third.seconds_before > second.seconds_before > 0
    assert _equal(_run(recipe, third, dropout=0.5)[0], unbroken[0])


def test_a_training_whose_batches_were_split_goes_on_with_the_same_parts_or_not_at_all(tmp_path: Path) -> None:
    """Memory that suffices now did not then: whole batches from here on would give weights that no run gives."""
    recipe, line, split = (
        Recipe(epochs=EPOCHS, batch_size=16, lr=0.02),
        Taken(tmp_path),
        Split(micro_batch=8, halvings=1),
    )
    with splitting(split):
        kept = FileJournal(Terms(folder=tmp_path, seconds=0, bound_to=TERMS, split=split), line)
        unbroken = _run(recipe, kept, dropout=0.0)
    whole = _run(recipe, Journal(), dropout=0.0)
    assert not _equal(whole[0], unbroken[0]), "each part has its own statistics"

    path = tmp_path / "taken-1"
    for split in (Split(), Split(micro_batch=8)):
        folder = tmp_path / f"again-{split.micro_batch}"
        folder.mkdir()
        journal = FileJournal(Terms(folder=folder, seconds=0, bound_to=TERMS, split=split), Taken(folder))
        journal.go_on(path, sha256=checkpoints.file_digest(path))
        with splitting(split):
            assert _equal(_run(recipe, journal, dropout=0.0)[0], unbroken[0])
        assert split.account() is not None, "the report says so"
    halved_since = Terms(folder=tmp_path, seconds=0, bound_to=TERMS, split=Split(micro_batch=4))
    with pytest.raises(BadCheckpoint, match="split otherwise"):
        FileJournal(halved_since, line).go_on(path, sha256=checkpoints.file_digest(path))


def test_the_file_holds_tensors_and_json_and_is_small(tmp_path: Path) -> None:
    _run(Recipe(epochs=1, batch_size=16), _journal(Taken(tmp_path)), dropout=0.0)
    with safe_open(tmp_path / "taken-0", "pt") as file:
        header = json.loads(file.metadata()["training"])
        names = {name.split("/")[1] for name in file.keys()}  # noqa: SIM118
    assert header["bound_to"] == TERMS
    assert names == {"weights", "optimizer", "generator", "random"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04not a checkpoint"),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_file_is_refused_whatever_digest_is_given(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    line = Taken(tmp_path)
    _run(Recipe(epochs=1, batch_size=16), _journal(line), dropout=0.0)
    path = tmp_path / "taken-0"
    before = checkpoints.file_digest(path)
    damage(path)
    for sha256 in {before, checkpoints.file_digest(path) if path.exists() else before}:
        with pytest.raises(BadCheckpoint):
            _journal(line).go_on(path, sha256=sha256)


@pytest.mark.parametrize("term", ["order", "device"])
def test_a_file_kept_under_other_terms_is_refused(tmp_path: Path, term: str) -> None:
    line = Taken(tmp_path)
    _run(Recipe(epochs=1, batch_size=16), _journal(line), dropout=0.0)
    path = tmp_path / "taken-0"
    with pytest.raises(BadCheckpoint, match="other terms"):
        _journal(line, terms={**TERMS, term: "another"}).go_on(path, sha256=checkpoints.file_digest(path))


def test_a_short_training_is_not_kept_and_a_long_one_is_at_its_end(tmp_path: Path) -> None:
    line, moment = Taken(tmp_path), 0.0

    def clock() -> float:
        nonlocal moment
        moment += 1.0
        return moment

    def run(seconds: float) -> list[int]:
        line.epochs.clear()
        terms = Terms(folder=tmp_path, seconds=seconds, bound_to=TERMS)
        _run(Recipe(epochs=EPOCHS, batch_size=16), FileJournal(terms, line, clock=clock), dropout=0.0)
        return list(line.epochs)

    assert run(1000) == []
    assert run(2.5)[-1] == EPOCHS
    assert len(run(2.5)) < EPOCHS


def test_asked_to_stop_it_is_kept_at_the_end_of_its_epoch_and_raises(tmp_path: Path) -> None:
    recipe = Recipe(epochs=EPOCHS, batch_size=16, lr=0.02)
    line = Taken(tmp_path, stop_at=1)
    with pytest.raises(Stopped):
        _run(recipe, _journal(line, seconds=1000), dropout=0.5)
    assert line.epochs == [1], "although it was not time"
    again = _run(recipe, _gone_on(line, 0, tmp_path / "again"), dropout=0.5)
    assert _equal(again[0], _run(recipe, Journal(), dropout=0.5)[0])


SPEC = ModelSpec(
    architecture="small_cnn",
    options={"width": 4},
    image_shape=(1, 8, 8),
    num_classes=3,
    recipe=Recipe(epochs=2, batch_size=16, lr=0.02),
)
IN_SHARDS = replace(SPEC, recipe=SPEC.recipe.model_copy(update={"sisa": Sharding(shards=2, slices=2)}))


@pytest.mark.parametrize("spec", [SPEC, IN_SHARDS], ids=["plain", "in shards"])
def test_an_original_is_gone_on_with(tmp_path: Path, spec: ModelSpec) -> None:
    line = Taken(tmp_path)
    unbroken = train_original(spec, SAMPLES, positions=POSITIONS, journal=_journal(line))
    for number in range(len(line.epochs)):
        journal = _gone_on(line, number, tmp_path / f"again-{number}")
        again = train_original(spec, SAMPLES, positions=POSITIONS, journal=journal)
        assert _equal(again.model.state_dict(), unbroken.model.state_dict())
        for name, tensors in unbroken.prepared.items():
            assert _equal(again.prepared[name], tensors)
        assert again.facts["epoch_losses"] == unbroken.facts["epoch_losses"]
        assert again.facts["resumed"] == {"times": 1, "from_epochs": [line.epochs[number]]}
    assert unbroken.facts["resumed"] == {"times": 0, "from_epochs": []}


@pytest.mark.parametrize("method", ["retrain", "sisa"])
def test_an_exact_method_is_gone_on_with(tmp_path: Path, method: str) -> None:
    parent = train_original(IN_SHARDS, SAMPLES, positions=POSITIONS)
    splits = UnlearningSplits(
        train=SAMPLES, forget_index=torch.tensor([1, 20]), selection=_samples(9, 1), positions=POSITIONS
    )

    def run(journal: Journal) -> Any:
        with deterministic(4):
            return unlearn(
                IN_SHARDS,
                parent.model,
                splits,
                SisaConfig() if method == "sisa" else RetrainConfig(),
                method=method,
                seed=4,
                prepared=parent.prepared,
                journal=journal,
            )

    line = Taken(tmp_path)
    unbroken = run(_journal(line))
    assert _equal(run(Journal()).model.state_dict(), unbroken.model.state_dict())
    for number in range(0, len(line.epochs), 2):
        again = run(_gone_on(line, number, tmp_path / f"again-{number}"))
        assert _equal(again.model.state_dict(), unbroken.model.state_dict())
        assert again.history == unbroken.history
        assert _equal(again.prepared["shard_checkpoints"], unbroken.prepared["shard_checkpoints"])


@pytest.mark.parametrize(("spec", "way"), [(SPEC, "plain"), (SPEC, "stacked"), (IN_SHARDS, "plain")])
def test_reference_models_are_gone_on_with(tmp_path: Path, spec: ModelSpec, way: Any) -> None:
    pool = PlacedSamples(samples=SAMPLES, positions=POSITIONS)
    others = PlacedSamples(samples=_samples(9, 1), positions=torch.arange(100, 109))

    def run(journal: Journal) -> Any:
        return train_references(spec, pool, others, models=4, seed=3, way=way, journal=journal)

    line = Taken(tmp_path)
    unbroken = run(_journal(line))
    assert len(line.epochs) >= 4
    for number in range(0, len(line.epochs), 3):
        again = run(_gone_on(line, number, tmp_path / f"again-{number}"))
        assert torch.equal(again.logits.logits, unbroken.logits.logits)
        assert torch.equal(again.logits.population, unbroken.logits.population)
        assert again.final_losses == unbroken.final_losses


def test_copies_trained_together_are_gone_on_with(tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=8, optimizer="adam", momentum=0.9, lr=0.01)

    def run(journal: Journal) -> Any:
        copies = [
            Copy(model=build_model(SPEC, i), rows=torch.arange(i, 20 + i), generator=generator_for(i)) for i in range(3)
        ]
        with deterministic(2):
            histories = train_copies(copies, SAMPLES, recipe, task=Classification(), at_once=3, journal=journal)
        return [each.model.state_dict() for each in copies], histories

    line = Taken(tmp_path)
    unbroken = run(_journal(line))
    for number in range(len(line.epochs)):
        again = run(_gone_on(line, number, tmp_path / f"again-{number}"))
        assert all(_equal(found, wanted) for found, wanted in zip(again[0], unbroken[0], strict=True))
        assert again[1] == unbroken[1]
