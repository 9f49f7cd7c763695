"""Does SCRUB+R with its defaults unlearn 90 random training samples of scikit-learn's digits, on every seed?

Prints one row per seed and exits non-zero if any seed misses a criterion. `--plant nothing` puts an exact copy
of the original model in the method's place: then every seed must miss. No retrained model is used.
"""

import argparse
import copy
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.circumstances import circumstances
from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.data import read
from workers.data.pools import cut
from workers.evaluation.report import EvaluationSplits, evaluate
from workers.pipeline import ModelSpec, erase, train_original
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning.interface import UnlearningError, UnlearningSplits

FORGET = 90
MIN_DELAY_SHARE, MIN_LOSS_SHARE, MAX_ACCURACY_DROP = 0.5, 0.5, 0.02


@dataclass(frozen=True, kw_only=True)
class Row:
    """One seed's figures. Losses in nats, delays in steps, drop a share; f forget, u unseen, 0 the parent."""

    seed: int
    delay_f0: float
    delay_f: float
    delay_u: float
    loss_f0: float
    loss_f: float
    loss_u0: float
    loss_u: float
    drop: float
    ratio: float | None
    epoch: int
    training_s: float
    unlearning_s: float
    missed: tuple[str, ...] = ()


def main() -> int:
    """Print the rows; return 1 if a criterion is missed on any seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", choices=("scrub_r", "scrub", "finetune", "retrain"), default="scrub_r")
    parser.add_argument("--plant", choices=("nothing",))
    parser.add_argument("--json", action="store_true", help="JSON in place of the table")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        rows.append(_measure(seed, given.method, planted=given.plant is not None))
        if not given.json:
            _print_row(rows[-1], heading=len(rows) == 1)
    missed = [f"seed {row.seed}: {text}" for row in rows for text in row.missed]
    found = {"rows": [asdict(row) for row in rows], "targets_missed": missed}
    print(json.dumps({**found, "circumstances": circumstances("torch")}, indent=2) if given.json else _verdict(missed))
    return 1 if missed else 0


def _measure(seed: int, method: str, *, planted: bool) -> Row:
    pools = _pools(seed)
    spec = ModelSpec(
        architecture="small_cnn",
        options={"width": 24},
        image_shape=(1, 8, 8),
        num_classes=10,
        recipe=Recipe(seed=seed),
    )
    done = train_original(spec, pools["train"])
    parent, facts = done.model, done.facts
    chosen = torch.randperm(len(pools["train"]), generator=generator_for(seed))[:FORGET]
    splits = UnlearningSplits(train=pools["train"], forget_index=chosen, selection=pools["selection"])
    sets = EvaluationSplits(
        retain=splits.retain, forget=splits.forget, audit=pools["audit"], test=pools["audit_and_population"]
    )
    if planted:
        report = _report_on_nothing(parent, sets, seed)
    else:
        try:
            report = erase(spec, parent, splits, sets, method=method, seed=seed)[1]
        except UnlearningError as error:
            report = {**_report_on_nothing(parent, sets, seed), "failure": str(error)}
    return _row(seed, report, training=facts["seconds"])


def _pools(seed: int) -> dict[str, LabelledSet]:
    """Cut the digits as the service does: a class-balanced fifth to test, a tenth of the rest to select with."""
    arrays = read({"source": "sklearn:digits"})
    names = cut(arrays, seed.to_bytes(4, "big"))[1]
    images, labels = torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels)

    def pool(*wanted: str) -> LabelledSet:
        index = torch.tensor([i for i, name in enumerate(names) if name in wanted])
        return LabelledSet(images=images[index], labels=labels[index])

    single = {name: pool(name) for name in ("train", "selection", "audit")}
    return {**single, "audit_and_population": pool("audit", "population")}


def _report_on_nothing(parent: nn.Module, sets: EvaluationSplits, seed: int) -> dict[str, Any]:
    measured = evaluate(parent=parent, unlearned=copy.deepcopy(parent), splits=sets, task=Classification(), seed=seed)
    return {**measured, "seconds": {"unlearning": 0.0}, "selection": {"epoch": 0}}


def _row(seed: int, report: Mapping[str, Any], *, training: float) -> Row:
    now, before = _figures(report["metrics"]), _figures(report["parent_metrics"])
    figures = {
        "delay_f0": before["relearning_delay", "forget"],
        "delay_f": now["relearning_delay", "forget"],
        "delay_u": now["relearning_delay", "unseen"],
        "loss_f0": before["loss", "forget"],
        "loss_f": now["loss", "forget"],
        "loss_u0": before["loss", "unseen"],
        "loss_u": now["loss", "unseen"],
        "drop": now["utility_drop", "test"],
    }
    failure = [report["failure"]] if "failure" in report else []
    return Row(
        seed=seed,
        **figures,
        ratio=now["relearning_ratio", None],
        epoch=report["selection"]["epoch"],
        training_s=training,
        unlearning_s=report["seconds"]["unlearning"],
        missed=(*failure, *_missed(figures)),
    )


def _figures(metrics: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str | None], Any]:
    return {(metric["name"], metric.get("split")): metric["value"] for metric in metrics}


def _missed(x: Mapping[str, float]) -> list[str]:
    half_way = x["loss_f0"] + MIN_LOSS_SHARE * (x["loss_u0"] - x["loss_f0"])
    checks = {
        "the original relearns the forget set in 0 steps": x["delay_f0"] == 0,
        "the unlearned model needs more than 0": x["delay_f"] > 0,
        "and at least half of what unseen controls need": x["delay_f"] >= MIN_DELAY_SHARE * x["delay_u"],
        "the forget loss moved half way to the controls' under the original": x["loss_f"] >= half_way,
        f"test accuracy fell by at most {MAX_ACCURACY_DROP:.0%}": x["drop"] <= MAX_ACCURACY_DROP,
    }
    return [name for name, kept in checks.items() if not kept]


COLUMNS = ("seed", "epoch", "delay_f0", "delay_f", "delay_u", "ratio", "loss_f0", "loss_f", "loss_u0", "loss_u",
           "drop", "unlearning_s", "training_s")  # fmt: skip


def _print_row(row: Row, *, heading: bool) -> None:
    if heading:
        print(" ".join(f"{name:>12}" for name in COLUMNS), "met")
    cells = [getattr(row, name) for name in COLUMNS]
    print(" ".join(f"{_cell(value):>12}" for value in cells), "no" if row.missed else "yes", flush=True)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) and value != int(value) else f"{value:g}"


def _verdict(missed: Sequence[str]) -> str:
    return "\n".join(["", *(missed or ["Every criterion was met on every seed."])])


if __name__ == "__main__":
    sys.exit(main())
