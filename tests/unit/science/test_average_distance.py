"""How far a generation model's weights moved is read on the average that images are drawn by, not on those trained."""

import copy

import pytest
import torch

from tests.diffusion_cases import net
from workers.evaluation.generation.stage import average_distance


def test_the_distance_is_that_of_the_averages_whatever_the_trained_weights_are() -> None:
    parent = net()
    unlearned = copy.deepcopy(parent)
    with torch.no_grad():
        for average in unlearned.ema.buffers():
            average.mul_(1.5)
        for weight in unlearned.net.parameters():
            weight.add_(7.0)
    found = average_distance(parent, unlearned)
    assert (found.name, found.split) == ("weight_distance", None)
    assert found.value == pytest.approx(0.5)
    assert found.n == sum(weight.numel() for weight in parent.net.parameters())


def test_a_model_is_at_no_distance_from_itself() -> None:
    assert average_distance(net(), net()).value == 0
