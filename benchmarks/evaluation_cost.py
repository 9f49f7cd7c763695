"""What does the default evaluation cost beside retraining, on all 60,000 images of Fashion-MNIST?

CPU seconds on one thread: other work on the machine does not count. Retraining is taken from the original's own
training, by the share of samples that is left: the loop is the same. Evaluation is that of the original beside
itself with other weights, a fine-tuned copy, so that both models are measured in full. Needs the IDX files of
Fashion-MNIST under --root. Exits non-zero if the target is missed.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.circumstances import circumstances
from benchmarks.gate import fashion_pools
from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.evaluation.report import EvaluationSplits, evaluate
from workers.pipeline import ModelSpec, train_original
from workers.reproducibility import generator_for
from workers.training import train
from workers.unlearning.interface import UnlearningSplits

MOST_OF_RETRAINING = 0.15


def main() -> int:
    """Print the seconds and their ratio; return 1 if evaluation costs more than its share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--train", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--forget", type=float, default=0.1, help="Share of the training images.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pools = fashion_pools(given.root, given.train, given.seed)
    recipe = Recipe(seed=given.seed, epochs=given.epochs)
    spec = ModelSpec(
        architecture="small_cnn",
        options={"width": 16},
        image_shape=(1, 28, 28),
        num_classes=10,
        recipe=recipe,
    )
    count = round(given.forget * len(pools["train"]))
    chosen = torch.randperm(len(pools["train"]), generator=generator_for(given.seed))[:count]
    splits = UnlearningSplits(train=pools["train"], forget_index=chosen, selection=pools["selection"])
    started = time.process_time()
    original = train_original(spec, pools["train"]).model
    retraining = (time.process_time() - started) * len(splits.retain) / len(splits.train)
    tuned = copy.deepcopy(original)
    train(
        tuned,
        splits.retain,
        recipe.model_copy(update={"epochs": 1, "lr": recipe.lr / 2}),
        task=Classification(),
        generator=generator_for(given.seed),
    )
    sets = EvaluationSplits(retain=splits.retain, forget=splits.forget, audit=pools["audit"], test=pools["test"])
    started = time.process_time()
    report = evaluate(parent=original, unlearned=tuned, splits=sets, task=Classification(), seed=given.seed)
    evaluation = time.process_time() - started
    share = evaluation / retraining
    shown = {
        "retraining_cpu_s": round(retraining, 1),
        "evaluation_cpu_s": round(evaluation, 1),
        "share": round(share, 3),
        "wall_s": {name: round(seconds, 1) for name, seconds in report["durations"].items()},
        "forget": count,
        "relearning_steps": report["curves"].get("max_steps"),
        "targets_missed": [] if share <= MOST_OF_RETRAINING else [f"{share:.0%} of retraining"],
    }
    print(json.dumps({**shown, "circumstances": circumstances("torch")}, indent=2))
    return 1 if share > MOST_OF_RETRAINING else 0


if __name__ == "__main__":
    sys.exit(main())
