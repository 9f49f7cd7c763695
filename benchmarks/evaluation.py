"""How well does each attack tell the original from a retrained model on Fashion-MNIST, and what does it cost?

For several sizes of the forget set and numbers of reference models: AUC and TPR at 1 % FPR of every attack on the
original, which saw the forget set, and on the retrained model, which did not, and the attack's seconds. One seed: a
table to choose attacks by, not a study of their spread. Needs the IDX files of Fashion-MNIST under --root.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.circumstances import circumstances
from benchmarks.gate import fashion_pools
from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.evaluation.measure import BySplit, draw_pairs, measure_logits
from workers.evaluation.reference_attacks import PlacedReferences, reference_attacks
from workers.evaluation.reference_logits import ReferenceLogits
from workers.evaluation.result import MetricResult
from workers.pipeline import ModelSpec, train_original
from workers.reference_training import PlacedSamples, train_references
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning.interface import UnlearningSplits

ATTACKS = ("mia_", "lira_", "rmia.")


def main() -> int:
    """Print a row per attack, size and number of references."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--forget", type=int, nargs="+", default=[150, 300, 600])
    parser.add_argument("--references", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pools = fashion_pools(given.root, given.train, given.seed)
    spec = ModelSpec(
        architecture="small_cnn",
        options={"width": 16},
        image_shape=(1, 28, 28),
        num_classes=10,
        recipe=Recipe(seed=given.seed, epochs=given.epochs),
    )
    done = train_original(spec, pools["train"])
    original, facts = done.model, done.facts
    prepared = {models: _references(spec, pools, models, given.seed) for models in given.references}
    references = {models: found for models, (found, _) in prepared.items()}
    for size in given.forget:
        chosen = torch.randperm(len(pools["train"]), generator=generator_for(given.seed))[:size]
        splits = UnlearningSplits(train=pools["train"], forget_index=chosen, selection=pools["selection"])
        retrained = train_original(spec, splits.retain).model
        sets = {**pools, "retain": splits.retain, "forget": splits.forget}
        logits = {
            who: {name: Classification().predict(model, sets[name]) for name in ("retain", "forget", "audit", "test")}
            for who, model in (("original", original), ("retrained", retrained))
        }
        rows = _measure(logits, sets, references, chosen, seed=given.seed)
        print("\n".join(json.dumps(row) for row in rows), flush=True)
    seconds = {models: round(cost, 1) for models, (_, cost) in prepared.items()}
    shown = {"training_s": round(facts["seconds"], 1), "references_s": seconds}
    print(json.dumps({**shown, "circumstances": circumstances("torch")}, indent=2))
    return 0


def _references(
    spec: ModelSpec, pools: Mapping[str, LabelledSet], models: int, seed: int
) -> tuple[ReferenceLogits, float]:
    """Train references on train and audit samples; positions are those in train, audit, population, end to end."""
    train, audit, population = (pools[name] for name in ("train", "audit", "population"))
    started = time.perf_counter()
    pool = LabelledSet(images=torch.cat([train.images, audit.images]), labels=torch.cat([train.labels, audit.labels]))
    count = len(pool)
    found = train_references(
        spec,
        PlacedSamples(samples=pool, positions=torch.arange(count)),
        PlacedSamples(samples=population, positions=count + torch.arange(len(population))),
        models=models,
        seed=seed,
    )
    return found.logits, time.perf_counter() - started


def _measure(
    logits: Mapping[str, BySplit],
    sets: Mapping[str, LabelledSet],
    references: Mapping[int, ReferenceLogits],
    chosen: Tensor,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    labels = {name: sets[name].labels for name in ("retain", "forget", "audit", "test")}
    draws = draw_pairs(labels, {}, generator=generator_for(seed))
    train, audit, population = (len(sets[name]) for name in ("train", "audit", "population"))
    positions = {
        "forget": chosen,
        "audit": train + torch.arange(audit),
        "test": train + torch.arange(audit + population),
        "population": train + audit + torch.arange(population),
    }
    found: dict[tuple[str, int], dict[str, MetricResult]] = {}
    for who, of_model in logits.items():
        found[who, 0] = _attacks(measure_logits(of_model, logits["original"], labels, draws, seed=seed))
        for models, theirs in references.items():
            placed = PlacedReferences(logits=theirs, positions=positions)
            found[who, models] = _attacks(reference_attacks(placed, of_model, labels, draws))
    return [
        {
            "attack": name,
            "forget": len(chosen),
            "controls": result.n,
            "references": models,
            "original": result.value,
            "retrained": found["retrained", models][name].value,
            "seconds": round(result.seconds, 4),
        }
        for (who, models), results in found.items()
        if who == "original"
        for name, result in results.items()
    ]


def _attacks(results: Sequence[MetricResult]) -> dict[str, MetricResult]:
    return {result.name: result for result in results if result.name.startswith(ATTACKS)}


if __name__ == "__main__":
    sys.exit(main())
