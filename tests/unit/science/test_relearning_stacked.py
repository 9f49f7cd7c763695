"""Relearning one after the other, stacked, and written out plainly here: the same curves, with and without norms."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from workers.architectures import build
from workers.classification import Classification
from workers.evaluation.relearning import plan_relearning, run_relearning
from workers.evaluation.relearning_curve import Curve, RelearningProfile, Rule, Target, relearn
from workers.evaluation.relearning_stacked import Protocol, Relearner, relearn_all, relearn_stacked
from workers.reproducibility import generator_for
from workers.samples import LabelledSet, shuffled_batches

TASK = Classification()
NEVER = Target(loss=-1.0, accuracy=2.0)


def _noise(n: int, seed: int) -> LabelledSet:
    generator = generator_for(seed)
    images = torch.randint(0, 256, (n, 2, 6, 6), generator=generator).to(torch.uint8)
    return LabelledSet(images=images, labels=torch.randint(3, (n,), generator=generator))


@cache
def _net(kind: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm: nn.Module = nn.BatchNorm2d(8) if kind == "norm" else nn.Identity()
        net = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(288, 3)
        )
        net.train()
        for seed in range(3):
            TASK.logits(net, _noise(32, 100 + seed).images)  # statistics other than those norms start with
        return net.eval()


def _by_hand(
    kind: str, samples: LabelledSet, seed: int, *, rate: float, cap: int, batch_size: int, adam: bool
) -> Curve:
    """Return the curve of the protocol as one would write it: read the whole set, then step on a batch."""
    net = copy.deepcopy(_net(kind)).eval()
    rule = (torch.optim.Adam if adam else torch.optim.SGD)(net.parameters(), lr=rate)
    generator, pending = generator_for(seed), list[torch.Tensor]()
    images = (samples.images.float() / 255 - 0.5) / 0.5
    losses, accuracies, path = [], [], [0.0]
    for step in range(cap + 1):
        with torch.no_grad():
            logits = net(images)
        losses.append(cross_entropy(logits, samples.labels, reduction="none").double().numpy())
        accuracies.append(float((logits.argmax(1) == samples.labels).double().mean()))
        if step == cap:
            break
        if not pending:
            pending = list(shuffled_batches(len(samples), batch_size, generator=generator))
        rows = pending.pop(0)
        before = torch.cat([w.detach().flatten().clone() for w in net.parameters()])
        rule.zero_grad()
        cross_entropy(net(images[rows]), samples.labels[rows]).backward()  # type: ignore[no-untyped-call]
        rule.step()
        after = torch.cat([w.detach().flatten() for w in net.parameters()])
        path.append(path[-1] + float((after - before).norm()))
    return Curve(losses=np.stack(losses), accuracies=np.array(accuracies), path=np.array(path))


def _protocol(optimizer: Rule, batch_size: int, *, cap: int = 8, target: Target = NEVER) -> Protocol:
    rate = 0.05 if optimizer == "sgd" else 0.003
    return Protocol(task=TASK, rate=rate, target=target, cap=cap, batch_size=batch_size, optimizer=optimizer)


def _runs(count: int = 3, n: int = 40) -> list[Relearner]:
    return [Relearner(samples=_noise(n, 5 + i), seed=i) for i in range(count)]


def _silent(_: int) -> None:
    pass


def _assert_same(one: Curve, other: Curve) -> None:
    assert one.losses.shape == other.losses.shape
    assert one.losses == pytest.approx(other.losses, rel=1e-3, abs=1e-4)
    assert one.path == pytest.approx(other.path, rel=1e-3)
    assert one.accuracies == pytest.approx(other.accuracies, abs=1 / 40 + 1e-9)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("batch_size", [16, 128])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["norm", "plain"])
def test_curves_are_those_of_the_protocol_written_out(
    kind: str, optimizer: Rule, batch_size: int, stacked: bool
) -> None:
    protocol, runs = _protocol(optimizer, batch_size), _runs()
    curves = relearn_all(_net(kind), runs, protocol, done=_silent, stacked=stacked)
    for run, curve in zip(runs, curves, strict=True):
        expected = _by_hand(
            kind, run.samples, run.seed, rate=protocol.rate, cap=8, batch_size=batch_size, adam=optimizer == "adam"
        )
        _assert_same(curve, expected)


def test_stacked_copies_end_each_by_itself() -> None:
    target = Target(loss=0.6, accuracy=0.5)
    easy = LabelledSet(images=_noise(40, 9).images, labels=torch.zeros(40, dtype=torch.int64))
    protocol, runs = _protocol("sgd", 128, cap=60, target=target), [*_runs(), Relearner(samples=easy, seed=0)]
    stacked = relearn_stacked(_net("norm"), runs, protocol)
    alone = relearn_all(_net("norm"), runs, protocol, done=_silent, stacked=False)
    assert len({len(curve.losses) for curve in alone}) > 1
    for one, other in zip(stacked, alone, strict=True):
        assert one.delay(target) == other.delay(target)
        _assert_same(one, other)


def test_a_diverging_copy_does_not_disturb_the_others() -> None:
    wild = Protocol(task=TASK, rate=1e30, target=NEVER, cap=5, batch_size=128)
    for curve in relearn_stacked(_net("plain"), _runs(2), wild):
        assert len(curve.losses) < 6
        assert len(curve.path) == len(curve.losses)
    # one copy whose images are all equal to the others' but whose labels differ keeps its own path
    protocol, runs = _protocol("sgd", 128), _runs(2)
    other = Relearner(
        samples=LabelledSet(images=runs[0].samples.images, labels=(runs[0].samples.labels + 1) % 3), seed=0
    )
    with_other = relearn_stacked(_net("plain"), [runs[0], other], protocol)
    with_second = relearn_stacked(_net("plain"), runs, protocol)
    _assert_same(with_other[0], with_second[0])


def test_sets_of_unequal_size_are_never_stacked_and_keep_their_order() -> None:
    runs = [
        Relearner(samples=_noise(20, 1), seed=0),
        Relearner(samples=_noise(30, 2), seed=0),
        Relearner(samples=_noise(20, 3), seed=1),
    ]
    told: list[int] = []
    curves = relearn_all(_net("norm"), runs, _protocol("sgd", 16), done=told.append, stacked=True)
    assert [curve.losses.shape[1] for curve in curves] == [20, 30, 20]
    assert told == [0, 2]


@pytest.mark.parametrize("stacked", [False, True])
def test_relearning_leaves_the_model_and_the_random_state_alone(stacked: bool) -> None:
    model = copy.deepcopy(_net("norm")).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    relearn_all(model, _runs(), _protocol("sgd", 16), done=_silent, stacked=stacked)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not any(w.grad is not None for w in model.parameters())


@pytest.mark.parametrize("n", [24, 40])
def test_the_default_profile_reads_the_same_either_way(n: int) -> None:
    profile = RelearningProfile(max_steps=12, batch_size=32, rates=(0.05,))
    plan = plan_relearning(
        _net("norm"), _noise(n, 1), [_noise(n, s) for s in (2, 3)], task=TASK, seed=0, profile=profile
    )
    loop, stacked = (run_relearning(_net("norm"), plan, task=TASK, stacked=way) for way in (False, True))
    for one, other in zip(loop.forget + loop.unseen, stacked.forget + stacked.unseen, strict=True):
        _assert_same(one, other)
    assert len(loop.forget) == len(loop.unseen) == 2


def test_on_a_cpu_the_copies_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("stacked")

    monkeypatch.setattr("workers.evaluation.relearning_stacked.relearn_stacked", refuse)
    told: list[int] = []
    relearn_all(_net("norm"), _runs(), _protocol("sgd", 128), done=told.append)
    assert told == [0, 1, 2]


def test_adam_relearns_by_adam() -> None:
    samples, target = _noise(40, 5), NEVER
    [curve] = [relearn(_net("norm"), samples, task=TASK, rate=0.003, target=target, cap=1, seed=0, optimizer="adam")]
    weights = sum(w.numel() for w in _net("norm").parameters())
    # the first step of Adam moves each weight that has a gradient by the rate
    assert curve.path[1] == pytest.approx(0.003 * weights**0.5, rel=0.05)


class _Branching(nn.Module):
    """Decides by a value, which no vectorised run can."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(72, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(x.flatten(1))
        return found if float(found.detach().sum()) > 0 else found * 2


def test_a_network_that_cannot_be_vectorised_relearns_one_after_the_other() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = _Branching().eval()
    protocol, runs, told = _protocol("sgd", 16), _runs(), list[int]()
    curves = relearn_all(net, runs, protocol, done=told.append, stacked=True)
    assert told == [0, 1, 2]
    for curve, plain in zip(curves, relearn_all(net, runs, protocol, done=_silent, stacked=False), strict=True):
        _assert_same(curve, plain)


def test_a_transformer_relearns_stacked_as_alone() -> None:
    options = {"patch_size": 3, "width": 8, "depth": 1, "heads": 2}
    net = build("small_vit", options, image_shape=(2, 6, 6), num_classes=3, seed=0).eval()
    protocol, runs, told = _protocol("sgd", 16), _runs(), list[int]()
    curves = relearn_all(net, runs, protocol, done=told.append, stacked=True)
    assert told == [0]
    for curve, plain in zip(curves, relearn_all(net, runs, protocol, done=_silent, stacked=False), strict=True):
        _assert_same(curve, plain)
