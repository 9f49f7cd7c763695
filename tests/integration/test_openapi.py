"""The OpenAPI document is true: schemathesis drives every operation of it against a populated service, all checks on.

`UNMET` is the whole list of checks that are off, each for operations and for a reason.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import factories
from tests.stack import Stack, running

SEED = 6
SECONDS = 75
NAMES = ("d", "m")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("openapi"), worker=False, **NO_LIMITS) as found:
        factories.dataset(found)
        factories.model(found)
        factories.version(found)
        yield found


NO_LIMITS = {f"rate_limit_{name}": "" for name in ("reads", "writes", "deletion_requests", "suppression_checks")}
NO_LIMITS |= {"rate_limit_downloads": "", "rate_limit_failed_authentication": "", "id_checks_per_day": "1000000000"}
NO_LIMITS |= {"webhook_allowed_hosts": "127.0.0.1", "stream_seconds": "0.2"}

POSITIVE, NEGATIVE = "positive_data_acceptance", "negative_data_rejection"
A_CURSOR = "a cursor is what an earlier answer gave; tests/unit/test_cursors.py tries others"
# operation, check that is off for it, reason
UNMET: list[tuple[str, str, str]] = [
    *(
        (operation, POSITIVE, A_CURSOR)
        for operation in (
            "list_api_keys", "list_audit_entries", "list_datasets", "list_deletion_requests", "list_downloads",
            "list_models", "list_samples", "list_versions", "list_webhook_deliveries", "list_webhooks",
            "list_withdrawals",
        )
    ),
    ("get_audit_state", POSITIVE, "it takes a model or a request, and not both"),
    ("get_audit_consistency", POSITIVE, "`from` is no larger than `to`, which no schema says"),
    ("create_api_key", POSITIVE, "scopes are those there are, and `expires_at` is still to come"),
    ("register_dataset", POSITIVE, "a path lies in an allowed folder, and each source has its own fields"),
    ("register_model", POSITIVE, "dataset, architecture and methods are those there are"),
    ("replace_policy", POSITIVE, "methods, metrics and purposes of a policy are those there are"),
    ("export_audit_log", POSITIVE, "a NUL in a URL is refused: nothing has a name with one"),
    ("create_version", POSITIVE, "of all bytes few are safetensors"),
    ("create_webhook", POSITIVE, "the URL leads to a host that may be reached, and events are those there are"),
    ("change_webhook", POSITIVE, "the URL leads to a host that may be reached, and events are those there are"),
    ("rotate_webhook_secret", POSITIVE, "a secret is 24 to 64 bytes in base64 behind its mark"),
    ("replay_webhook", POSITIVE, "`since` has passed"),
    ("create_deletion_request", POSITIVE, "the ids are in the dataset; methods and models are those there are"),
    ("preview_deletion_request", POSITIVE, "`received_at` has passed"),
    ("create_receipts", POSITIVE, "an id comes once"),
    ("check_receipt", POSITIVE, "a receipt is what the service gave"),
    ("deny_deletion_request", POSITIVE, "the reason `other` needs a note"),
    ("prepare_version", POSITIVE, "a preparation comes once"),
]  # fmt: skip


def _populated(stack: Stack) -> dict[str, list[Any]]:
    """Return values for parameters by name: of things that are there."""
    post = stack.client.post
    asked = [
        post("/v1/deletion-requests", json={"dataset": "d", "sample_ids": [f"d-train-{i}"], "method": "finetune"})
        for i in range(2)
    ]
    requests = [answer.raise_for_status().json() for answer in asked]
    webhook = post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"})
    delivery = post(f"/v1/webhooks/{webhook.json()['id']}/test").raise_for_status().json()
    key = post("/v1/api-keys", json={"name": "spare", "scopes": ["datasets:read"]}).raise_for_status().json()
    return {
        "path.request_id": [each["id"] for each in requests],
        "path.job_id": [each["jobs"][0]["id"] for each in requests],
        "path.webhook_id": [webhook.json()["id"]],
        "path.delivery_id": [delivery["id"]],
        "path.key_id": [key["id"]],
        "path.number": ["1", "latest"],
        "path.name": list(NAMES),
    }


def _configuration(stack: Stack, known: dict[str, list[Any]]) -> str:
    lines = [f"seed = {SEED}", "continue-on-failure = true", "workers = 1", "warnings = false"]
    # A loaded machine is no finding.
    lines += ["request-timeout = 120", 'suppress-health-check = ["too_slow"]']
    lines += [f'headers = {{ Authorization = "{stack.client.headers["Authorization"]}" }}']
    for name, values in known.items():
        lines += [f'[dictionaries."{name}"]', f"values = {json.dumps(values)}"]
    lines += ["[parameters]"]
    # Keys always from the list: the one that asks is among those there are, and must not be ended.
    shares = {name: 1.0 if name == "path.key_id" else 0.7 for name in known}
    lines += [f'"{name}" = {{ dictionary = "{name}", probability = {share} }}' for name, share in shares.items()]
    for phase in ("coverage", "fuzzing"):
        lines += [f"[phases.{phase}.extra-data-sources]", "responses = false"]
    lines += ["[generation]", "deterministic = true", 'database = "none"']
    for operation, check, _ in UNMET:
        lines += ["[[operations]]", f'include-operation-id = "{operation}"', f"checks.{check}.enabled = false"]
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing_that_the_document_does_not_say(stack: Stack, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(_configuration(stack, _populated(stack)))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)]
    command += ["run", f"{stack.base_url}/openapi.json", "--phases", "examples,coverage,fuzzing"]
    command += ["--max-examples", "6", "--report-har-path", str(tmp_path / "calls.har")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    _check_that_something_was_asked(tmp_path / "calls.har")
    assert stack.client.get("/v1/datasets").status_code == 200, "the key was ended on the way"
    failures = [line for line in stack.log.read_text().splitlines() if "request.failed" in line]
    assert failures == []


def _check_that_something_was_asked(calls: Path) -> None:
    """A run against nothing but 404 and 401 would find nothing either."""
    found = Counter(entry["response"]["status"] for entry in json.loads(calls.read_text())["log"]["entries"])
    assert sum(found[status] for status in (200, 201, 202, 204)) > 150, found
    assert found[422] > 500, found
    assert found[401] < 300, found
