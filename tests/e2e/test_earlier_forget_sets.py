"""Requests that follow one another: what was forgotten before is attacked again, as long as it may be read."""

from pathlib import Path

import pytest

from tests.stack import running


@pytest.mark.parametrize(("days", "state"), [(30, "audited"), (0, "data_gone")])
def test_earlier_forget_sets_are_attacked_again_while_their_data_may_be_read(
    tmp_path: Path, days: int, state: str
) -> None:
    with running(tmp_path, worker=True) as stack:
        stack.register()
        stack.train(epochs=2, policy={"gate": {"privacy": []}, "audit_retention_days": days})
        reports = []
        for skip in (0, 50):
            done = stack.completed(stack.erase(stack.ids(20, skip=skip), method_options={"epochs": 1})["id"])
            assert done["status"] == "completed", done
            reports.append(stack.client.get(f"/v1/evaluations/{done['jobs'][0]['evaluation_id']}").json())
        assert reports[0]["earlier_forget_sets"] == []
        (earlier,) = reports[1]["earlier_forget_sets"]
        assert (earlier["num_samples"], earlier["state"]) == (20, state)
        assert earlier["evaluation_id"] == reports[0]["id"]
        names = [metric["name"] for metric in earlier["metrics"]]
        assert names == (["accuracy", "loss", "mia_threshold.phi.auc"] if state == "audited" else [])
