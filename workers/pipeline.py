"""Train, unlearn and evaluate on tensors. Knows no database, queue, settings or paths."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from service.catalogue import moving_average
from service.catalogue.architectures import ARCHITECTURES
from service.catalogue.methods import METHODS, MethodConfig
from service.catalogue.moving_average import AVERAGE, UPDATES
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task as TaskName
from workers.architectures import ImageShape, build
from workers.architectures.ensemble import Ensemble
from workers.classification import Classification, device_of, placed
from workers.erasure_report import gate_part, method_part, resumed_part, seconds_part
from workers.evaluation.earlier import EarlierSet
from workers.evaluation.gate import Bar
from workers.evaluation.generation.inception import NOT_NAMED, Absent, Extractor
from workers.evaluation.generation.report import evaluate_generation
from workers.evaluation.plots.data import PlotData
from workers.evaluation.reference_attacks import PlacedReferences
from workers.evaluation.report import EvaluationSplits, evaluate
from workers.phases import EVALUATE
from workers.reproducibility import deterministic, environment, generator_for
from workers.samples import LabelledSet
from workers.sharded_training import NotPlacedError, train_sharded
from workers.sharding import stage_seed
from workers.task import Task
from workers.training import Progress, no_progress, train
from workers.training_state import NO_JOURNAL, Journal
from workers.unlearning import method_named
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.refusals import refuse_before, refuse_unmoved
from workers.unlearning.shards import kept

CONDITIONS = "net.class_embedding.weight"
EPOCH_DRAWS = 2
"""Draws on which a diffusion model is measured after each epoch of a method: more would take half as long as the epoch.
"""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything a network is rebuilt from, beside its weights. `image_shape` is (C, H, W)."""

    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)
    image_shape: ImageShape
    num_classes: int
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def task(self) -> TaskName:
        """Return what the network is for."""
        return ARCHITECTURES[self.architecture].task


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A network in eval mode, JSON-safe facts of its training, and what that left for later requests.

    `prepared` is by the names of service.catalogue.preparations, tensors by name each.
    """

    model: nn.Module
    facts: dict[str, Any]
    prepared: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def build_model(spec: ModelSpec, seed: int | None = None) -> nn.Module:
    """Build the network on the CPU, initialised by `seed` or by the recipe's; an ensemble where that has shards."""
    seed, sisa = spec.recipe.seed if seed is None else seed, spec.recipe.sisa
    if sisa is None:
        return _network(spec, seed)
    return Ensemble(_network(spec, stage_seed(seed, shard=shard, stage=1)) for shard in range(sisa.shards))


def _network(spec: ModelSpec, seed: int) -> nn.Module:
    return build(
        spec.architecture,
        spec.options,
        image_shape=spec.image_shape,
        num_classes=spec.num_classes,
        seed=seed,
    )


def task_for(spec: ModelSpec, seed: int) -> Task:
    """Return the task as the recipe's steps see it, for one run of that seed."""
    if spec.task == TaskName.CLASSIFICATION:
        return classification_for(spec.recipe)
    # imported here: what it draws by takes seconds to load, which a classifier need not spend
    from workers.diffusion import Diffusion

    return Diffusion(seed=seed, mixed=spec.recipe.precision == "mixed", measured_draws=EPOCH_DRAWS)


def classification_for(recipe: Recipe) -> Classification:
    """Return the task of a classifier as the recipe's steps see it."""
    return Classification(mixed=recipe.precision == "mixed")


def validate_parameters(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return every fault of a state dict for this network, an empty list when it fits.

    Checks names, shapes, dtypes and finiteness, and that a moving average is there where the network has one; loads
    nothing into a network.
    """
    expected = build_model(spec).state_dict()
    faults = _average_faults(expected, tensors)
    without_average = bool(faults)
    faults += _condition_faults(expected, tensors)
    faults += [
        f"missing tensor {name!r}"
        for name in expected
        if name not in tensors and not (without_average and name.startswith((AVERAGE, UPDATES)))
    ]
    faults += [f"unexpected tensor {name!r}" for name in tensors if name not in expected]
    for name in expected:
        if name in tensors:
            faults += _tensor_faults(name, expected[name], tensors[name])
    return faults


def _average_faults(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Say once, not tensor by tensor, that the average by which images are drawn is missing or was never taken."""
    if UPDATES not in expected:
        return []
    if moving_average.is_missing(tensors):
        return [moving_average.MISSING]
    taken = tensors.get(UPDATES)
    if taken is not None and taken.shape == () and taken.dtype == torch.int64 and int(taken) < 1:
        return [f"{UPDATES!r} is {int(taken)}: an average that was never taken draws no images; it must be 1 or more"]
    return []


def _condition_faults(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Say what it means that a denoiser's table of classes is another than the dataset's."""
    wanted, given = expected.get(CONDITIONS), tensors.get(CONDITIONS)
    if UPDATES not in expected or (wanted is None and given is None):
        return []
    if wanted is None:
        return ["the weights are told a class to draw, and the model is registered with `class_condition` false"]
    if given is None:
        return ["the weights are told no class to draw; register a model for them with `class_condition` false"]
    if given.ndim != wanted.ndim or len(given) == len(wanted):
        return []
    # one row beside the classes is for none
    return [f"the weights are for {len(given) - 1} classes to draw, and the dataset has {len(wanted) - 1}"]


def _tensor_faults(name: str, expected: Tensor, given: Tensor) -> list[str]:
    faults = []
    if given.shape != expected.shape:
        faults.append(f"{name!r} has shape {tuple(given.shape)}, expected {tuple(expected.shape)}")
    if given.dtype != expected.dtype:
        faults.append(f"{name!r} has dtype {given.dtype}, expected {expected.dtype}")
    if given.is_floating_point() and not bool(torch.isfinite(given).all()):
        faults.append(f"{name!r} holds values that are not finite")
    if name.endswith("running_var") and given.is_floating_point() and bool((given < 0).any()):
        faults.append(f"{name!r} holds negative variances")
    return faults


def train_original(
    spec: ModelSpec,
    train_set: LabelledSet,
    *,
    device: torch.device | str = "cpu",
    positions: Tensor | None = None,
    progress: Progress = no_progress,
    journal: Journal = NO_JOURNAL,
) -> Trained:
    """Train a fresh network by the recipe on `device`.

    `positions`, int64 (n,), are where the samples stand in their dataset. With `recipe.sisa` they are needed, and the
    checkpoints of the shards come with the model. Goes on where `journal` has kept it.
    Raises workers.training.TrainingError when the loss stops being finite or no shard holds enough samples,
    NotPlacedError without positions.
    """
    started, seed = time.perf_counter(), spec.recipe.seed
    with deterministic(seed):
        model = placed(build_model(spec), device)
        samples = train_set.to(device)
        if isinstance(model, Ensemble):
            found, prepared = _train_in_shards(model, samples, spec.recipe, positions, progress, journal)
        else:
            found, prepared = _train_plainly(model, samples, spec, progress, journal), {}
        facts = {
            "seed": seed,
            "samples": len(train_set),
            **found,
            "environment": environment(device),
            "seconds": journal.seconds_before + time.perf_counter() - started,
            "resumed": resumed_part(journal),
        }
    return Trained(model=model, facts=facts, prepared=prepared)


def _train_plainly(
    model: nn.Module, samples: LabelledSet, spec: ModelSpec, progress: Progress, journal: Journal
) -> dict[str, Any]:
    history = train(
        model,
        samples,
        spec.recipe,
        task=task_for(spec, spec.recipe.seed),
        generator=generator_for(spec.recipe.seed),
        progress=progress,
        keeper=journal.part("train", last=True),
    )
    return {
        "epochs": len(history.epoch_losses),
        "epoch_losses": list(history.epoch_losses),
        "final_loss": history.epoch_losses[-1],
    }


def _train_in_shards(
    model: Ensemble,
    samples: LabelledSet,
    recipe: Recipe,
    positions: Tensor | None,
    progress: Progress,
    journal: Journal,
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    if positions is None:
        raise NotPlacedError("a recipe with `sisa` needs the samples' positions in their dataset")
    training = train_sharded(
        model,
        samples,
        recipe,
        positions=positions,
        seed=recipe.seed,
        task=classification_for(recipe),
        progress=progress,
        journal=journal,
    )
    return {
        "epochs": len(training.epochs),
        "epoch_losses": [epoch.loss for epoch in training.epochs],
        "final_loss": training.final_loss,
        "sample_passes": training.sample_passes,
    }, kept(training.checkpoints, seed=recipe.seed, positions=positions)


def erase(
    spec: ModelSpec,
    parent: nn.Module,
    unlearning_splits: UnlearningSplits,
    evaluation_splits: EvaluationSplits,
    *,
    method: str,
    config: MethodConfig | None = None,
    seed: int,
    bar: Bar | None = None,
    max_accuracy_drop: float = 0.02,
    groups: Mapping[str, Tensor] | None = None,
    training_seconds: float | None = None,
    progress: Progress = no_progress,
    plot: Callable[[PlotData], None] | None = None,
    references: PlacedReferences | None = None,
    earlier: Sequence[EarlierSet] = (),
    retrained: nn.Module | None = None,
    prepared: Mapping[str, Mapping[str, Tensor]] | None = None,
    keep: Callable[[Mapping[str, Mapping[str, Tensor]]], None] | None = None,
    journal: Journal = NO_JOURNAL,
    extractor: Extractor | Absent = NOT_NAMED,
) -> tuple[nn.Module, dict[str, Any]]:
    """Unlearn the forget set and measure the result; return the new model and the report.

    The parent is put in eval mode and not changed otherwise; all sets must lie on its device. `config` None
    means the method's defaults; `bar` None means that nothing is judged. `groups` maps a request's name to
    positions in the forget set; `plot` is given what the plots are drawn from; `retrained` is only measured;
    `extractor` is what FID of a generation model is taken with;
    `keep` is given what the method left for later requests on the new model, nothing if it left none. What an exact
    method trains goes on where `journal` has kept it.
    Raises UnknownMethodError, TypeError for another method's config, InvalidSplitsError for a label that the network
    has no class for, UnlearningError when a guard leaves no model to return, when no weight moved, or when the method
    cannot work here: the selection pool it chooses by is empty, a class it needs samples of is emptied, or the
    original's weights, which all but exact methods start from, are not finite.
    """
    config = _checked(method, config, spec.task)
    started = time.perf_counter()
    with deterministic(seed):
        result = unlearn(
            spec,
            parent,
            unlearning_splits,
            config,
            method=method,
            seed=seed,
            max_accuracy_drop=max_accuracy_drop,
            progress=progress,
            prepared=prepared,
            journal=journal,
        )
        progress(EVALUATE, 0, 1)
        how: dict[str, Any] = {
            "parent": parent,
            "unlearned": result.model,
            "retrained": retrained,
            "splits": evaluation_splits,
            "seed": seed,
            "groups": groups,
            "progress": progress,
            "plot": plot,
            "earlier": earlier,
        }
        if spec.task == TaskName.GENERATION:
            measured = evaluate_generation(num_classes=spec.num_classes, extractor=extractor, **how)
        else:
            measured = evaluate(task=Classification(), references=references, **how)
        where = environment(device_of(parent))
    if keep is not None:
        keep(result.prepared)
    return result.model, {
        "task": spec.task.value,
        **method_part(method, config, seed, result),
        **measured,
        "gate": gate_part(bar, method, measured, evaluation_splits, chance=1 / spec.num_classes),
        "environment": where,
        "seconds": seconds_part(
            result.seconds, journal.seconds_before + time.perf_counter() - started, training_seconds
        ),
        "resumed": resumed_part(journal),
    }


def _checked(method: str, config: MethodConfig | None, task: TaskName) -> MethodConfig:
    method_named(method)
    if config is None:
        config = METHODS[method].config.model_validate(METHODS[method].options_on(task, {}))
    if type(config) is not METHODS[method].config:
        raise TypeError(f"{method} takes {METHODS[method].config.__name__}, not {type(config).__name__}")
    return config


def unlearn(
    spec: ModelSpec,
    parent: nn.Module,
    splits: UnlearningSplits,
    config: MethodConfig,
    *,
    method: str,
    seed: int,
    max_accuracy_drop: float = 0.02,
    progress: Progress = no_progress,
    prepared: Mapping[str, Mapping[str, Tensor]] | None = None,
    journal: Journal = NO_JOURNAL,
) -> UnlearningResult:
    """Unlearn the forget set as `erase` does and measure nothing. To be called within `deterministic(seed)`.

    On the CPU, on as many threads, the weights are then those of `erase` bit for bit. Raises as `erase` does.
    """
    refuse_before(method, parent, splits, num_classes=spec.num_classes, task=spec.task)
    parent.eval()
    task = task_for(spec, seed)
    around = Surroundings(
        task=task,
        recipe=spec.recipe,
        build_model=lambda fresh_seed: build_model(spec, fresh_seed),
        generator=generator_for(seed),
        max_accuracy_drop=max_accuracy_drop,
        progress=progress,
        prepared=prepared or {},
        journal=journal,
    )
    original = task.started_from(parent)
    result = method_named(method)(original, splits, config, around=around)
    refuse_unmoved(original, result)
    task.finish(result.model)
    return result
