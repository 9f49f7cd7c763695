"""The networks: they match the catalogue, take what they say, and depend on their seed alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn

from service.catalogue.architectures import ARCHITECTURES as CATALOGUE
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task
from workers import checkpoints
from workers.architectures import ARCHITECTURES, UnknownArchitectureError, build
from workers.architectures.ddpm import Ddpm
from workers.pipeline import ModelSpec, validate_parameters

# ViT-B/16 on a square of 2 by 2 patches: the weights are what they are, the work is small
EVERY: list[tuple[str, dict[str, Any]]] = [
    ("small_cnn", {}),
    ("small_cnn", {"norm": False}),
    ("small_vit", {}),
    ("small_vit", {"patch_size": 2, "width": 32, "depth": 2, "heads": 2}),
    ("resnet18", {}),
    ("resnet18", {"stem": "imagenet"}),
    ("resnet50", {}),
    ("resnet50", {"stem": "imagenet"}),
    ("vgg16_bn", {}),
    ("vit_b_16", {"image_size": 32}),
    ("ddpm_unet_small", {"width": 8}),
    ("ddpm_unet_small", {"width": 8, "class_condition": False}),
    ("ddpm_unet", {"width": 8, "blocks": 1}),
]
CLASSIFIERS = sorted(name for name, spec in CATALOGUE.items() if spec.task == Task.CLASSIFICATION)
LARGE = [("vgg16_bn", {"head": "imagenet"}), ("vit_b_16", {})]
SMALL: dict[str, Any] = {"small_cnn": {"width": 4}, "vit_b_16": {"image_size": 32}}


def _smallest(name: str, options: dict[str, Any]) -> int:
    return CATALOGUE[name].options.model_validate(options).min_image_size


def test_the_networks_are_those_of_the_catalogue() -> None:
    assert ARCHITECTURES.keys() == CATALOGUE.keys()
    assert all(CATALOGUE[name].id == name for name in CATALOGUE)
    assert {name for name, _ in EVERY} == CATALOGUE.keys()


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("channels", [1, 4])
def test_the_least_width_gives_one_logit_per_class(name: str, channels: int) -> None:
    size = CATALOGUE[name].min_image_size
    classes = 1000 if channels == 4 else 2
    net = build(name, SMALL.get(name, {}), image_shape=(channels, size + 3, size), num_classes=classes, seed=0)
    with torch.no_grad():
        assert net.eval()(torch.zeros(2, channels, size + 3, size)).shape == (2, classes)


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_the_smallest_image_can_be_trained_on_in_pairs(name: str, options: dict[str, Any]) -> None:
    size = _smallest(name, options)
    smallest_batch = Recipe.model_fields["batch_size"].metadata[0].ge
    net = build(name, options, image_shape=(1, size, size), num_classes=2, seed=0).train()
    images, any_label = torch.zeros(smallest_batch, 1, size, size), torch.zeros(smallest_batch, dtype=torch.int64)
    net(images, *([] if name in CLASSIFIERS else [any_label, any_label])).sum().backward()
    assert all(w.grad is not None and bool(torch.isfinite(w.grad).all()) for w in net.parameters())


@pytest.mark.parametrize(("name", "options"), EVERY + LARGE)
def test_an_image_below_the_smallest_is_refused(name: str, options: dict[str, Any]) -> None:
    size = _smallest(name, options)
    with pytest.raises(ValueError, match=f"from {size}x{size}"):
        build(name, options, image_shape=(1, size, size - 1), num_classes=3)


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {"stem": "imagenet"}), ("resnet50", {"stem": "imagenet"}), *LARGE],
)
def test_published_weights_fit_by_name_and_shape(name: str, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        ours = build(name, options, image_shape=(3, 224, 224), num_classes=1000).state_dict()
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_weights_that_were_saved_are_valid_and_those_of_another_shape_are_not(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    size = _smallest(name, options)
    spec = ModelSpec(architecture=name, options=options, image_shape=(1, size, size), num_classes=3)
    net = build(name, options, image_shape=spec.image_shape, num_classes=3, seed=1)
    if isinstance(net, Ddpm):
        net.settle_average()
    checkpoints.save(net, tmp_path / "w.safetensors")
    file = tmp_path / "w.safetensors"
    found = dict(checkpoints.load(file, sha256=checkpoints.file_digest(file)))
    assert validate_parameters(spec, found) == []
    first, *_, last = found
    found[first] = found[first][None]
    del found[last]
    faults = validate_parameters(spec, found)
    assert [fault.split(" ")[0] for fault in faults] == ["missing", repr(first)]


@pytest.mark.parametrize("num_classes", [0, 1, 1001])
def test_a_number_of_classes_out_of_range_is_refused(num_classes: int) -> None:
    with pytest.raises(ValueError, match="classes"):
        build("small_cnn", {}, image_shape=(1, 8, 8), num_classes=num_classes)


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownArchitectureError, match=r"'vgg'.*resnet18.*small_cnn.*vit_b_16"):
        build("vgg", {}, image_shape=(1, 8, 8), num_classes=2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small_cnn", {"width": 3}),
        ("small_cnn", {"width": 257}),
        ("small_cnn", {"depth": 2}),
        ("small_cnn", {"width": "wide"}),
        ("small_vit", {"patch_size": 1}),
        ("small_vit", {"width": 30, "heads": 4}),
        ("small_vit", {"dropout": 1.0}),
        ("small_vit", {"depth": 0}),
        ("resnet50", {"stem": "large"}),
        ("vgg16_bn", {"head": "none"}),
        ("vit_b_16", {"image_size": 100}),
        ("vit_b_16", {"image_size": 16}),
    ],
)
def test_options_out_of_bounds_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(name, options, image_shape=(1, 64, 64), num_classes=2)


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone(name: str, options: dict[str, Any]) -> None:
    size = _smallest(name, options)

    def weights(seed: int) -> list[torch.Tensor]:
        return list(build(name, options, image_shape=(1, size, size), num_classes=3, seed=seed).state_dict().values())

    before = torch.get_rng_state()
    first = weights(1)
    assert all(map(torch.equal, first, weights(1)))
    assert not all(map(torch.equal, first, weights(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_small_cnn_widens_as_the_catalogue_says() -> None:
    net = build("small_cnn", {"width": 5}, image_shape=(3, 8, 8), num_classes=2)
    channels = [module.out_channels for module in net.modules() if isinstance(module, torch.nn.Conv2d)]
    assert channels == [5, 10, 20]


def test_without_norm_small_cnn_has_biases_and_no_norm_layer() -> None:
    net = build("small_cnn", {"norm": False, "width": 4}, image_shape=(1, 8, 8), num_classes=2)
    assert {type(module) for module in net.features} == {nn.Conv2d, nn.ReLU, nn.MaxPool2d}  # type: ignore[union-attr]
    assert not list(net.buffers())
    assert all(module.bias is not None for module in net.modules() if isinstance(module, nn.Conv2d))
