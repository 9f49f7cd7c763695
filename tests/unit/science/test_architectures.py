"""The networks: they match the catalogue, take what they say, and depend on their seed alone."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from service.catalogue.architectures import ARCHITECTURES as CATALOGUE
from service.catalogue.architectures import smallest_image
from service.catalogue.recipe import Recipe
from workers.architectures import ARCHITECTURES, UnknownArchitectureError, build

EVERY: list[tuple[str, dict[str, Any]]] = [("small_cnn", {}), ("resnet18", {}), ("resnet18", {"stem": "imagenet"})]
SMALL: dict[str, Any] = {"small_cnn": {"width": 4}, "resnet18": {}}


def test_the_networks_are_those_of_the_catalogue() -> None:
    assert ARCHITECTURES.keys() == CATALOGUE.keys()
    assert all(CATALOGUE[name].id == name for name in CATALOGUE)


@pytest.mark.parametrize("name", sorted(CATALOGUE))
@pytest.mark.parametrize("channels", [1, 3])
def test_the_smallest_image_gives_one_logit_per_class(name: str, channels: int) -> None:
    size = CATALOGUE[name].min_image_size
    net = build(name, SMALL[name], image_shape=(channels, size, size), num_classes=7, seed=0).eval()
    with torch.no_grad():
        assert net(torch.zeros(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_the_smallest_image_can_be_trained_on_in_pairs(name: str, options: dict[str, Any]) -> None:
    size = smallest_image(name, CATALOGUE[name].options.model_validate(options))
    smallest_batch = Recipe.model_fields["batch_size"].metadata[0].ge
    net = build(name, options, image_shape=(1, size, size), num_classes=2, seed=0).train()
    net(torch.zeros(smallest_batch, 1, size, size)).sum().backward()


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_an_image_below_the_smallest_is_refused(name: str, options: dict[str, Any]) -> None:
    size = 32 if options else CATALOGUE[name].min_image_size
    with pytest.raises(ValueError, match=f"from {size}x{size}"):
        build(name, options, image_shape=(1, size, size - 1), num_classes=3)


@pytest.mark.parametrize("num_classes", [0, 1, 1001])
def test_a_number_of_classes_out_of_range_is_refused(num_classes: int) -> None:
    with pytest.raises(ValueError, match="classes"):
        build("small_cnn", {}, image_shape=(1, 8, 8), num_classes=num_classes)


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownArchitectureError, match=r"'vgg'.*resnet18.*small_cnn"):
        build("vgg", {}, image_shape=(1, 8, 8), num_classes=2)


@pytest.mark.parametrize("options", [{"width": 3}, {"width": 257}, {"depth": 2}, {"width": "wide"}])
def test_options_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build("small_cnn", options, image_shape=(1, 8, 8), num_classes=2)


def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        return list(build("small_cnn", {}, image_shape=(1, 8, 8), num_classes=3, seed=seed).state_dict().values())

    before = torch.get_rng_state()
    assert all(map(torch.equal, weights(1), weights(1)))
    assert not all(map(torch.equal, weights(1), weights(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_small_cnn_widens_as_the_catalogue_says() -> None:
    net = build("small_cnn", {"width": 5}, image_shape=(3, 8, 8), num_classes=2)
    channels = [module.out_channels for module in net.modules() if isinstance(module, torch.nn.Conv2d)]
    assert channels == [5, 10, 20]
