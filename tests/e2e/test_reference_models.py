"""Reference models over HTTP: prepared, read by the next evaluation, rid of erased rows, their old bytes gone."""

from pathlib import Path

from safetensors.numpy import load_file

from service.store import retention
from service.store.tables import Dataset, Model, ReferenceFile
from tests.stack import running


def test_prepared_references_sharpen_the_report_and_lose_the_rows_of_erased_samples(tmp_path: Path) -> None:
    with running(tmp_path, worker=True) as stack:
        stack.register()
        stack.train(epochs=4, policy={"gate": {"privacy": []}, "reference_models": 4})
        answer = stack.client.post("/v1/models/m/prepare-audit")
        assert (answer.status_code, answer.json()["models"]) == (202, 4)
        job = answer.json()["job"]["id"]
        assert stack.client.post("/v1/models/m/prepare-audit").json()["job"]["id"] == job, "one job at a time"
        assert stack.job(job)["status"] == "completed"
        with stack.database.reading() as session:
            model = session.query(Model).one()
            first = session.get_one(ReferenceFile, model.id)
        before = load_file(stack.settings.data_dir / "artifacts" / _place(stack.settings.data_dir, first.sha256))
        assert before["logits"].shape[0] == 4
        assert len(before["positions"]) == first.rows

        request = stack.erase(stack.ids(30), method_options={"epochs": 1})
        done = stack.completed(request["id"])
        assert done["status"] == "completed", done
        report = stack.client.get(f"/v1/evaluations/{done['jobs'][0]['evaluation_id']}").json()
        found = {metric["name"]: metric for metric in report["metrics"]}
        assert report["references"] == 4
        for name in ("lira_offline.auc", "lira_online.auc", "rmia.offline.auc", "rmia.online.auc"):
            assert 0 <= found[name]["value"] <= 1
            assert found[name]["n"] > 0

        def trimmed() -> ReferenceFile | None:
            with stack.database.reading() as session:
                now = session.get_one(ReferenceFile, model.id)
                return now if now.sha256 != first.sha256 else None

        after = stack.until(trimmed)
        with stack.database.reading() as session:
            erased = set(retention.gone_positions(session, session.query(Dataset).one().id, days=0))
        left = load_file(stack.settings.data_dir / "artifacts" / _place(stack.settings.data_dir, after.sha256))
        assert len(erased) == 30
        assert set(left["positions"].tolist()) == set(before["positions"].tolist()) - erased


def _place(data_dir: Path, digest: str) -> Path:
    folder = data_dir / "artifacts"
    return next(path for path in folder.rglob("*") if digest in path.name).relative_to(folder)
