"""Every method on every kind of network, on the CPU and, marked `gpu`, on CUDA; and steps in mixed precision."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from service.catalogue.methods import METHODS as CATALOGUE
from service.catalogue.recipe import Recipe
from tests.method_cases import samples
from workers.classification import Classification, device_of, placed
from workers.pipeline import ModelSpec, build_model, classification_for, train_original
from workers.reproducibility import deterministic, generator_for
from workers.training import train
from workers.unlearning import METHODS
from workers.unlearning.interface import Surroundings, UnlearningSplits

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "norm": ("small_cnn", {"width": 4}),
    "no_norm": ("small_cnn", {"width": 4, "norm": False}),
    "vit": ("small_vit", {"patch_size": 4, "width": 16, "depth": 1, "heads": 2, "dropout": 0.1}),
}
SHAPE = (3, 8, 8)
PLAIN = [name for name, spec in CATALOGUE.items() if not spec.needs_sharded_recipe]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SHORT = {
    "epochs": 1,
    "tail_epochs": 1,
    "msteps": 1,
    "max_checks": 2,
    "more_epochs": 0,
    "retain_batch_size": 16,
    "forget_batch_size": 8,
    "batch_size": 16,
}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(request.param)


def _spec(net: str, **recipe: Any) -> ModelSpec:
    architecture, options = NETS[net]
    recipe = {"epochs": 2, "batch_size": 16, "lr": 0.05, "seed": 1, **recipe}
    return ModelSpec(
        architecture=architecture, options=options, image_shape=SHAPE, num_classes=3, recipe=Recipe(**recipe)
    )


@cache
def _state(net: str, precision: str | None) -> dict[str, torch.Tensor]:
    done = train_original(_spec(net, precision=precision), samples(60, 0, shape=SHAPE))
    return {name: value.clone() for name, value in done.model.state_dict().items()}


def _parent(net: str, device: torch.device, *, precision: str | None = None) -> nn.Module:
    model = build_model(_spec(net))
    model.load_state_dict(_state(net, precision))
    return placed(model, device).eval()


def _splits(device: torch.device) -> UnlearningSplits:
    return UnlearningSplits(
        train=samples(60, 0, shape=SHAPE).to(device),
        forget_index=torch.arange(12, device=device),
        selection=samples(30, 1, shape=SHAPE).to(device),
    )


def _around(spec: ModelSpec) -> Surroundings:
    return Surroundings(
        task=classification_for(spec.recipe),
        recipe=spec.recipe,
        build_model=lambda seed: build_model(spec, seed),
        generator=generator_for(0),
        max_accuracy_drop=1.0,
    )


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", PLAIN)
def test_a_method_ends_with_finite_weights_where_the_parent_lies(method: str, net: str, device: torch.device) -> None:
    config = CATALOGUE[method].config
    options = {name: value for name, value in SHORT.items() if name in config.model_fields}
    parent = _parent(net, device)
    with deterministic(0):
        found = METHODS[method](parent, _splits(device), config(**options), around=_around(_spec(net)))
    assert device_of(found.model) == device_of(parent)
    weights = dict(found.model.named_parameters())
    assert all(bool(torch.isfinite(w).all()) for w in weights.values())
    assert any(not torch.equal(w, weights[name]) for name, w in parent.named_parameters())


@pytest.mark.parametrize("method", ["neggrad_plus", "scrub", "retrain", "mu_mis"])
def test_a_recipe_in_mixed_precision_steps_in_bfloat16_and_keeps_float32_weights(
    method: str, device: torch.device
) -> None:
    config = CATALOGUE[method].config
    options = {name: value for name, value in SHORT.items() if name in config.model_fields}
    results = []
    for precision in ("mixed", None):
        spec = _spec("norm", precision=precision)
        with deterministic(0):
            found = METHODS[method](_parent("norm", device), _splits(device), config(**options), around=_around(spec))
        results.append(found.model)
    assert {w.dtype for w in results[0].parameters()} == {torch.float32}
    pairs = list(zip(results[0].parameters(), results[1].parameters(), strict=True))
    same = all(torch.equal(a, b) for a, b in pairs)
    assert same == (method == "mu_mis"), "slopes of the input are taken in float32 whatever the recipe says"


def test_mixed_steps_are_products_in_bfloat16_and_losses_in_float32(device: torch.device) -> None:
    net, seen = _parent("norm", device), []
    convolution = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    images, labels = _splits(device).forget.images, _splits(device).forget.labels
    task = Classification(mixed=True)
    loss = task.per_sample_loss(net, images, labels)
    predicted = task.predict(net, _splits(device).forget)
    assert seen == [torch.bfloat16, torch.float32]
    assert (loss.dtype, predicted.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(predicted, Classification().predict(net, _splits(device).forget), rtol=0, atol=0)


def test_training_in_mixed_precision_comes_near_training_in_float32(device: torch.device) -> None:
    train_set, held_out = samples(300, 0, shape=SHAPE).to(device), samples(150, 1, shape=SHAPE).to(device)
    right = []
    for precision in (None, "mixed"):
        spec = _spec("norm", epochs=8, precision=precision)
        model = placed(build_model(spec), device)
        history = train(model, train_set, spec.recipe, task=classification_for(spec.recipe), generator=generator_for(1))
        assert all(math.isfinite(loss) for loss in history.epoch_losses)
        right.append(Classification().accuracy(Classification().predict(model.eval(), held_out), held_out.labels))
    assert right[1] >= right[0] - 0.05


@pytest.mark.gpu
def test_on_cuda_convolutions_lie_channels_last() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    net = _parent("norm", torch.device("cuda"))
    weight = next(module.weight for module in net.modules() if isinstance(module, nn.Conv2d) and module.in_channels > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
