"""A version trained while a job was held is what the job's next attempt is compared with."""

from pathlib import Path
from typing import Any

from tests.stack import Stack, running

# No approximate method on so small a net takes so long to learn 20 samples again.
UNREACHABLE = {"metric": "relearning_delay", "split": "forget", "at_least": 199.5, "on": "value"}
POLICY = {
    "gate": {"privacy": [UNREACHABLE]},
    "small_sets": "disclose",
    "surest_within_hours": 0,
    "ladder": ["finetune"],
}


def _report(stack: Stack, job_id: str) -> Any:
    return stack.client.get(f"/v1/evaluations/{stack.job(job_id)['evaluation_id']}").raise_for_status().json()


def test_a_report_compares_with_a_retrained_version_once_there_is_one(tmp_path: Path) -> None:
    with running(tmp_path, worker=True) as stack:
        stack.register()
        stack.train(epochs=2, policy=POLICY)
        request = stack.erase(stack.ids(20), method_options={"epochs": 1})
        assert stack.completed(request["id"])["status"] == "on_hold"
        job_id = request["jobs"][0]["id"]
        alone = _report(stack, job_id)
        assert alone["retrained_metrics"] is alone["inputs"]["retrained_sha256"] is None

        # Trained now, it leaves out what an open request names.
        trained = stack.client.post("/v1/models/m/versions", json={"train": True}).json()["job"]["id"]
        assert stack.job(trained)["status"] == "published"
        stack.client.post(f"/v1/jobs/{job_id}/retry").raise_for_status()
        beside = _report(stack, job_id)
        version = stack.client.get("/v1/models/m/versions/2").json()
        assert beside["inputs"]["retrained_sha256"] == version["sha256"]
        assert beside["inputs"]["parent_sha256"] == alone["inputs"]["parent_sha256"]
        compared = {metric["name"] for metric in beside["metrics"] if metric["basis"] == "retrained"}
        assert {"avg_gap", "tow", "js_divergence", "prediction_agreement"} <= compared
        assert len(beside["retrained_metrics"]) == len(beside["parent_metrics"])
        plot = stack.client.get(f"/v1/evaluations/{beside['id']}/plots/relearning_curves.svg")
        assert plot.status_code == 200
