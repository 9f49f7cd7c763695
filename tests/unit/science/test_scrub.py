"""SCRUB: its steps against formulas written anew in float64, its schedule, and what it must leave alone."""

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from service.catalogue.methods import ScrubConfig, ScrubRConfig
from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.reproducibility import generator_for
from workers.samples import LabelledSet, normalise
from workers.training import train
from workers.unlearning.interface import Surroundings, UnlearningSplits
from workers.unlearning.push import STRONGEST_SETTLED, WEAKEST, next_norm
from workers.unlearning.scrub import (
    Lesson,
    lesson_steps,
    rate_share,
    scrub,
    scrub_r,
    student_epochs,
)
from workers.unlearning.selection import EpochRecord, Terms

Floats = NDArray[np.float64]
Layers = list[Floats]
Phase = Literal["max", "min"]


class DoubleTask(Classification):
    """Classify in float64 and count the passes of whole sets."""

    def __init__(self) -> None:
        object.__setattr__(self, "predicted", [])

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        return model(normalise(images).double())  # type: ignore[no-any-return]

    def predict(self, model: nn.Module, samples: LabelledSet, batch_size: int = 512) -> Tensor:
        self.__dict__["predicted"].append(len(samples))
        return super().predict(model, samples, batch_size)


def _samples(n: int, seed: int) -> LabelledSet:
    labels = torch.arange(n) % 3
    noise = 50 * torch.randn(n, 1, 3, 3, generator=generator_for(seed))
    grey = 64.0 + 64 * labels[:, None, None, None] + noise
    return LabelledSet(images=grey.clamp(0, 255).to(torch.uint8), labels=labels)


def _splits() -> UnlearningSplits:
    return UnlearningSplits(train=_samples(60, 0), forget_index=torch.arange(12), selection=_samples(30, 1))


def _net(*, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(9, 8), *([nn.BatchNorm1d(8)] if norm else [])]
        return nn.Sequential(*layers, nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()


def _around(seed: int = 0, *, task: DoubleTask | None = None, drop: float = 1.0) -> Surroundings:
    return Surroundings(
        task=task or DoubleTask(),
        recipe=Recipe(),
        build_model=lambda _seed: _net(),
        generator=generator_for(seed),
        max_accuracy_drop=drop,
    )


def _config(**changes: Any) -> ScrubConfig:
    plain = {"momentum": 0.0, "weight_decay": 0.0, "push_norm": None, "msteps": 2, "epochs": 3}
    return ScrubConfig(
        **{
            **plain,
            "forget_batch_size": 64,
            "retain_batch_size": 64,
            "lr_decay_epochs": (),
            "lr_decay_rate": 0.1,
            **changes,
        }
    )


def _lesson(config: ScrubConfig, *, seed: int = 0, splits: UnlearningSplits | None = None) -> Lesson:
    """Return a lesson whose student has already left the teacher, where d alone has no slope."""
    lesson = Lesson(_net(), splits or _splits(), config, _around(seed))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        for w in lesson.student.parameters():
            w.add_(torch.randn_like(w), alpha=0.1)
    return lesson


def _layers(net: nn.Module) -> Layers:
    return [w.detach().numpy().copy() for w in net.parameters()]


def _forward(w: Layers, x: Floats) -> tuple[Floats, Floats, Floats]:
    h1 = np.tanh(x @ w[0].T + w[1])
    h2 = np.tanh(h1 @ w[2].T + w[3])
    logits: Floats = h2 @ w[4].T + w[5]
    return h1, h2, logits


def _softmax(z: Floats) -> Floats:
    e: Floats = np.exp(z - z.max(1, keepdims=True))
    shares: Floats = e / e.sum(1, keepdims=True)
    return shares


def _gradient(phase: Phase, teacher: Layers, student: Layers, samples: LabelledSet, config: ScrubConfig) -> Layers:
    """Differentiate by hand: dd/ds = T (q - p), dCE/ds = softmax(s) - onehot, then back through two tanh."""
    x: Floats = samples.images.numpy().reshape(len(samples), -1) / 127.5 - 1
    h1, h2, s = _forward(student, x)
    T = config.temperature
    pull: Floats = T * (_softmax(s / T) - _softmax(_forward(teacher, x)[2] / T)) / len(x)
    g3: Floats = -pull if phase == "max" else config.alpha * pull
    if phase == "min":
        g3 = g3 + config.gamma * (_softmax(s) - np.eye(3)[samples.labels.numpy()]) / len(x)
    g2 = g3 @ student[4] * (1 - h2**2)
    g1 = g2 @ student[2] * (1 - h1**2)
    return [g1.T @ x, g1.sum(0), g2.T @ h1, g2.sum(0), g3.T @ h2, g3.sum(0)]


def _same(net: nn.Module, expected: Layers) -> None:
    for found, wanted in zip(_layers(net), expected, strict=True):
        # images reach the net through float32
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def _step(lesson: Lesson, phase: Phase) -> LabelledSet:
    """Take one epoch, which is one step where the batch holds the whole set; return what it was taken on."""
    if phase == "max":
        lesson.max_epoch(1, lesson.config.push_norm)
        return lesson.splits.forget
    lesson.min_epoch(1)
    return lesson.splits.retain


@pytest.mark.parametrize("phase", ["max", "min"])
@pytest.mark.parametrize("T", [1.0, 4.0])
def test_one_step_equals_the_formula(phase: Phase, T: float) -> None:
    config = _config(lr=0.3, gamma=0.9, alpha=0.4, temperature=T)
    lesson = _lesson(config)
    before = _layers(lesson.student)
    gradient = _gradient(phase, _layers(_net()), before, _step(lesson, phase), config)
    _same(lesson.student, [w - 0.3 * g for w, g in zip(before, gradient, strict=True)])


def test_one_optimiser_state_serves_both_epochs() -> None:
    config = _config(lr=0.2, momentum=0.9, weight_decay=0.01)
    lesson = _lesson(config)
    w, v = _layers(lesson.student), [np.zeros_like(x) for x in _layers(lesson.student)]
    phases: list[Phase] = ["max", "min", "max"]
    for phase in phases:
        gradient = _gradient(phase, _layers(_net()), w, _step(lesson, phase), config)
        v = [0.9 * a + g + 0.01 * b for a, g, b in zip(v, gradient, w, strict=True)]
        w = [b - 0.2 * a for a, b in zip(v, w, strict=True)]
    _same(lesson.student, w)


@pytest.mark.parametrize("phase", ["max", "min"])
def test_anchor_adds_the_slope_of_the_frobenius_distances(phase: Phase) -> None:
    config = _config(lr=0.3, anchor_p=0.7)
    lesson = _lesson(config)
    before, origin = _layers(lesson.student), _layers(_net())
    gradient = _gradient(phase, origin, before, _step(lesson, phase), config)
    pulls = [0.7 * (w - o) / np.linalg.norm(w - o) for w, o in zip(before, origin, strict=True)]
    _same(lesson.student, [w - 0.3 * (g + p) for w, g, p in zip(before, gradient, pulls, strict=True)])


def test_clipping_bounds_max_steps_and_leaves_min_steps_alone() -> None:
    config = _config(lr=0.3, push_norm=1e-3)
    lesson = _lesson(config)
    before = _layers(lesson.student)
    _step(lesson, "max")
    moved = np.concatenate([(a - b).ravel() for a, b in zip(_layers(lesson.student), before, strict=True)])
    assert np.linalg.norm(moved) == pytest.approx(0.3e-3, rel=1e-2)
    before = _layers(lesson.student)
    gradient = _gradient("min", _layers(_net()), before, _step(lesson, "min"), config)
    _same(lesson.student, [w - 0.3 * g for w, g in zip(before, gradient, strict=True)])


def test_distance_is_zero_between_equals_positive_elsewhere_and_asymmetric() -> None:
    t, s = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    distance = Classification().distance
    assert float(distance(t, t, 2.0)) == 0
    assert float(distance(t, s, 2.0)) > 0
    assert float(distance(t, s, 2.0)) != pytest.approx(float(distance(s, t, 2.0)), rel=1e-3)


def test_max_epochs_never_read_a_label() -> None:
    original = _splits()
    flipped = LabelledSet(images=original.train.images, labels=2 - original.train.labels)
    other = UnlearningSplits(train=flipped, forget_index=original.forget_index, selection=original.selection)
    lessons = [_lesson(_config(lr=0.3), splits=splits) for splits in (original, other)]
    for lesson in lessons:
        _step(lesson, "max")
    _same(lessons[0].student, _layers(lessons[1].student))


@given(decays=st.lists(st.integers(1, 12), max_size=4), e=st.integers(1, 12))
def test_rate_falls_once_per_decay_epoch_that_has_passed(decays: list[int], e: int) -> None:
    expected = 0.5
    for decay in decays:
        expected *= 0.1 if e > decay else 1.0
    assert 0.5 * rate_share(_config(lr_decay_epochs=tuple(decays)), e) == pytest.approx(expected)


def test_the_rate_reaches_the_optimiser() -> None:
    rates = []

    class Watched(DoubleTask):
        def loss_of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
            rates.append(lesson_rate())
            return super().loss_of_logits(logits, labels)

    config = _config(lr=0.2, lr_decay_epochs=(1, 1, 2), epochs=3, msteps=0)
    student = _net()
    lesson = Lesson(student, _splits(), config, _around(task=Watched()))

    def lesson_rate() -> float:
        return float(lesson.optimizer.param_groups[0]["lr"])

    for e in (1, 2, 3):
        lesson.set_rate(lesson.steps.lr * rate_share(config, e))
        lesson.min_epoch(e)
    assert rates == pytest.approx([0.2, 0.002, 0.0002])


@pytest.mark.parametrize(("msteps", "epochs"), [(0, 3), (2, 5), (3, 3), (9, 4)])
def test_the_first_msteps_epochs_and_no_more_start_with_a_max_epoch(
    monkeypatch: pytest.MonkeyPatch, msteps: int, epochs: int
) -> None:
    order: list[str] = []

    def noting(phase: Phase) -> Callable[..., float]:
        def epoch(_lesson: Lesson, e: int, *_: object) -> float:
            order.append(f"{phase}{e}")
            return 0.0

        return epoch

    monkeypatch.setattr(Lesson, "max_epoch", noting("max"))
    monkeypatch.setattr(Lesson, "min_epoch", noting("min"))
    config = _config(msteps=msteps, epochs=epochs)
    seen = list(student_epochs(_net(), _splits(), config, _around(), push=lambda: None))
    expected = []
    for e in range(1, epochs + 1):
        expected += [f"max{e}"] * (e <= msteps) + [f"min{e}"]
    assert order == expected
    assert ["max_distance" in epoch for epoch in seen] == [e <= msteps for e in range(1, epochs + 1)]


@pytest.mark.parametrize(("wanted", "msteps"), [(0, 1), (2, 1), (2, 0)])
def test_epochs_beyond_the_planned_ones_hold_both_halves_and_follow_while_asked_for(wanted: int, msteps: int) -> None:
    config = _config(msteps=msteps, epochs=3)
    epochs = student_epochs(_net(), _splits(), config, _around(), push=lambda: None, goes_on=lambda done: done < wanted)
    pushed = ["max_distance" in epoch for epoch in epochs]
    assert pushed == [e < msteps for e in range(3)] + [True] * wanted


def test_the_optimiser_holds_the_student_and_nothing_else() -> None:
    student = _net()
    lesson = Lesson(student, _splits(), _config(), _around())
    held = {id(w) for group in lesson.optimizer.param_groups for w in group["params"]}
    assert held == {id(w) for w in student.parameters()}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("method", [scrub, scrub_r])
def test_the_parent_stays_and_the_student_moves(method: Any, *, norm: bool) -> None:
    parent = _net(norm=norm)
    before = copy.deepcopy(parent.state_dict())
    config = ScrubRConfig(**_config(lr=0.05).model_dump(exclude={"preset"}), more_epochs=0)
    result = method(parent, _splits(), config, around=_around())
    assert all(torch.equal(parent.state_dict()[name], value) for name, value in before.items())
    assert all(w.grad is None for w in parent.parameters())
    assert not all(map(torch.equal, parent.parameters(), result.model.parameters()))
    assert not result.model.training
    assert len(result.history) == 1 + config.epochs


def test_max_epochs_keep_norm_buffers_and_min_epochs_fill_them_from_retained_samples() -> None:
    splits, config = _splits(), _config(lr=1e-9, retain_batch_size=64)
    student = _net(norm=True)
    lesson = Lesson(student, splits, config, _around())
    before = copy.deepcopy(dict(student.named_buffers()))
    _step(lesson, "max")
    assert all(torch.equal(value, before[name]) for name, value in student.named_buffers())
    _step(lesson, "min")
    first = student[1](student[0](normalise(splits.retain.images).double())).mean(0)
    torch.testing.assert_close(student.get_buffer("2.running_mean"), 0.9 * before["2.running_mean"] + 0.1 * first)


def test_teacher_logits_are_computed_once() -> None:
    task = DoubleTask()
    config = _config(epochs=5, msteps=5)
    epochs = student_epochs(_net(), _splits(), config, _around(task=task), push=lambda: None)
    assert len(list(epochs)) == 5
    assert sorted(task.__dict__["predicted"]) == [12, 48]


@pytest.mark.parametrize("norm", [False, True])
def test_a_seed_repeats_bit_for_bit_and_another_differs(*, norm: bool) -> None:
    def weights(seed: int) -> list[Tensor]:
        config = _config(lr=0.05, retain_batch_size=16, forget_batch_size=4)
        return list(scrub(_net(norm=norm), _splits(), config, around=_around(seed)).model.state_dict().values())

    assert all(map(torch.equal, weights(1), weights(1)))
    assert not all(map(torch.equal, weights(1), weights(2)))


def test_a_trained_net_forgets_and_keeps_its_accuracy() -> None:
    parent, splits = _net(norm=True), _splits()
    train(parent, splits.train, Recipe(epochs=20), task=DoubleTask(), generator=generator_for(0))
    around = _around(drop=0.1)
    result = scrub_r(parent, splits, ScrubRConfig(epochs=20, msteps=14, lr=0.05), around=around)
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert taken["forget_loss"] > start["forget_loss"] + 0.02
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.1


def test_a_preset_fills_in_and_named_options_win() -> None:
    small = ScrubConfig(preset="small", epochs=4)
    assert (small.optimizer, small.weight_decay, small.epochs) == ("adam", 0.1, 4)
    assert ScrubRConfig(preset="privacy").rewind == "paper"
    assert ScrubConfig().preset == "service"


def _record(epoch: int, loss: float, accuracy: float = 1.0) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        forget_error=0.0,
        forget_loss=loss,
        reference_error=0.0,
        reference_loss=0.01,
        selection_accuracy=accuracy,
        selection_loss=0.0,
    )


def test_a_batch_left_null_makes_about_as_many_pushes_for_a_large_forget_set_as_for_a_small_one() -> None:
    def pushes(forget: int, **given: int) -> int:
        steps = lesson_steps(ScrubConfig.model_validate(given), Recipe(), retain=10 * forget, forget=forget)
        return math.ceil(forget / steps.forget_batch_size)

    assert [pushes(forget) for forget in (600, 768, 6_000, 100_000)] == [10, 12, 12, 12]
    assert pushes(6_000, forget_batch_size=64) == 94


def test_the_push_grows_below_the_aim_shrinks_above_it_and_stays_in_its_range() -> None:
    terms = Terms(floor=0.8, comfortable=0.9, forget_count=90, reference_count=100)
    parent = _record(0, 0.0)

    def pushed(loss: float, norm: float = 2.0, accuracy: float = 1.0) -> float:
        return next_norm(norm, 2.0, [parent, _record(1, loss, accuracy)], terms)

    assert pushed(0.001) > 2.0
    assert pushed(50.0) < 2.0
    assert pushed(0.001, accuracy=0.5) <= 1.0, "a push that cost accuracy is at least halved"
    assert pushed(0.001, norm=1e9) == 2.0 * STRONGEST_SETTLED
    assert pushed(50.0, norm=1e-9) == 2.0 * WEAKEST
