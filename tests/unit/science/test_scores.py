"""Scores against definitions in plain float64, at ordinary and at extreme logits."""

import numpy as np
import pytest
import torch

from workers.evaluation.scores import SCORES, entropy, loss, modified_entropy, phi, toward_member
from workers.reproducibility import generator_for


def _random(n: int = 50, k: int = 7, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = generator_for(0)
    logits = torch.randn(n, k, generator=generator) * scale
    return logits, torch.randint(k, (n,), generator=generator)


def _probabilities(logits: torch.Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    z = logits.double().numpy()
    e = np.exp(z - z.max(1, keepdims=True))
    p: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = e / e.sum(1, keepdims=True)
    return p


def test_scores_follow_their_definitions() -> None:
    logits, labels = _random()
    p = _probabilities(logits)
    own = p[np.arange(len(p)), labels.numpy()]
    others = np.delete(p.copy().ravel(), np.arange(len(p)) * p.shape[1] + labels.numpy()).reshape(len(p), -1)
    reverse = -(others * np.log(1 - others)).sum(1)
    assert loss(logits, labels).numpy() == pytest.approx(-np.log(own))
    assert phi(logits, labels).numpy() == pytest.approx(np.log(own / (1 - own)))
    assert entropy(logits, labels).numpy() == pytest.approx(-(p * np.log(p)).sum(1))
    assert modified_entropy(logits, labels).numpy() == pytest.approx(-(1 - own) * np.log(own) + reverse)


def test_phi_keeps_its_order_where_probabilities_saturate() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0], [100.0, 0.0, 0.0], [1e6, 0.0, 0.0], [-1e6, 0.0, 0.0]])
    values = phi(logits, torch.zeros(4, dtype=torch.int64))
    assert values.tolist() == pytest.approx([40 - np.log(2), 100 - np.log(2), 1e6, -1e6], rel=1e-6)


def test_modified_entropy_of_a_sure_error_is_the_logit_gap() -> None:
    # p_1 = 1 - e^-60 rounds to 1: log(1 - p_1) must come from the logits, not from p
    logits = torch.tensor([[0.0, 60.0]])
    assert modified_entropy(logits, torch.tensor([0])).item() == pytest.approx(60 + 60)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_every_score_is_finite_for_finite_logits(name: str, scale: float) -> None:
    logits, labels = _random(scale=scale)
    assert SCORES[name](logits, labels).isfinite().all()
    assert SCORES[name](logits, labels).dtype == torch.float64


@pytest.mark.parametrize("name", SCORES)
def test_a_score_does_not_depend_on_batch_mates(name: str) -> None:
    logits, labels = _random()
    together = SCORES[name](logits, labels)
    alone = torch.cat([SCORES[name](logits[i : i + 1], labels[i : i + 1]) for i in range(len(logits))])
    assert torch.allclose(together, alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SCORES)
def test_scores_leave_logits_alone(name: str) -> None:
    logits, labels = _random()
    before = logits.double().clone()
    inputs = logits.double()
    SCORES[name](inputs, labels)
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("name", SCORES)
def test_toward_member_is_larger_for_the_surer_sample(name: str) -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    sure, unsure = toward_member(name, logits, torch.tensor([0, 0])).tolist()
    assert sure > unsure
