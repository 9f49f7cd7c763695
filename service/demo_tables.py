"""The demo's tables: parent beside unlearned model, and the audit trail."""

from typing import Any

from rich.table import Table

_ROWS = (
    ("accuracy", ("retain", "forget", "unseen", "test"), "{:.1%}"),
    ("loss", ("retain", "forget", "unseen", "test"), "{:.3f}"),
    ("mia_threshold.phi.auc", (None,), "{:.3f}"),
    ("relearning_delay", ("forget", "unseen"), "{:g} steps"),
    ("relearning_ratio", (None,), "{:.2f}"),
)
_LABELS = {
    "mia_threshold.phi.auc": "membership AUC",
    "relearning_delay": "relearning delay",
    "relearning_ratio": "relearning ratio",
}


def comparison(report: dict[str, Any]) -> Table:
    """Return the table of an evaluation report."""
    table = Table("measure", "set", "parent", "unlearned", "95 % interval", "ideal")
    for name, splits, form in _ROWS:
        for split in splits:
            before, after = _find(report["parent_metrics"], name, split), _find(report["metrics"], name, split)
            table.add_row(
                _LABELS.get(name, name),
                split or "",
                _shown(before, form),
                _shown(after, form),
                _interval(after),
                _ideal(name, split, after),
            )
    seconds = report["seconds"]
    training = seconds.get("training")
    share = f" ({seconds['unlearning'] / training:.0%} of training's {training:.1f} s)" if training else ""
    table.add_section()
    table.add_row("seconds", "", "", f"{seconds['unlearning']:.1f}{share}", "", "")
    table.add_row("seconds to evaluate", "", "", f"{seconds['evaluation']:.1f}", "", "")
    return table


def audit_table(entries: list[dict[str, Any]]) -> Table:
    """Return the table of audit entries."""
    table = Table("seq", "time", "action", "subject", "leaf hash")
    for entry in entries:
        table.add_row(
            str(entry["seq"]), entry["time"][11:19], entry["action"], entry["subject"], entry["leaf_hash"][:12]
        )
    return table


def _find(metrics: list[dict[str, Any]], name: str, split: str | None) -> dict[str, Any] | None:
    return next((m for m in metrics if m["name"] == name and split in (m.get("split"), None)), None)


def _shown(metric: dict[str, Any] | None, form: str) -> str:
    if metric is None or metric["value"] is None:
        return "n/a"
    return ("≥ " if metric.get("censored") else "") + form.format(metric["value"])


def _interval(metric: dict[str, Any] | None) -> str:
    ends = (metric or {}).get("ci95")
    return f"{ends[0]:.3f}–{ends[1]:.3f}" if ends else ""


def _ideal(name: str, split: str | None, metric: dict[str, Any] | None) -> str:
    if name in ("accuracy", "loss") and split == "forget":
        return "as unseen"
    if name == "relearning_delay" and split == "forget":
        return "as unseen"
    ideal = (metric or {}).get("ideal")
    return "" if ideal is None or name in ("accuracy", "loss", "relearning_delay") else f"{ideal:g}"
