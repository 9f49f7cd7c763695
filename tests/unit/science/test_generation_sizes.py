"""Both denoisers at their larger sizes: trained, made to forget a class, measured, stored and read back."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from service.catalogue.methods import IeuConfig
from service.catalogue.recipe import Recipe
from service.catalogue.report_schema import REPORT_SCHEMA
from service.schemas.report import ReportOut
from tests.unit.science.generation_world import short
from workers import checkpoints, pipeline
from workers.architectures import ImageShape
from workers.evaluation.generation.report import evaluate_generation
from workers.evaluation.report import EvaluationSplits
from workers.pipeline import ModelSpec, build_model, erase, train_original, validate_parameters
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning.interface import UnlearningSplits

CLASSES = 3
RECIPE = Recipe(optimizer="adam", lr=2e-3, weight_decay=0.0, batch_size=16, epochs=1)
SIZES: list[tuple[str, ImageShape, dict[str, Any]]] = [
    ("ddpm_unet_small", (1, 28, 28), {"width": 8}),
    ("ddpm_unet", (3, 32, 32), {"width": 8, "blocks": 1}),
]


def _images(count: int, seed: int, shape: ImageShape) -> LabelledSet:
    labels = torch.arange(count) % CLASSES
    noise = 12 * torch.randn(count, *shape, generator=generator_for(seed))
    grey = 30.0 + 95 * labels[:, None, None, None] + noise
    return LabelledSet(images=grey.clamp(0, 255).to(torch.uint8), labels=labels)


@pytest.mark.parametrize(("architecture", "shape", "options"), SIZES)
def test_a_denoiser_of_a_larger_size_is_trained_unlearned_measured_and_read_back(
    architecture: str, shape: ImageShape, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "evaluate_generation", partial(evaluate_generation, profile=short(seeds=1)))
    spec = ModelSpec(architecture=architecture, options=options, image_shape=shape, num_classes=CLASSES, recipe=RECIPE)
    train, held_out = _images(30, 0, shape), _images(24, 1, shape)
    splits = UnlearningSplits(train=train, forget_index=torch.arange(2, 30, 3), selection=_images(9, 2, shape))
    parent = train_original(spec, train).model
    model, report = erase(
        spec,
        parent,
        splits,
        EvaluationSplits(
            retain=splits.retain,
            forget=splits.forget,
            audit=held_out.take(torch.arange(12)),
            test=held_out,
            recognition=_images(18, 3, shape),
        ),
        method="ieu",
        config=IeuConfig(epochs=1, tail_epochs=1),
        seed=0,
        max_accuracy_drop=100.0,
    )
    assert ReportOut.model_validate({"schema": REPORT_SCHEMA, **report}).task == "generation"
    found = {(each["name"], each.get("split")): each for each in report["metrics"]}
    assert found["generation_accuracy", "forget"]["n"] == 9
    assert found["frechet_distance", "retain"]["value"] >= 0
    assert found["relearning_delay", "forget"]["value"] is not None
    path = tmp_path / "weights"
    checkpoints.save(model, path)
    tensors = checkpoints.load(path, sha256=checkpoints.file_digest(path))
    assert validate_parameters(spec, tensors) == []
    build_model(spec).load_state_dict(dict(tensors))
    assert not torch.equal(tensors["ema.conv_in.weight"], parent.state_dict()["ema.conv_in.weight"])


@pytest.mark.parametrize(("architecture", "shape"), [(name, shape) for name, shape, _ in SIZES])
def test_with_its_default_options_it_takes_images_of_that_size(architecture: str, shape: ImageShape) -> None:
    model = build_model(ModelSpec(architecture=architecture, image_shape=shape, num_classes=CLASSES))
    with torch.no_grad():
        said = model(torch.zeros(1, *shape), torch.tensor([500]), torch.tensor([1]))
    assert said.shape == (1, *shape)
    assert bool(said.isfinite().all())
