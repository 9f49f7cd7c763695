"""The parts of an erasure's report that are not measured: what was done, what it is held to, how long it took."""

from collections.abc import Mapping
from typing import Any

from service.catalogue.methods import METHODS, MethodConfig
from workers.evaluation.gate import Bar, judge
from workers.evaluation.report import EvaluationSplits
from workers.training_state import Journal
from workers.unlearning.interface import UnlearningResult


def gate_part(
    bar: Bar | None, method: str, measured: Mapping[str, Any], splits: EvaluationSplits, *, chance: float
) -> dict[str, Any]:
    if bar is None:
        return {
            "verdict": "not_evaluated",
            "sentence": "No policy was applied: the metrics are reported and nothing is judged.",
        }
    kept = splits.retain.labels if splits.retained_labels is None else splits.retained_labels
    gone = sorted(set(splits.forget.labels.tolist()) - set(kept.tolist()))
    return judge(
        bar,
        measured["metrics"],
        measured["parent_metrics"],
        exact=METHODS[method].guarantee == "exact",
        planted_leak=measured["planted_leak"],
        classes_gone=gone,
        chance=chance,
    )


def seconds_part(unlearning: float, total: float, training: float | None) -> dict[str, float | None]:
    return {
        "unlearning": unlearning,
        "evaluation": total - unlearning,
        "training": training,
        "share_of_training": unlearning / training if training else None,
    }


def resumed_part(journal: Journal) -> dict[str, Any]:
    """Return how often the training went on in another process, and how many epochs were done each time."""
    return {"times": len(journal.resumed_from), "from_epochs": list(journal.resumed_from)}


def method_part(method: str, config: MethodConfig, seed: int, result: UnlearningResult) -> dict[str, Any]:
    spec = METHODS[method]
    return {
        "method": method,
        "guarantee": spec.guarantee,
        "fidelity": spec.fidelity,
        "method_does_not_prove": spec.does_not_prove,
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "history": list(result.history),
        "selection": result.selection,
        "guard": result.verdict,
    }
