"""An ensemble answers with the mean of its networks' softmax outputs, and is a network like any other elsewhere."""

from dataclasses import replace

import torch
from torch import nn

from service.catalogue.recipe import Recipe, Sharding
from tests.method_cases import equal, samples
from workers.architectures.ensemble import Ensemble, members
from workers.classification import Classification
from workers.evaluation.relearning_fresh_head import with_fresh_head
from workers.pipeline import ModelSpec, build_model, validate_parameters
from workers.sharding import stage_seed
from workers.stacking import plan_stacking

SPEC = ModelSpec(
    architecture="small_cnn",
    options={"width": 4},
    image_shape=(1, 8, 8),
    num_classes=3,
    recipe=Recipe(seed=5, sisa=Sharding(shards=3, slices=2)),
)


class _Says(nn.Module):
    """A network with the same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1)


def test_its_softmax_is_the_mean_of_the_networks_softmaxes() -> None:
    said = Ensemble([_Says(2.0, -1.0, 0.5), _Says(0.0, 3.0, 0.0)])(torch.zeros(4, 1))
    mean = (torch.tensor([2.0, -1.0, 0.5]).exp() / torch.tensor([2.0, -1.0, 0.5]).exp().sum()) / 2
    mean = mean + (torch.tensor([0.0, 3.0, 0.0]).exp() / torch.tensor([0.0, 3.0, 0.0]).exp().sum()) / 2
    torch.testing.assert_close(said.softmax(1), mean.expand(4, -1))
    torch.testing.assert_close(said.exp(), mean.expand(4, -1))


def test_networks_that_are_certain_of_different_classes_leave_everything_finite() -> None:
    said = Ensemble([_Says(1000.0, 0.0), _Says(0.0, 1000.0)])(torch.zeros(1, 1))
    torch.testing.assert_close(said, torch.full((1, 2), 0.5).log())


def test_a_single_network_says_what_it_says_alone() -> None:
    net = build_model(replace(SPEC, recipe=Recipe())).eval()
    images = samples(6, 0, shape=(1, 8, 8)).images
    task = Classification()
    torch.testing.assert_close(task.logits(Ensemble([net]), images), task.logits(net, images).log_softmax(1))


def test_a_recipe_with_shards_builds_an_ensemble_each_of_whose_networks_has_its_own_seed() -> None:
    built = members(build_model(SPEC))
    plain = replace(SPEC, recipe=Recipe())
    assert len(built) == 3
    assert all(equal(net, build_model(plain, stage_seed(5, shard=s, stage=1))) for s, net in enumerate(built))
    assert not equal(built[0], built[1])
    assert equal(build_model(SPEC, 5), build_model(SPEC))
    assert not equal(build_model(SPEC, 6), build_model(SPEC))


def test_its_weights_are_checked_like_any_networks() -> None:
    tensors = dict(build_model(SPEC).state_dict())
    assert validate_parameters(SPEC, tensors) == []
    del tensors["nets.2.head.bias"]
    assert validate_parameters(SPEC, tensors) == ["missing tensor 'nets.2.head.bias'"]
    alone = build_model(replace(SPEC, recipe=Recipe())).state_dict()
    assert any("missing tensor 'nets.0." in fault for fault in validate_parameters(SPEC, alone))


def test_copies_of_it_can_be_stacked() -> None:
    plan = plan_stacking(
        build_model(SPEC), samples(8, 0, shape=(1, 8, 8)), copies=4, batch_size=4, budget_bytes=10**9,
        task=Classification(), way="stacked",
    )  # fmt: skip
    assert plan.way == "stacked"


def test_a_fresh_head_is_one_for_each_network_and_nothing_else() -> None:
    model = build_model(SPEC)
    fresh = with_fresh_head(model, seed=1)
    assert fresh is not None
    after = fresh.state_dict()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, after[name])}
    assert changed == {f"nets.{s}.head.{part}" for s in range(3) for part in ("weight", "bias")}
