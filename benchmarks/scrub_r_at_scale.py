"""SCRUB+R on 60,000 images of Fashion-MNIST, a random 10 %: how far is the forget error from that of unseen controls?

Measured on the audit pool, which the method never reads. Nothing is retrained and nothing relearned, so that it takes
minutes: `python -m benchmarks.methods --train 60000` measures all the rest. `--original` keeps the trained original for
another run. Needs the IDX files of Fashion-MNIST under --root.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.beside_retraining import TASK
from benchmarks.circumstances import circumstances
from benchmarks.gate import fashion_pools
from service.catalogue.methods import ScrubRConfig
from service.catalogue.recipe import Recipe
from workers.evaluation.forget_error import forget_error
from workers.evaluation.unseen_controls import draw_controls
from workers.pipeline import ModelSpec, build_model, train_original
from workers.reproducibility import deterministic, generator_for
from workers.samples import LabelledSet
from workers.unlearning import METHODS
from workers.unlearning.interface import Surroundings, UnlearningSplits

EPOCHS, WIDTH = 25, 16


def main() -> int:
    """Print what came of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--train", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--original", type=Path, help="Weights of the original; trained and written if not there.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pools = fashion_pools(given.root, given.train, given.seed)
    recipe = Recipe(seed=given.seed, epochs=EPOCHS)
    spec = ModelSpec(
        architecture="small_cnn", options={"width": WIDTH}, image_shape=(1, 28, 28), num_classes=10, recipe=recipe
    )
    original, training_s = _original(spec, pools["train"], given.original)
    count = len(pools["train"])
    chosen = torch.randperm(count, generator=generator_for(given.seed))[: count // 10]
    splits = UnlearningSplits(train=pools["train"], forget_index=chosen, selection=pools["selection"])
    around = Surroundings(
        task=TASK,
        recipe=recipe,
        build_model=lambda fresh: build_model(spec, fresh),
        generator=generator_for(given.seed),
    )
    started = time.process_time()
    with deterministic(given.seed):
        result = METHODS["scrub_r"](original, splits, ScrubRConfig(), around=around)
    told = {
        "seed": given.seed,
        "training_s": training_s,
        "seconds": time.process_time() - started,
        "epoch": result.selection["epoch"],
        "original": _measured(original, splits.forget, pools, seed=given.seed),
        "scrub_r": _measured(result.model, splits.forget, pools, seed=given.seed),
    }
    print(json.dumps({**told, "circumstances": circumstances("torch")}, indent=2))
    return 0


def _original(spec: ModelSpec, train: LabelledSet, path: Path | None) -> tuple[nn.Module, float | None]:
    """Return the original and how long it trained, None where it was trained before."""
    if path is not None and path.exists():
        model = build_model(spec)
        model.load_state_dict(load_file(path))
        return model.eval(), None
    started = time.process_time()
    model = train_original(spec, train, device="cpu").model
    if path is not None:
        save_file(model.state_dict(), path)
    return model, time.process_time() - started


def _measured(model: nn.Module, forget: LabelledSet, pools: dict[str, LabelledSet], *, seed: int) -> dict[str, object]:
    audit, test = pools["audit"], pools["test"]
    pairs = draw_controls(forget.labels, audit.labels, generator=generator_for(seed))
    asked, unseen = forget.take(pairs.forget), audit.take(pairs.audit)
    sides = [(TASK.predict(model, side), side.labels) for side in (asked, unseen)]
    excess = forget_error(*sides)[1]
    return {
        "test_accuracy": TASK.accuracy(TASK.predict(model, test), test.labels),
        "excess": excess.value,
        "ci95": excess.ci95,
        "pairs": len(pairs),
        **(excess.extra or {}),
    }


if __name__ == "__main__":
    sys.exit(main())
