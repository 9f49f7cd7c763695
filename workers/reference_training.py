"""Train reference models on balanced halves and return their logits alone, not their weights."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from service.catalogue.recipe import Recipe
from workers.architectures.ensemble import Ensemble
from workers.classification import Classification, placed
from workers.evaluation.reference_logits import ReferenceLogits
from workers.evaluation.reference_masks import balanced_halves
from workers.pipeline import ModelSpec, build_model, classification_for
from workers.reproducibility import derived_seed, deterministic, generator_for
from workers.samples import LabelledSet
from workers.sharded_training import train_sharded
from workers.stacked_training import Copy, train_copies
from workers.stacking import StackingPlan, Way, own_random_state, plan_stacking
from workers.training import Progress, no_progress
from workers.training_state import NO_JOURNAL, Journal

PHASE = "references"
CPU_BUDGET_BYTES = 2**30
IN_SHARDS = StackingPlan(way="plain", at_once=1, reason="each is trained in shards, as the model is")


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedSamples:
    """Samples and their positions in the dataset, int64 (N,) on the CPU."""

    samples: LabelledSet
    positions: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedReferences:
    """The references' logits, how they were trained, each one's last mean training loss, and the seconds it took."""

    logits: ReferenceLogits
    plan: StackingPlan
    final_losses: tuple[float, ...]
    seconds: float


def train_references(
    spec: ModelSpec,
    pool: PlacedSamples,
    population: PlacedSamples,
    *,
    models: int = 8,
    seed: int,
    device: torch.device | str = "cpu",
    way: Way | None = None,
    budget_bytes: int | None = None,
    progress: Progress = no_progress,
    journal: Journal = NO_JOURNAL,
) -> TrainedReferences:
    """Train `models` networks by the recipe, each on its half of `pool` (train and audit samples together).

    Initialisation, halves and batches come from `seed`, not from the recipe's. Logits are kept in float32, as the
    networks return them: phi of what is kept is phi of the model, where float16 would change it by up to
    max |z| / 1024. Weights are freed once their logits are taken; `journal` alone keeps those of a training under way,
    and what was found of the models before.
    `budget_bytes` bounds what is trained at once: by default half of the free memory on CUDA. A recipe with `sisa`
    trains each reference in shards too, one after the other, whatever `way` says.
    Raises ValueError for an odd number of models, workers.training.TrainingError when a loss stops being finite.
    """
    started, task, device = time.perf_counter(), classification_for(spec.recipe), torch.device(device)
    generator = generator_for(seed)
    in_mask = balanced_halves(pool.samples.labels, models, generator=generator)
    seeds = torch.randint(2**31 - 1, (models, 2), generator=generator).tolist()
    samples, others = pool.samples.to(device), population.samples.to(device)
    pool_there = PlacedSamples(samples=samples, positions=pool.positions)
    probe = placed(build_model(spec, seeds[0][0]), device)
    with deterministic(), own_random_state(probe):
        torch.manual_seed(derived_seed(generator))  # for dropout
        plan = IN_SHARDS
        if spec.recipe.sisa is None:
            plan = plan_stacking(
                probe,
                samples,
                copies=models,
                batch_size=spec.recipe.batch_size,
                budget_bytes=_default_budget(device) if budget_bytes is None else budget_bytes,
                task=task,
                way=way,
            )
        shares: dict[int, _Share] = {}
        # equal sizes side by side, so that stacks are full
        order = sorted(range(models), key=lambda i: int(in_mask[i].sum()))
        for start in range(0, models, plan.at_once):
            members = order[start : start + plan.at_once]
            name = "references." + "-".join(map(str, members))
            found = _kept_shares(journal, name)
            if found is None:
                copies = [
                    Copy(
                        model=placed(build_model(spec, seeds[i][0]), device),
                        rows=in_mask[i].nonzero().squeeze(1),
                        generator=generator_for(seeds[i][1]),
                    )
                    for i in members
                ]
                told = _continued(progress, len(shares) * spec.recipe.epochs, models * spec.recipe.epochs)
                part = journal.within(name)
                found = _train_and_ask(
                    copies, pool_there, others, spec.recipe, task=task, plan=plan, progress=told, journal=part
                )
                del copies
                _keep_shares(journal, name, found, epochs=len(members) * spec.recipe.epochs)
            shares.update(zip(members, found, strict=True))
    each = [shares[i] for i in range(models)]
    return TrainedReferences(
        logits=ReferenceLogits(
            logits=torch.stack([share.logits for share in each]),
            in_mask=in_mask,
            positions=pool.positions,
            population=torch.stack([share.population for share in each]),
            population_positions=population.positions,
        ),
        plan=plan,
        final_losses=tuple(share.final_loss for share in each),
        seconds=journal.seconds_before + time.perf_counter() - started,
    )


def spec_digest(spec: ModelSpec) -> str:
    """Return the SHA-256 of everything a network is rebuilt and trained from."""
    parts = {
        **asdict(spec),
        "recipe": spec.recipe.model_dump(mode="json", exclude_none=True),
        "options": dict(spec.options),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Share:
    """What is kept of one reference: logits float32 on the CPU, of the pool (N, K) and the population (Z, K)."""

    logits: Tensor
    population: Tensor
    final_loss: float


def _train_and_ask(
    copies: Sequence[Copy],
    pool: PlacedSamples,
    population: LabelledSet,
    recipe: Recipe,
    *,
    task: Classification,
    plan: StackingPlan,
    progress: Progress,
    journal: Journal,
) -> list[_Share]:
    if recipe.sisa is not None:
        (one,) = copies
        losses = [_train_in_shards(one, pool, recipe, task=task, progress=progress, journal=journal)]
    else:
        histories = train_copies(
            copies,
            pool.samples,
            recipe,
            task=task,
            at_once=plan.at_once,
            progress=progress,
            phase=PHASE,
            journal=journal,
        )
        losses = [history.epoch_losses[-1] for history in histories]
    return [
        _Share(
            logits=task.predict(each.model, pool.samples).float().cpu(),
            population=task.predict(each.model, population).float().cpu(),
            final_loss=loss,
        )
        for each, loss in zip(copies, losses, strict=True)
    ]


def _train_in_shards(
    each: Copy, pool: PlacedSamples, recipe: Recipe, *, task: Classification, progress: Progress, journal: Journal
) -> float:
    """Train an ensemble on its half, every sample in the shard that it has in the model; return the last loss."""
    if not isinstance(each.model, Ensemble):
        raise TypeError("the recipe has sisa, and the network is no ensemble")
    trained = train_sharded(
        each.model,
        pool.samples.take(each.rows),
        recipe,
        positions=pool.positions[each.rows],
        seed=derived_seed(each.generator),
        task=task,
        # shards have more epochs than the recipe names, so their share of them is told
        progress=lambda phase, done, total: progress(phase, done * recipe.epochs // total, recipe.epochs),
        phase=PHASE,
        journal=journal,
    )
    return trained.final_loss


def _keep_shares(journal: Journal, name: str, shares: Sequence[_Share], *, epochs: int) -> None:
    tensors = {f"{i}.logits": share.logits for i, share in enumerate(shares)}
    tensors |= {f"{i}.population": share.population for i, share in enumerate(shares)}
    journal.finish(name, tensors, {"final_losses": [share.final_loss for share in shares]}, epochs=epochs)


def _kept_shares(journal: Journal, name: str) -> list[_Share] | None:
    found = journal.finished(name)
    if found is None:
        return None
    return [
        _Share(logits=found.tensors[f"{i}.logits"], population=found.tensors[f"{i}.population"], final_loss=loss)
        for i, loss in enumerate(found.facts["final_losses"])
    ]


def _continued(progress: Progress, before: int, total: int) -> Progress:
    return lambda phase, done, _total: progress(phase, before + done, total)


def _default_budget(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_BUDGET_BYTES
