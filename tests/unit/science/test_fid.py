"""FID: by torchmetrics equal to the formula, with Inception's network of given weights, and told apart where absent."""

import json
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.unit.science.generation_world import CLASSES, images_of, network, short, world
from workers import checkpoints, work
from workers.evaluation.generation.drawing import drawing_results
from workers.evaluation.generation.fid import MOST_REAL, Fid, fid_to
from workers.evaluation.generation.inception import Absent, Extractor, inception
from workers.evaluation.generation.report import evaluate_generation
from workers.evaluation.generation.stage import stage_for
from workers.evaluation.result import MetricResult
from workers.reproducibility import generator_for
from workers.samples import LabelledSet


class _Tiny(nn.Module):
    """A stand-in that has five numbers for an image, none of them linear in it."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3 * 64, 5, generator=generator_for(3), dtype=torch.float64) / 64)

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 8, 8)
        return (images.flatten(1).double() @ self.weights).tanh()


TINY = Extractor(network=_Tiny(), size=5, sha256="a" * 64)


def _by_hand(ours: Tensor, theirs: Tensor) -> float:
    """The formula as it is printed, with scipy's square root of a matrix."""
    a, b = (TINY.features(each).numpy() for each in (ours, theirs))
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    apart = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    return apart + float(np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root))


def test_it_equals_the_formula_for_one_model_after_another() -> None:
    real, first, second = (images_of(count, seed).images for count, seed in ((120, 0), (70, 1), (55, 2)))
    measure = fid_to(LabelledSet(images=real, labels=torch.arange(120) % 3), TINY)
    assert isinstance(measure, Fid)
    darker = (second // 2).to(torch.uint8)
    for drawn in (first, darker, first):
        assert measure.of(drawn) == pytest.approx(_by_hand(drawn, real), rel=1e-6)
    assert measure.of(darker) > measure.of(first)
    assert measure.of(real) == pytest.approx(0, abs=1e-6)


def test_grey_images_are_three_equal_channels() -> None:
    grey = images_of(6, 0).images
    torch.testing.assert_close(TINY.features(grey), TINY.features(grey.repeat(1, 3, 1, 1)))


def test_of_many_real_images_some_are_looked_at() -> None:
    one = images_of(1, 0)
    many = LabelledSet(images=one.images.expand(MOST_REAL + 5, -1, -1, -1), labels=one.labels.expand(MOST_REAL + 5))
    measure = fid_to(many, TINY)
    assert isinstance(measure, Fid)
    assert measure.real_images == MOST_REAL


@pytest.mark.parametrize(("count", "channels", "says"), [(1, 1, "2 real images"), (9, 2, "1 or 3 channels")])
def test_what_it_cannot_be_taken_of_is_said(count: int, channels: int, says: str) -> None:
    real = images_of(count, 0)
    given = replace(real, images=real.images.repeat(1, channels, 1, 1))
    found = fid_to(given, TINY)
    assert isinstance(found, Absent)
    assert says in found.why


def _of_report(extractor: Extractor | Absent | None, *, told: bool = True) -> tuple[MetricResult, list[MetricResult]]:
    _, _, splits = world(whole_class=False)
    model = network(told=told)
    given: dict[str, Any] = {} if extractor is None else {"extractor": extractor}
    stage = stage_for(model, splits, num_classes=CLASSES, seed=0, groups={}, profile=short(seeds=1), **given)
    assert stage.studio is not None
    drawn = stage.studio.draw(model)
    results = drawing_results(stage.studio, drawn, drawn)
    (found,) = [result for result in results if result.name == "fid"]
    if found.value is not None:
        assert found.value == pytest.approx(_by_hand(drawn.images[stage.studio.plan.retained], splits.retain.images))
    return found, results


@pytest.mark.parametrize("told", [True, False])
def test_a_report_has_it_with_how_many_images_and_whose_weights(*, told: bool) -> None:
    found, _ = _of_report(TINY, told=told)
    assert (found.split, found.verdict, found.n, found.ci95) == ("retain", "measured", 48, None)
    assert found.extra == {"real_images": 78, "extractor_sha256": "a" * 64, "enlarged_from": [8, 8]}


@pytest.mark.parametrize("extractor", [None, Absent(why="for a reason of its own")])
def test_without_weights_it_is_reported_as_not_measured_with_the_reason(extractor: Absent | None) -> None:
    found, results = _of_report(extractor)
    assert (found.value, found.verdict) == (None, "not_applicable")
    why = "UNLEARN_INCEPTION_WEIGHTS" if extractor is None else extractor.why
    assert why in (found.extra or {})["reason"]
    assert [r.verdict for r in results if r.name == "frechet_distance"] == ["measured"]


def test_its_limits_stand_in_the_report_where_it_was_taken_alone() -> None:
    parent, retrained, splits = world(whole_class=False)

    def limits(**given: Any) -> str:
        given |= {"parent": parent, "unlearned": retrained, "splits": splits, "profile": short(seeds=1)}
        report = evaluate_generation(num_classes=CLASSES, seed=0, **given)
        json.dumps(report, allow_nan=False)
        return " ".join(report["does_not_prove"])

    assert "FID is of few images" in limits(extractor=TINY)
    assert "FID is of few images" not in limits()


# --- Inception itself ------------------------------------------------------------------------------------------------


@cache
def _weights() -> dict[str, Tensor]:
    """Inception's tensors at random, in such sizes that its features are none of them near 0."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *_given: Any, **_named: Any) -> None:
            """Keep what it was initialised with."""

    nothing = BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Unloaded("random", ["2048"], feature_extractor_weights_path=nothing).state_dict()
    return {name: value.fill_(2.45) if name.endswith("bn.weight") else value for name, value in made.items()}


def test_the_network_of_given_weights_has_its_2048_features_of_small_grey_images() -> None:
    found = inception(_weights(), sha256="b" * 64)
    assert isinstance(found, Extractor)
    images = images_of(3, 0).images
    features = found.features(images)
    assert (features.shape, features.dtype) == ((3, found.size), torch.float32)
    assert float(features.std()) > 0.01
    torch.testing.assert_close(found.features(images[:1]), features[:1], rtol=1e-3, atol=1e-4)
    kept = found.network.state_dict()
    assert all(torch.equal(kept[f"network.{name}"], value) for name, value in _weights().items())


def _order(path: Path) -> dict[str, Any]:
    return {"device": "cpu", "inception": str(path)}


def test_an_order_names_the_file_and_its_digest_is_told(tmp_path: Path) -> None:
    path = tmp_path / "inception.safetensors"
    save_file({name: value.clone() for name, value in _weights().items()}, path)
    found = work.extractor_of(_order(path))
    assert isinstance(found, Extractor)
    assert found.sha256 == checkpoints.file_digest(path)


def test_a_file_that_will_not_do_is_told_and_nothing_of_it_is_unpickled(tmp_path: Path) -> None:
    pickled, other, broken = (tmp_path / name for name in ("pickled", "other", "broken"))
    torch.save(_weights(), pickled)
    save_file({"weight": torch.zeros(2)}, other)
    save_file({**{n: v.clone() for n, v in _weights().items()}, "fc.bias": torch.full((1008,), torch.nan)}, broken)
    for path, says in (
        (tmp_path / "absent", "not there"),
        (pickled, "not safetensors"),
        (other, "not those of"),
        (broken, "not finite"),
    ):
        found = work.extractor_of(_order(path))
        assert isinstance(found, Absent)
        assert says in found.why, path.name


def test_an_order_that_names_no_file_says_how_to_name_one() -> None:
    found = work.extractor_of({"device": "cpu"})
    assert isinstance(found, Absent)
    assert "UNLEARN_INCEPTION_WEIGHTS" in found.why
