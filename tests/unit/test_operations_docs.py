"""docs/operations.md and docs/alerts.yml speak of the metrics there are, and of commands that exist."""

import re
from pathlib import Path

import yaml
from typer.main import get_command

from service.cli import app
from service.routes.metrics import _Store
from service.store.gauges import Attempts, Readings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "operations.md").read_text()
READINGS = Readings(
    requests_by_status={},
    overdue=0,
    due_soon=0,
    oldest_open_age=0,
    queue_by_kind={},
    oldest_queued_age_by_kind={},
    stuck_by_status={},
    workers=0,
    workers_by_state={},
    gpu_memory={},
    attempts=[Attempts(method="m", outcome="lost", count=1, seconds=1)],
    checkpoints_not_kept=0,
    verdicts={},
    unjournaled=0,
    restore_pending=False,
    undeletable=0,
    webhooks_dead=0,
    webhooks_pending=0,
    log_size=0,
    checkpoint_size=0,
    checkpoint_age=0,
)


def _metrics() -> dict[str, str]:
    """Return each metric's name as it is scraped, with its type."""
    families = list(_Store(lambda: READINGS).collect())
    return {f.name + ("_total" if f.type == "counter" else ""): f.type for f in families}


def test_the_page_lists_every_metric_and_no_other() -> None:
    listed = re.findall(r"^\| `(unlearning_\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(_metrics())


def test_every_alert_is_about_metrics_there_are_and_says_what_it_means() -> None:
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    known = _metrics()
    for rule in rules:
        named = set(re.findall(r"unlearning_\w+", rule["expr"]))
        assert named <= set(known), rule["alert"]
        assert named or "up{" in rule["expr"]
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        counted = re.findall(r"increase\((unlearning_\w+)", rule["expr"])
        assert all(known[name] == "counter" for name in counted), rule["alert"]


def test_an_alert_that_joins_a_sum_says_on_which_labels() -> None:
    """A sum has fewer labels than what it is joined to: without ``on`` nothing matches, and nobody is ever told."""
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        joined = re.split(r"\b(?:and|or|unless)\b", rule["expr"])
        sums = [bool(re.search(r"\b(sum|max|min|count|avg)\b", part)) for part in joined]
        assert len(set(sums)) == 1 or re.search(r"\b(and|or|unless) on ?\(", rule["expr"]), rule["alert"]


def test_the_page_names_only_commands_there_are() -> None:
    known = set(getattr(get_command(app), "commands", {}))
    named = set(re.findall(r"`unlearn ([a-z-]+)", PAGE)) | set(re.findall(r"^unlearn ([a-z-]+)", PAGE, re.MULTILINE))
    assert named - known == set()
    assert {"doctor", "backup", "restore", "replay", "worker-health"} <= named
