"""The rewind and the guards: which epoch is taken, which states count, and what happens when none does."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training import NonFiniteLossError
from workers.unlearning.interface import (
    DivergedError,
    InvalidSplitsError,
    Surroundings,
    UnlearningSplits,
    UtilityLostError,
)
from workers.unlearning.selection import (
    Choice,
    EpochRecord,
    Terms,
    chooser_for,
    clear_epochs,
    error_tolerance,
    last_within,
    loss_aim,
    rewind_by_error,
    rewind_clear_of_known,
    within_floor,
)
from workers.unlearning.trajectory import PATIENCE, Trajectory, class_mix_weights, follow


def _record(epoch: int, error: float, **changes: Any) -> EpochRecord:
    measured = {"forget_loss": 1.0, "reference_error": 0.3, "reference_loss": 1.0, "selection_accuracy": 0.9}
    measured["selection_loss"] = 1.0
    return EpochRecord(epoch=epoch, forget_error=error, **{**measured, **changes})


def _terms(floor: float = 0.5, comfortable: float = 0.5) -> Terms:
    return Terms(floor=floor, comfortable=comfortable, forget_count=20, reference_count=30)


def _rewind(records: Sequence[EpochRecord], floor: float = 0.5) -> Choice:
    return rewind_by_error(records, _terms(floor))


def test_the_epoch_nearest_the_final_reference_error_is_taken() -> None:
    records = [_record(0, 0.0), _record(1, 0.1), _record(2, 0.28), _record(3, 0.6)]
    assert _rewind(records) == Choice(epoch=2, rule="paper", boundary=False)


def test_the_reference_is_that_of_the_final_state_alone() -> None:
    near_its_own = _record(1, 0.1, reference_error=0.1)
    records = [
        _record(0, 0.0),
        near_its_own,
        _record(2, 0.55, reference_error=0.1),
        _record(3, 0.6, reference_error=0.5),
    ]
    assert _rewind(records).epoch == 2


def test_tied_errors_go_to_the_nearer_loss_and_then_to_the_first() -> None:
    # the errors 0.2 and 0.4 lie on either side of 0.3, at a distance that differs by rounding alone
    by_loss = [_record(0, 0.0), _record(1, 0.2, forget_loss=3.0), _record(2, 0.4, forget_loss=1.1), _record(3, 0.9)]
    assert _rewind(by_loss).epoch == 2
    by_order = [_record(0, 0.0), _record(1, 0.9), _record(2, 0.4), _record(3, 0.4), _record(4, 0.4)]
    assert _rewind(by_order).epoch == 2


def test_an_epoch_below_the_floor_is_passed_over() -> None:
    records = [_record(0, 0.0), _record(1, 0.3, selection_accuracy=0.4), _record(2, 0.1), _record(3, 0.9)]
    assert _rewind(records).epoch == 2


def test_the_parent_is_never_taken_and_its_win_is_flagged() -> None:
    assert _rewind([_record(0, 0.3), _record(1, 0.2), _record(2, 0.9)]) == Choice(epoch=1, rule="paper", boundary=True)


@given(errors=st.lists(st.floats(0, 1), min_size=2, max_size=8), reference=st.floats(0, 1))
def test_no_epoch_is_nearer_than_the_one_taken(errors: list[float], reference: float) -> None:
    records = [_record(e, error, reference_error=reference) for e, error in enumerate(errors)]
    taken = _rewind(records)
    gaps = [abs(error - reference) for error in errors]
    assert taken.epoch >= 1
    assert gaps[taken.epoch] <= min(gaps[1:]) + 1e-8
    assert taken.boundary <= (gaps[0] <= gaps[taken.epoch] + 1e-8)


def _service(records: Sequence[EpochRecord], settled_after: int = 0, **terms: float) -> Choice:
    return rewind_clear_of_known(records, _terms(**terms), settled_after=settled_after)


def test_the_push_aims_at_the_reference_loss_but_clear_of_the_parents_own() -> None:
    parent = _record(0, 0.0, forget_loss=0.1)
    assert loss_aim(parent, _record(1, 0.0, reference_loss=3.0)) == pytest.approx(3.6)
    assert loss_aim(parent, _record(1, 0.0, reference_loss=0.0)) > 1.05 * 0.1 + 0.05


def test_errors_that_cannot_be_told_apart_are_tied_and_the_selection_loss_decides() -> None:
    records = [
        _record(0, 0.0, forget_loss=0.0, selection_loss=0.1),
        _record(1, 0.30, selection_loss=0.4),
        _record(2, 0.35, selection_loss=0.3),
        _record(3, 1.00, selection_loss=0.2),
    ]
    assert _service(records) == Choice(epoch=2, rule="service", boundary=False)


def test_an_epoch_clear_of_the_known_beats_one_that_is_not_and_one_pushed_too_far() -> None:
    parent = _record(0, 0.0, forget_loss=0.0)
    known, clear, far = (
        _record(i, 0.3, forget_loss=x, selection_loss=y) for i, x, y in ((1, 0.06, 0.1), (2, 0.2, 0.3), (3, 5.0, 0.2))
    )
    assert _service([parent, known, clear, far]).epoch == 2
    assert _service([parent, known]).epoch == 1
    assert _service([parent, known, far]).epoch == 3


def test_where_every_class_is_gone_the_service_takes_an_epoch_that_gets_it_wrong() -> None:
    records = [
        _record(0, 0.0, forget_loss=0.0),
        _record(1, 0.6, reference_error=0.6, selection_loss=0.1),
        _record(2, 1.0, reference_error=0.6, selection_loss=0.3),
        _record(3, 0.6, reference_error=0.6, selection_loss=0.1),
    ]
    gone = replace(_terms(), all_gone=True)
    assert rewind_clear_of_known(records, gone).epoch == 2
    assert rewind_clear_of_known(records, _terms()).epoch == 1


@pytest.mark.parametrize(("rewind", "epoch"), [("service", 2), ("paper", 1), ("none", 3)])
def test_the_option_names_the_rule(rewind: str, epoch: int) -> None:
    records = [
        _record(0, 0.0, forget_loss=0.0),
        _record(1, 0.30, reference_error=0.9, selection_loss=0.4),
        _record(2, 0.35, selection_loss=0.3),
        _record(3, 1.00, selection_loss=0.2),
    ]
    assert chooser_for(rewind)(records, _terms()).epoch == epoch


def test_epochs_fit_to_be_returned_are_counted_once_the_rate_has_fallen() -> None:
    parent = _record(0, 0.0, forget_loss=0.0)
    fit, known, far = _record(1, 0.3), _record(2, 0.3, forget_loss=0.06), _record(3, 0.3, forget_loss=5.0)
    costly = _record(4, 0.3, selection_accuracy=0.85)
    terms = _terms(floor=0.8, comfortable=0.88)
    assert clear_epochs([parent, fit, known, far, costly, _record(5, 0.3)], terms) == 2
    assert clear_epochs([parent, fit, known, far, costly, _record(5, 0.3)], terms, settled_after=1) == 1


def test_epochs_before_the_rate_falls_or_without_reserve_are_taken_only_in_need() -> None:
    parent, best = _record(0, 0.9, forget_loss=0.0), _record(1, 0.3)
    later = _record(2, 0.3, forget_loss=2.0)
    assert _service([parent, best, later]).epoch == 1
    assert _service([parent, best, later], settled_after=1).epoch == 2
    assert _service([parent, best], settled_after=1).epoch == 1
    short = _record(1, 0.3, selection_accuracy=0.85)
    assert _service([parent, short, later], floor=0.8, comfortable=0.88).epoch == 2
    assert _service([parent, short], floor=0.8, comfortable=0.88).epoch == 1


def test_a_parent_that_matches_better_is_flagged_by_the_services_rewind_too() -> None:
    records = [_record(0, 0.3, reference_error=0.3), _record(1, 1.0, reference_error=0.3)]
    assert _service(records) == Choice(epoch=1, rule="service", boundary=True)


@given(error=st.floats(0, 1), count=st.integers(1, 500))
def test_more_samples_tell_finer_differences(error: float, count: int) -> None:
    few = Terms(floor=0, comfortable=0, forget_count=count, reference_count=count)
    more = Terms(floor=0, comfortable=0, forget_count=4 * count, reference_count=4 * count)
    assert 0 < error_tolerance(error, more) < error_tolerance(error, few) + 1e-3


@given(
    pool=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    forget=st.lists(st.integers(0, 4), min_size=1, max_size=20),
)
def test_the_pool_is_weighed_to_the_forget_sets_classes(pool: list[int], forget: list[int]) -> None:
    labels, wanted = torch.tensor(pool), torch.tensor(forget)
    weights = class_mix_weights(labels, wanted)
    assert float(weights.sum()) == pytest.approx(1.0)
    shared = [c for c in set(forget) if c in pool]
    for c in shared:
        share = forget.count(c) / sum(forget.count(other) for other in shared)
        assert float(weights[labels == c].sum()) == pytest.approx(share)
    if not shared:
        assert torch.allclose(weights, torch.full_like(weights, 1 / len(pool)))


class Counter(nn.Module):
    """Say a class for every image: 1 while the count is at most `right_until`, 0 after. Its weight is the count."""

    def __init__(self, right_until: int) -> None:
        super().__init__()
        self.count = nn.Parameter(torch.zeros(()))
        self.right_until = right_until

    def forward(self, x: Tensor) -> Tensor:
        right = self.count <= self.right_until
        ones = torch.ones(len(x))
        return torch.stack([ones * ~right, ones * right], 1) * (1 + self.count)


def _splits() -> UnlearningSplits:
    train = LabelledSet(images=torch.zeros(6, 1, 2, 2, dtype=torch.uint8), labels=torch.ones(6, dtype=torch.int64))
    return UnlearningSplits(train=train, forget_index=torch.tensor([0, 1]), selection=train)


def _around(drop: float = 0.1) -> Surroundings:
    return Surroundings(
        task=Classification(),
        recipe=Recipe(),
        build_model=lambda _seed: Counter(99),
        generator=generator_for(0),
        max_accuracy_drop=drop,
    )


def _epochs(model: Counter, *, upto: int = 8, breaks_at: int | None = None) -> Iterator[dict[str, float]]:
    for e in range(1, upto + 1):
        if e == breaks_at:
            raise NonFiniteLossError("not a number")
        with torch.no_grad():
            model.count.fill_(e)
        yield {"loss": float(e)}


def _taking(epoch: int) -> Callable[[Sequence[EpochRecord], Terms], Choice]:
    return lambda _records, _terms: Choice(epoch=epoch, rule="fixed")


@pytest.mark.parametrize("epoch", [1, 4, 8])
def test_the_state_returned_is_the_one_after_the_epoch_chosen(epoch: int) -> None:
    model = Counter(99)
    trajectory = Trajectory(model, _splits(), _around())
    verdict = follow(model, _epochs(model), trajectory, 0)
    result = trajectory.result(model, _taking(epoch), verdict, 0.0)
    assert isinstance(result.model, Counter)
    assert result.model.count.item() == epoch
    assert result.history[epoch]["objectives"] == {"loss": float(epoch)}
    assert [row["epoch"] for row in result.history] == list(range(9))
    assert json.loads(json.dumps(result.history, allow_nan=False)) == list(result.history)


def test_states_kept_do_not_share_memory_with_the_model() -> None:
    model = Counter(99)
    trajectory = Trajectory(model, _splits(), _around())
    follow(model, _epochs(model, upto=3), trajectory, 0)
    with torch.no_grad():
        model.count.fill_(-5)
    trajectory.result(model, _taking(2), "completed", 0.0)
    assert model.count.item() == 2


def test_lost_accuracy_ends_a_run_and_the_last_epoch_that_kept_it_is_returned() -> None:
    model = Counter(right_until=2)
    trajectory = Trajectory(model, _splits(), _around())
    verdict = follow(model, _epochs(model), trajectory, 0)
    assert verdict == "utility_guard"
    assert len(trajectory.records) == 1 + 2 + PATIENCE
    assert trajectory.result(model, last_within, verdict, 0.0).selection["epoch"] == 2


def test_accuracy_may_fall_while_the_method_still_pushes() -> None:
    model = Counter(right_until=0)
    trajectory = Trajectory(model, _splits(), _around())
    follow(model, _epochs(model, upto=20), trajectory, 6)
    assert len(trajectory.records) == 1 + 6 + PATIENCE


def test_without_any_epoch_that_kept_accuracy_utility_is_lost_and_the_history_told() -> None:
    model = Counter(right_until=0)
    trajectory = Trajectory(model, _splits(), _around())
    verdict = follow(model, _epochs(model), trajectory, 0)
    with pytest.raises(UtilityLostError, match="accuracy") as caught:
        trajectory.result(model, last_within, verdict, 0.0)
    assert len(caught.value.history) == 1 + PATIENCE


def test_a_loss_not_finite_ends_a_run_and_keeps_what_there_was() -> None:
    model = Counter(99)
    trajectory = Trajectory(model, _splits(), _around())
    verdict = follow(model, _epochs(model, breaks_at=4), trajectory, 0)
    assert verdict == "non_finite_guard"
    assert trajectory.result(model, last_within, verdict, 0.0).selection["epoch"] == 3


def test_a_loss_not_finite_in_the_first_epoch_is_a_divergence() -> None:
    model = Counter(99)
    trajectory = Trajectory(model, _splits(), _around())
    verdict = follow(model, _epochs(model, breaks_at=1), trajectory, 0)
    with pytest.raises(DivergedError):
        trajectory.result(model, last_within, verdict, 0.0)


def test_the_floor_counts_labels_that_stay_in_the_retain_set_alone() -> None:
    images, labels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1, 1, 1, 1])
    samples = LabelledSet(images=images, labels=labels)
    splits = UnlearningSplits(train=samples, forget_index=torch.tensor([0, 1]), selection=samples)
    trajectory = Trajectory(Counter(99), splits, _around(0.1))
    assert trajectory.records[0].selection_accuracy == 1
    assert trajectory.records[0].reference_error == 1
    assert trajectory.terms.floor == pytest.approx(0.9)


def test_an_epoch_exactly_at_the_floor_is_within_it() -> None:
    records = [_record(0, 0.0), _record(1, 0.0, selection_accuracy=0.9 - 0.1)]
    assert within_floor(records, 0.9 - 0.1) == records[1:]


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (torch.tensor([], dtype=torch.int64), "n > 0"),
        (torch.tensor([0.0]), "int64"),
        (torch.tensor([[0]]), "int64"),
        (torch.tensor([6]), "outside"),
        (torch.tensor([-1]), "outside"),
        (torch.tensor([1, 1]), "repeats"),
        (torch.arange(6), "nothing is left"),
    ],
)
def test_a_forget_set_that_cannot_be_removed_is_refused(index: Tensor, told: str) -> None:
    with pytest.raises(InvalidSplitsError, match=told):
        UnlearningSplits(train=_splits().train, forget_index=index, selection=_splits().selection)


@given(forget=st.sets(st.integers(0, 19), min_size=1, max_size=19))
def test_forget_and_retain_set_share_no_sample_and_leave_none_out(forget: set[int]) -> None:
    train = LabelledSet(images=torch.zeros(20, 1, 1, 1, dtype=torch.uint8), labels=torch.arange(20))
    splits = UnlearningSplits(train=train, forget_index=torch.tensor(sorted(forget)), selection=train)
    assert set(splits.forget.labels.tolist()) == forget
    assert set(splits.retain.labels.tolist()) == set(range(20)) - forget
