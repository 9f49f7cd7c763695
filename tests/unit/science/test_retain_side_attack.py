"""The retain-side attack: figures by hand, and models whose knowledge was hidden against one that never had it."""

import copy
import json
import math
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.catalogue.metrics import METRICS
from workers.classification import Classification
from workers.evaluation.result import MetricResult
from workers.evaluation.retain_side_attack import (
    NAMES,
    AttackProfile,
    AttackRun,
    attack_results,
    retain_side_attack,
    run_attack,
)
from workers.reproducibility import generator_for
from workers.samples import LabelledSet

TASK = Classification()
QUICK = AttackProfile(max_steps=60, every=5)
FORGET, TRAIN, UNSEEN = 100, 260, 100


def _noise(n: int, seed: int) -> LabelledSet:
    """Return images of noise with random labels: nothing generalises, so knowing one means remembering it."""
    generator = generator_for(seed)
    images = torch.randint(0, 256, (n, 1, 6, 6), generator=generator).to(torch.uint8)
    return LabelledSet(images=images, labels=torch.randint(3, (n,), generator=generator))


def _fitted(samples: LabelledSet, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(36, 160),
            nn.BatchNorm1d(160),
            nn.ReLU(),
            nn.Linear(160, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        )
    rule = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(200):
        rule.zero_grad()
        TASK.per_sample_loss(net, samples.images, samples.labels).mean().backward()  # type: ignore[no-untyped-call]
        rule.step()
    return net.eval()


@cache
def _world() -> tuple[LabelledSet, LabelledSet, LabelledSet]:
    """Return retain, forget and unseen samples."""
    seen = _noise(TRAIN, 0)
    return seen.take(torch.arange(FORGET, TRAIN)), seen.take(torch.arange(FORGET)), _noise(UNSEEN, 9)


@cache
def _parent() -> nn.Module:
    return _fitted(_noise(TRAIN, 0), 0)


@cache
def _retrained(seed: int = 1) -> nn.Module:
    return _fitted(_world()[0], seed)


def _permuted_head(model: nn.Module) -> nn.Module:
    """Return a model that knows all it knew, under labels one further."""
    hidden = copy.deepcopy(model)
    head = [module for module in hidden.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.weight.copy_(head.weight.roll(1, 0))
        head.bias.copy_(head.bias.roll(1, 0))
    return hidden


def _attack(
    model: nn.Module,
    *,
    task: Classification = TASK,
    rate: float = 0.1,
    seed: int = 3,
    profile: AttackProfile = QUICK,
    retain: LabelledSet | None = None,
    forget: LabelledSet | None = None,
    unseen: LabelledSet | None = None,
    classes_gone: tuple[int, ...] = (),
) -> dict[str, MetricResult]:
    sides = [given if given is not None else own for given, own in zip((retain, forget, unseen), _world(), strict=True)]
    found = retain_side_attack(
        model,
        sides[0],
        forget=sides[1],
        unseen=sides[2],
        task=task,
        rate=rate,
        seed=seed,
        parent_accuracy=1.0,
        classes_gone=classes_gone,
        profile=profile,
    )
    return {result.name: result for result in found}


def test_knowledge_hidden_behind_a_permuted_head_comes_back_from_retained_samples_alone() -> None:
    found = _attack(_permuted_head(_parent()))
    rise, excess, delay = (
        found["retain_side_attack.rise"],
        found["retain_side_attack.excess"],
        found["retain_side_delay"],
    )
    assert rise.extra is not None
    assert rise.extra["before"] < 0.1
    assert rise.ci95 is not None
    assert rise.ci95[0] > 0.5
    assert excess.ci95 is not None
    assert excess.ci95[0] > 0.1
    assert delay.extra is not None
    curve = delay.extra["forget_accuracy"]
    assert curve[0] == rise.extra["before"]
    assert max(curve) > 0.8


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_model_that_never_saw_the_forget_set_gains_nothing_from_retained_samples(seed: int) -> None:
    found = _attack(_retrained(seed))
    for name in ("retain_side_attack.rise", "retain_side_attack.excess"):
        interval = found[name].ci95
        assert interval is not None
        assert interval[0] <= 0 <= interval[1]
    assert found["retain_side_delay"].censored


def test_hiding_a_model_that_never_knew_brings_back_no_more_than_unseen_controls() -> None:
    found = _attack(_permuted_head(_retrained()))["retain_side_attack.excess"]
    assert found.ci95 is not None
    assert found.ci95[0] <= 0 <= found.ci95[1]


def test_the_original_knows_the_forget_set_before_any_step() -> None:
    found = _attack(_parent())
    assert (found["retain_side_delay"].value, found["retain_side_delay"].censored) == (0.0, None)


@dataclass(frozen=True)
class WatchedTask(Classification):
    """Keep what was descended on."""

    trained: list[Tensor] = field(default_factory=list)

    def per_sample_loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        self.trained.append(images)
        return super().per_sample_loss(model, images, labels)


def test_no_step_is_taken_on_a_forget_or_unseen_sample() -> None:
    retain, forget, unseen = _world()
    watched = WatchedTask()
    _attack(_parent(), task=watched)
    rows = {image.numpy().tobytes() for batch in watched.trained for image in batch}
    assert len(watched.trained) == QUICK.max_steps
    assert rows == {image.numpy().tobytes() for image in retain.images}
    assert not rows & {image.numpy().tobytes() for side in (forget, unseen) for image in side.images}


def test_models_data_and_the_random_state_are_left_alone_and_a_seed_repeats_to_the_bit() -> None:
    model = _permuted_head(_parent()).train()
    tensors = [*model.state_dict().values(), *(t for side in _world() for t in (side.images, side.labels))]
    before, state = [tensor.clone() for tensor in tensors], torch.get_rng_state()
    once, twice = _attack(model), _attack(model)
    assert once == twice
    small = AttackProfile(max_steps=60, every=5, batch_size=16)
    assert _attack(model, seed=3, profile=small) != _attack(model, seed=4, profile=small)
    assert all(torch.equal(tensor, was) for tensor, was in zip(tensors, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def _run(forget: list[list[int]], unseen: list[list[int]]) -> AttackRun:
    steps = tuple(range(0, 5 * len(forget), 5))
    return AttackRun(steps=steps, forget=np.array(forget, dtype=bool), unseen=np.array(unseen, dtype=bool))


def test_delay_rise_and_excess_by_hand() -> None:
    run = _run([[0, 0, 0, 1], [1, 1, 1, 1], [1, 1, 0, 1]], [[0, 1], [0, 1], [0, 1]])
    delay, rise, excess = attack_results(run, parent_accuracy=1.0)
    assert (delay.value, delay.threshold, delay.censored) == (5.0, 0.95, None)
    assert delay.extra == {
        "steps": [0, 5, 10],
        "forget_accuracy": [0.25, 1.0, 0.75],
        "unseen_accuracy": [0.5, 0.5, 0.5],
    }
    # the rise is taken at the end, the excess at each side's best
    assert rise.value == pytest.approx(0.5)
    assert rise.extra == {"before": 0.25, "after": 0.75, "steps": 10}
    assert excess.value == pytest.approx(0.5)
    assert excess.extra == {"forget_accuracy": 1.0, "unseen_accuracy": 0.5, "at_step": 5}
    for figure in (rise, excess):
        assert figure.value is not None
        assert figure.ci95 is not None
        assert figure.ci95[0] <= figure.value <= figure.ci95[1]


def test_picking_the_best_reading_favours_neither_side() -> None:
    wave = [[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 1, 0]]
    assert attack_results(_run(wave, wave), parent_accuracy=1.0)[2].value == 0.0
    assert attack_results(_run(wave, wave[::-1]), parent_accuracy=1.0)[2].value == 0.0


def test_what_never_comes_back_is_a_lower_bound() -> None:
    delay = attack_results(_run([[0, 0]] * 3, [[0, 0]] * 3), parent_accuracy=1.0)[0]
    assert (delay.value, delay.censored) == (10.0, True)


def test_the_rise_is_covered() -> None:
    rng, hits, draws = np.random.default_rng(0), 0, 1000
    for _ in range(draws):
        start = rng.random(200) < 0.5
        end = np.where(rng.random(200) < np.where(start, 0.1, 0.3), ~start, start)
        rise = attack_results(_run([start.tolist(), end.tolist()], [[0], [0]]), parent_accuracy=1.0)[1]
        assert rise.ci95 is not None
        hits += rise.ci95[0] <= 0.1 <= rise.ci95[1]
    assert 0.93 <= hits / draws <= 0.98


def test_the_first_reading_is_before_any_step_and_the_last_at_the_cap() -> None:
    retain, forget, unseen = _world()
    profile = AttackProfile(max_steps=7, every=3, batch_size=50)
    given = {"task": TASK, "rate": 0.05, "seed": 0, "profile": profile}
    run = run_attack(_parent(), retain, sides=(forget, unseen), **given)  # type: ignore[arg-type]
    assert run.steps == (0, 3, 6, 7)
    right = TASK.predict(_parent(), unseen).argmax(1) == unseen.labels
    assert np.array_equal(run.unseen[0], right.numpy())


def test_a_whole_class_has_no_excess_but_a_rise() -> None:
    found = _attack(_parent(), classes_gone=(2,))
    assert found["retain_side_attack.excess"].verdict == "not_applicable"
    assert found["retain_side_attack.rise"].verdict == "measured"


def test_empty_sides_are_said() -> None:
    none = torch.empty(0, dtype=torch.int64)
    retain, forget, unseen = (side.take(none) for side in _world())
    assert {result.verdict for result in _attack(_parent(), retain=retain).values()} == {"not_applicable"}
    assert {result.verdict for result in _attack(_parent(), forget=forget).values()} == {"not_applicable"}
    alone = _attack(_parent(), unseen=unseen)
    assert [alone[name].verdict for name in NAMES] == ["measured", "measured", "not_applicable"]
    json.dumps([result.to_dict() for result in alone.values()], allow_nan=False)


def test_an_attack_that_diverges_reports_what_it_read_before_and_a_broken_model_nothing() -> None:
    diverged = _attack(_parent(), rate=1e30)
    assert diverged["retain_side_attack.rise"].extra is not None
    assert diverged["retain_side_attack.rise"].extra["steps"] < QUICK.max_steps
    broken = copy.deepcopy(_parent())
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    ruined = _attack(broken)
    assert {result.verdict for result in ruined.values()} == {"inconclusive"}
    for result in (*diverged.values(), *ruined.values()):
        json.dumps(result.to_dict(), allow_nan=False)


def test_every_figure_says_what_it_is_compared_with_and_where_its_ideal_lies() -> None:
    found = {name: result.to_dict() for name, result in _attack(_retrained()).items()}
    assert {name: (row["basis"], row["direction"], row["ideal"]) for name, row in found.items()} == {
        "retain_side_delay": ("original", "higher", None),
        "retain_side_attack.rise": ("none", "target", 0.0),
        "retain_side_attack.excess": ("unseen controls", "target", 0.0),
    }
    assert set(found) == set(NAMES) <= set(METRICS)
