"""One test per trap that attacks on membership fell into elsewhere, named after it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from workers.evaluation.epsilon import epsilon_score
from workers.evaluation.lira import lira_offline, lira_online
from workers.evaluation.mia_entropy_lr import mia_entropy_lr
from workers.evaluation.mia_loss_lr import mia_loss_lr
from workers.evaluation.mia_svc import mia_svc
from workers.evaluation.mia_threshold import mia_threshold
from workers.evaluation.ranks import ranks_among_controls
from workers.evaluation.rmia import Population, offline_prior, online_prior, rmia
from workers.evaluation.scores import Outputs, modified_entropy, phi
from workers.evaluation.u_lira import u_lira
from workers.reproducibility import generator_for

Floats = NDArray[np.float64]


def _outputs(n: int, seed: int) -> Outputs:
    generator = generator_for(seed)
    return torch.randn(n, 3, generator=generator) * 2, torch.randint(3, (n,), generator=generator)


def test_rmia_mean_is_not_padded_with_zeros_for_samples_with_fewer_reference_models() -> None:
    reference = np.full((4, 3), 0.8)
    seen = np.array([[False, True, True], [False, True, True], [False, True, True], [False, False, True]])
    # four models, one, none: the mean is 0.8 whatever their number, and unknown without one
    assert offline_prior(reference, seen, a=1.0).tolist() == pytest.approx([0.8, 0.8, math.nan], nan_ok=True)
    assert online_prior(reference, seen).tolist() == pytest.approx([math.nan, 0.8, math.nan], nan_ok=True)


def test_modified_entropy_does_not_depend_on_batch_mates() -> None:
    logits, labels = _outputs(40, 0)
    # the very bits: rows are reduced one by one, whatever stands beside them
    alone = torch.cat([modified_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(40)])
    order = torch.arange(39, -1, -1)
    assert torch.allclose(modified_entropy(logits, labels), alone, rtol=1e-12, atol=0)
    assert torch.equal(modified_entropy(logits[order], labels[order])[order], modified_entropy(logits, labels))


def test_u_lira_fitted_to_phi_gives_no_nan_when_every_model_is_right() -> None:
    rng = np.random.default_rng(0)
    labels = torch.zeros(40, dtype=torch.int64)
    logits = torch.tensor(rng.normal(size=(21, 40, 3))) + torch.tensor([20.0, 0.0, 0.0])
    assert (logits.argmax(2) == 0).all()
    values = np.stack([phi(run, labels).numpy() for run in logits])
    unlearned = np.arange(20)[:, None] % 2 == np.zeros((1, 40))
    masks = {"unlearned": unlearned, "unseen": ~unlearned}
    is_member = np.arange(40) < 20
    for row in u_lira(values[0], is_member, reference=values[1:], **masks):
        assert row.value is not None
        assert math.isfinite(row.value)
    # even 0/1 correctness, all right, would be told by the floor and not by NaN
    rows = u_lira(np.ones(40), is_member, reference=np.ones((20, 40)), **masks)
    assert rows[0].value == 0.5


def test_epsilon_takes_the_maximum_where_its_definition_does() -> None:
    fpr, tpr = np.array([0.5, 0.1, 0.4]), np.array([0.5, 0.3, 0.6])
    # at (0.1, 0.3): log(0.9 / 0.7) = 0.251 and log(0.3 / 0.1) = 1.099; at (0.4, 0.6): log 1.5; at (0.5, 0.5): 0
    assert epsilon_score(fpr, tpr) == pytest.approx(math.log(3))
    assert epsilon_score(fpr[:1], tpr[:1]) == 0.0
    assert epsilon_score(fpr, tpr, delta=0.1) == pytest.approx(math.log(2))


def test_epsilon_of_flawless_useless_and_unbounded_thresholds() -> None:
    assert epsilon_score(np.array([0.5, 0.0]), np.array([0.5, 1.0])) == math.inf
    assert epsilon_score(np.array([0.0, 1.0]), np.array([0.2, 1.0])) is None
    assert epsilon_score(np.array([0.9]), np.array([0.1])) == 0.0
    assert epsilon_score(np.zeros(0), np.zeros(0)) is None
    assert epsilon_score(np.array([np.nan, 0.1]), np.array([0.5, 0.3])) == pytest.approx(math.log(3))


def test_members_and_hold_out_drawn_from_the_same_records_are_refused() -> None:
    one, two, three = (_outputs(6, seed) for seed in range(3))
    a, b, c = np.arange(6), np.arange(5, 11), np.arange(20, 26)
    everything = np.concatenate([a, b])
    is_member = np.arange(12) < 6
    values, seen = np.random.default_rng(0).random((2, 12)), np.arange(2)[:, None] == np.zeros((1, 12))
    population = Population(target=np.ones(3), reference=np.ones((2, 3)))
    target, reference = values[0], values
    attacks: list[Callable[[], object]] = [
        lambda: mia_threshold(*one, *two, records=(a, b)),
        lambda: mia_loss_lr(one, two, seed=0, records=(a, b)),
        lambda: mia_entropy_lr(one, retain=two, test=three, records=(c, a, b)),
        lambda: mia_svc(one, retain=two, test=three, seed=0, records=(a, b, c)),
        lambda: lira_offline(target, is_member, reference=reference, seen=seen, records=everything),
        lambda: lira_online(target, is_member, reference=reference, seen=seen, records=everything),
        lambda: rmia(target, is_member, reference=reference, seen=seen, population=population, records=everything),
    ]
    for attack in attacks:
        with pytest.raises(ValueError, match="1 records stand on two sides"):
            attack()
    assert mia_threshold(*one, *two, records=(a, c))
    assert mia_loss_lr(one, two, seed=0, records=(["s-1", "s-2"], ["s-3"]))
    strings = [f"train/{i}" for i in range(12)]
    assert lira_offline(target, is_member, reference=reference, seen=seen, records=strings)


def test_the_refusal_names_no_record() -> None:
    one, two = _outputs(1, 0), _outputs(1, 1)
    with pytest.raises(ValueError, match="two sides") as refused:
        mia_threshold(*one, *two, records=(["secret-id"], ["secret-id"]))
    assert "secret-id" not in str(refused.value)


def test_no_attack_shuffles_or_overwrites_the_callers_arrays() -> None:
    rng = np.random.default_rng(0)
    n, k = 40, 8
    target, reference, is_member = rng.random(n), rng.random((k, n)), np.arange(n) % 2 == 0
    seen, z, z_reference = rng.random((k, n)) < 0.5, rng.random(9), rng.random((k, 9))
    arrays = [target, reference, is_member, seen, z, z_reference]
    outputs = [_outputs(30, seed) for seed in range(3)]
    tensors = [tensor for pair in outputs for tensor in pair]
    before = [array.copy() for array in arrays], [tensor.clone() for tensor in tensors]
    for array in arrays:
        array.flags.writeable = False
    lira_offline(target, is_member, reference=reference, seen=seen)
    lira_online(target, is_member, reference=reference, seen=seen)
    population = Population(target=z, reference=z_reference)
    rmia(target, is_member, reference=reference, seen=seen, population=population)
    u_lira(target, is_member, reference=reference, unlearned=seen, unseen=~seen)
    ranks_among_controls(target, z)
    epsilon_score(z, np.sort(z))
    mia_threshold(*outputs[0], *outputs[1])
    mia_loss_lr(outputs[0], outputs[1], seed=0)
    mia_entropy_lr(outputs[0], retain=outputs[1], test=outputs[2])
    mia_svc(outputs[0], retain=outputs[1], test=outputs[2], seed=0)
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, before[0], strict=True))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before[1], strict=True))
