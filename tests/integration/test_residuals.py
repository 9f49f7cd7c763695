"""The ledger of what held a request's samples: written with each move, on both databases, repaired after a crash."""

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner

from service import migrate
from service.artifacts import ArtifactStore
from service.cli import app
from service.errors import NotFound
from service.lifecycle import JobKind, JobStatus, RequestStatus, VersionState
from service.settings import Settings
from service.store import (
    audit,
    cancel,
    candidates,
    intake,
    jobs,
    models,
    references,
    requests,
    residuals,
    retirement,
    samples,
    settling,
    versions,
)
from service.store import caches as registry
from service.store.intake import Secrets
from service.store.residuals import Found
from service.store.tables import AuditEntry, Dataset, Job, Model, PreparedFile, ReferenceFile, Sample, Version
from service.store.types import now
from tests import factories
from workers import caches
from workers import retirement as purging
from workers.bench import Bench

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")


@pytest.fixture
def name(bench: Bench) -> str:
    """Name a dataset, a model and its first version of the test's own."""
    found = f"r{secrets.token_hex(4)}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    factories.model(bench, found, of=found)
    factories.version(bench, found)
    return found


def ask(bench: Bench, name: str, *ids: str, **changes: Any) -> str:
    with bench.database.writing() as session:
        return intake.accept(session, factories.order(name, *ids, **changes), SECRETS).request.id


def publish(bench: Bench, name: str, request_id: str, *, model: str = "") -> Version:
    """Have the request's job for the model end as a worker's would: a successor, the parent retired, settled."""
    found = model or name
    successor = factories.version(bench, found)
    with bench.database.writing() as session:
        row = models.by_name(session, found)
        job = next(job for job, of in requests.jobs(session, [request_id])[request_id] if of == found)
        keys = requests.sample_keys(session, [request_id])[request_id]
        trained = samples.of_train_pool(session, keys)
        version = session.get_one(Version, successor.id)
        versions.exclude(session, version, trained)
        retirement.retire_tainted(session, row, version, trained, job)
        job.status, job.finished_at = JobStatus.PUBLISHED, now()
        session.flush()
        settling.settle(session, session.merge(requests.get(session, request_id)), suppression_key=b"s" * 32)
    return successor


def ledger(bench: Bench, request_id: str) -> dict[str, Found]:
    with bench.database.reading() as session:
        return {found.artifact: found for found in residuals.of_request(session, request_id)}


def states(found: Found) -> list[str]:
    return [step.state for step in found.steps]


def test_a_retired_version_is_in_the_ledger_until_its_bytes_are_proven_gone(bench: Bench, name: str) -> None:
    request_id = ask(bench, name, "train-0", "train-1")
    publish(bench, name, request_id)
    line = ledger(bench, request_id)[f"model/{name}/version/1"]
    assert (line.kind, line.state, line.waiting) == ("version", "retired", True)
    purging.purge(bench)
    line = ledger(bench, request_id)[f"model/{name}/version/1"]
    assert (states(line), line.waiting) == (["retired", "purged"], False)
    assert line.sha256 is not None
    assert bench.artifacts.size(line.sha256) is None
    assert f"model/{name}/version/2" not in ledger(bench, request_id)


def test_bytes_that_cannot_be_deleted_keep_no_others(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factories.model(bench, f"{name}b", of=name)
    factories.version(bench, f"{name}b")
    request_id = ask(bench, name, "train-0")
    for model in (name, f"{name}b"):
        publish(bench, name, request_id, model=model)
    stuck, free = f"model/{name}/version/1", f"model/{name}b/version/1"
    refused, delete = ledger(bench, request_id)[stuck].sha256, ArtifactStore.purge

    def faulty(store: ArtifactStore, digest: str) -> bool:
        if digest == refused:
            raise PermissionError(digest)
        return delete(store, digest)

    monkeypatch.setattr(ArtifactStore, "purge", faulty)
    purging.purge(bench)
    found = ledger(bench, request_id)
    assert (found[stuck].state, found[free].state) == ("retired", "purged")
    monkeypatch.undo()
    purging.purge(bench)
    assert ledger(bench, request_id)[stuck].state == "purged"


def test_each_step_names_the_audit_entry_that_says_so(bench: Bench, name: str) -> None:
    request_id = ask(bench, name, "train-0")
    publish(bench, name, request_id)
    purging.purge(bench)
    for line in ledger(bench, request_id).values():
        for step in line.steps:
            with bench.database.reading() as session:
                entry = session.scalars(select(AuditEntry).where(AuditEntry.seq == step.seq)).one()
            assert entry.action == step.action
            if line.kind == "version":
                assert entry.subject == line.artifact


def test_quarantine_enters_the_ledger_and_leaves_it_when_the_request_is_cancelled(bench: Bench, name: str) -> None:
    with bench.database.writing() as session:
        models.replace_policy(session, models.by_name(session, name), {"stop_serving": "immediately"})
    request_id = ask(bench, name, "train-0")
    assert states(ledger(bench, request_id)[f"model/{name}/version/1"]) == ["quarantined"]
    with bench.database.writing() as session:
        cancel.cancel(session, request_id)
    line = ledger(bench, request_id)[f"model/{name}/version/1"]
    assert (states(line), line.waiting) == (["quarantined", "served_again"], False)


def test_a_version_retired_for_another_request_is_in_the_ledger_of_each_that_it_knew(bench: Bench, name: str) -> None:
    first, second = ask(bench, name, "train-0"), ask(bench, name, "train-1", method_options={"epochs": 2})
    publish(bench, name, first)
    purging.purge(bench)
    assert states(ledger(bench, second)[f"model/{name}/version/1"]) == ["retired", "purged"]
    publish(bench, name, second)
    assert set(ledger(bench, second)) >= {f"model/{name}/version/1", f"model/{name}/version/2"}
    assert f"model/{name}/version/2" not in ledger(bench, first), "it was made without the sample"


def test_a_version_beside_the_parent_that_knows_another_sample_of_the_request_is_retired_too(
    bench: Bench, name: str
) -> None:
    other = factories.version(bench, name)
    with bench.database.writing() as session:
        keys = _keys(session, name, "train-0", "train-1")
        versions.exclude(session, session.get_one(Version, other.id), keys[:1])
        first = versions.get(session, models.by_name(session, name), 1)
        versions.exclude(session, first, keys[1:])
    request_id = ask(bench, name, "train-0", "train-1")
    with bench.database.writing() as session:
        row = models.by_name(session, name)
        ((job, _),) = requests.jobs(session, [request_id])[request_id]
        found = versions.newest_trained_on(session, row.id, keys)
        assert found is not None
        assert found[0].id == other.id
        retirement.retire_tainted(session, row, found[0], [key for key, _ in found[1]], job)
        assert versions.get(session, row, 1).state == VersionState.RETIRED


def _keys(session: Any, name: str, *ids: str) -> list[int]:
    return [session.scalars(select(Sample.id).where(Sample.sample_id == f"{name}-{each}")).one() for each in ids]


def test_a_partial_request_says_what_it_did_not_reach(bench: Bench, name: str) -> None:
    factories.model(bench, name + "b", of=name)
    factories.version(bench, name + "b")
    request_id = ask(bench, name, "train-0", models=[name])
    publish(bench, name, request_id)
    lines = ledger(bench, request_id)
    beside = lines[f"model/{name}b/version/1"]
    assert (states(beside), beside.waiting) == (["out_of_scope"], False)
    assert lines[f"dataset/{name}/source"].state == "not_ours_to_delete"


def test_the_source_is_named_as_not_ours_to_delete(bench: Bench, name: str) -> None:
    request_id = ask(bench, name, "audit-0")
    line = ledger(bench, request_id)[f"dataset/{name}/source"]
    assert (line.kind, line.state, line.waiting, line.sha256) == ("source", "not_ours_to_delete", False, "0" * 64)


def test_what_was_prepared_of_a_version_goes_with_it(bench: Bench, name: str) -> None:
    digest = _store(bench)
    with bench.database.writing() as session:
        version = versions.get(session, models.by_name(session, name), 1)
        session.add(PreparedFile(version_id=version.id, name="importance_loss", sha256=digest, size_bytes=64,
                                 samples=40, seconds=1.0, job_id="job_x"))  # fmt: skip
    request_id = ask(bench, name, "train-0")
    publish(bench, name, request_id)
    purging.purge(bench)
    line = ledger(bench, request_id)[f"model/{name}/version/1/prepared/importance_loss"]
    assert (states(line), line.sha256, bench.artifacts.size(digest)) == (["retired", "purged"], digest, None)


@pytest.mark.parametrize("ends", ["retried", "purged"])
def test_a_held_candidate_is_purged_when_nobody_can_approve_it_any_more(bench: Bench, name: str, ends: str) -> None:
    request_id, digest = ask(bench, name, "train-0"), _store(bench)
    with bench.database.writing() as session:
        ((job, _),) = requests.jobs(session, [request_id])[request_id]
        job.status, job.parent_id = JobStatus.HELD, versions.get(session, models.by_name(session, name), 1).id
        candidates.keep(session, job, sha256=digest, size=64)
    assert ledger(bench, request_id)[f"job/{job.id}/candidate"].state == "held"
    with bench.database.writing() as session:
        if ends == "retried":
            jobs.retry(session, jobs.get(session, job.id))
        else:
            versions.move(session, versions.get(session, models.by_name(session, name), 1), VersionState.RETIRED)
    purging.purge(bench)
    line = ledger(bench, request_id)[f"job/{job.id}/candidate"]
    expected = ["held", "dropped", "purged"] if ends == "retried" else ["held", "purged"]
    assert (states(line), line.waiting, bench.artifacts.size(digest)) == (expected, False, None)


def test_bytes_that_something_else_names_are_not_called_purged_until_they_are(bench: Bench, name: str) -> None:
    factories.model(bench, name + "b", of=name)
    request_id = ask(bench, name, "train-0", models=[name])
    with bench.database.writing() as session:
        first = versions.get(session, models.by_name(session, name), 1)
        twin = versions.create(session, models.by_name(session, name + "b"), state=VersionState.ACTIVE, role="original",
                               origin="uploaded", sha256=first.sha256, size_bytes=4096)  # fmt: skip
    publish(bench, name, request_id)
    purging.purge(bench)
    assert ledger(bench, request_id)[f"model/{name}/version/1"].state == "retired"
    assert bench.artifacts.size(first.sha256) == 4096
    with bench.database.writing() as session:
        versions.move(session, session.get_one(Version, twin.id), VersionState.RETIRED)
    purging.purge(bench)
    purging.purge(bench)
    assert ledger(bench, request_id)[f"model/{name}/version/1"].state == "purged"
    assert bench.artifacts.size(first.sha256) is None


def test_a_crash_between_deleting_the_bytes_and_saying_so_is_repaired_by_the_next_sweep(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(bench, name, "train-0")
    publish(bench, name, request_id)
    line = ledger(bench, request_id)[f"model/{name}/version/1"]

    def dies(*_: Any, **__: Any) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(versions, "move", dies)
        with pytest.raises(RuntimeError, match="power"):
            purging.purge(bench)
    assert bench.artifacts.size(str(line.sha256)) is None
    assert ledger(bench, request_id)[f"model/{name}/version/1"].state == "retired"
    purging.purge(bench)
    assert ledger(bench, request_id)[f"model/{name}/version/1"].state == "purged"
    with bench.database.reading() as session:
        (entry,) = audit.find(session, links={"version": f"{name}/1"}, actions=["version.purged"])
    assert '"bytes_absent":true' in entry.payload
    assert '"bytes_before":null' in entry.payload


def test_trimmed_reference_logits_are_purged_and_the_ledger_follows(bench: Bench, name: str) -> None:
    old, new = _store(bench), _store(bench)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        session.add(ReferenceFile(model_id=model.id, sha256=old, models=2, rows=9, job_id="job_x", made_at=now()))
    request_id = ask(bench, name, "audit-0")
    assert ledger(bench, request_id)[f"model/{name}/reference-logits"].state == "held"
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        job = references.ask_for(session, model, JobKind.TRIM)
        references.record(session, job, sha256=new, models=2, rows=8)
    purging.purge(bench)
    line = ledger(bench, request_id)[f"model/{name}/reference-logits"]
    assert (states(line), line.sha256, line.waiting) == (["held", "trimmed", "purged"], old, False)
    assert (bench.artifacts.size(old), bench.artifacts.size(new)) == (None, 64)


def test_logits_whose_retention_is_not_over_stay_in_the_ledger_under_their_new_digest(bench: Bench, name: str) -> None:
    old, new = _store(bench), _store(bench)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        models.replace_policy(session, model, {"audit_retention_days": 30})
        session.add(ReferenceFile(model_id=model.id, sha256=old, models=2, rows=9, job_id="job_x", made_at=now()))
    request_id = ask(bench, name, "audit-0")
    with bench.database.writing() as session:
        job = references.ask_for(session, models.by_name(session, name), JobKind.TRIM)
        references.record(session, job, sha256=new, models=2, rows=8, made_at=now())
    purging.purge(bench)
    with bench.database.reading() as session:
        found = {line.sha256: line for line in residuals.of_request(session, request_id)}
    assert states(found[old]) == ["held", "replaced", "purged"]
    assert (states(found[new]), found[new].waiting) == (["held"], True)


def test_an_erased_image_is_zeros_in_the_cache_and_the_ledger_says_so(bench: Bench, name: str) -> None:
    folder = _cache(bench, name)
    request_id = ask(bench, name, "audit-0", "selection-1")
    artifact = _artifact(bench, name)
    assert ledger(bench, request_id)[artifact].state == "held"
    caches.clean(bench)
    images = np.load(folder / "images.npy", allow_pickle=False)
    erased = _positions(bench, name)
    assert len(erased) == 2
    assert not images[erased].any()
    assert np.delete(images, erased, axis=0).all()
    line = ledger(bench, request_id)[artifact]
    assert (states(line), line.waiting) == (["held", "overwritten"], False)


def test_a_cache_that_is_gone_is_said_to_be_absent(bench: Bench, name: str) -> None:
    folder = _cache(bench, name)
    request_id = ask(bench, name, "audit-0")
    (folder / "images.npy").unlink()
    folder.rmdir()
    caches.clean(bench)
    assert states(ledger(bench, request_id)[_artifact(bench, name)]) == ["held", "absent"]


def test_the_cache_of_another_machine_waits_for_that_machine(bench: Bench, name: str, tmp_path: Path) -> None:
    _cache(bench, name)
    with bench.database.writing() as session:
        dataset_id = models.by_name(session, name).dataset_id
        registry.note(session, place="plc_elsewhere", machine="other", dataset_id=dataset_id)
    request_id = ask(bench, name, "audit-0")
    caches.clean(bench)
    assert ledger(bench, request_id)[f"cache/plc_elsewhere/dataset/{name}"].waiting
    assert not ledger(bench, request_id)[_artifact(bench, name)].waiting


def test_a_disk_that_is_declared_lost_is_said_to_be_so_by_a_person(bench: Bench, name: str) -> None:
    place = f"plc_{name}"
    with bench.database.writing() as session:
        registry.note(session, place=place, machine="other", dataset_id=models.by_name(session, name).dataset_id)
    request_id = ask(bench, name, "audit-0")
    with bench.database.writing() as session:
        assert registry.declare_lost(session, place, reason=registry.Loss.DESTROYED) == 1
    line = ledger(bench, request_id)[f"cache/{place}/dataset/{name}"]
    assert (states(line), line.waiting) == (["held", "declared_lost"], False)
    with bench.database.reading() as session:
        entry = session.get_one(AuditEntry, line.steps[-1].seq)
    assert entry.action == "cache.declared_lost"
    assert '"reason":"destroyed"' in entry.payload
    with pytest.raises(NotFound), bench.database.writing() as session:
        registry.declare_lost(session, place, reason=registry.Loss.MISSING)


def test_the_commands_list_caches_and_declare_one_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_DATA_DIR", str(tmp_path))  # the command sets it, and it must not outlive the test
    settings = Settings(data_dir=tmp_path)
    migrate.upgrade(settings.resolved_database_url)
    bench = Bench.open(settings)
    dataset = factories.dataset(bench, "d")
    with bench.database.writing() as session:
        registry.note(session, place="plc_x", machine="other", dataset_id=dataset.id)
    bench.database.dispose()
    call = CliRunner().invoke
    where = ["--data-dir", str(tmp_path)]
    assert "plc_x\tother\td\t" in call(app, ["caches", "list", *where]).output
    assert call(app, ["caches", "lost", "plc_x", "--reason", "wiped", *where]).exit_code == 0
    assert "plc_x" not in call(app, ["caches", "list", *where]).output
    assert call(app, ["caches", "lost", "plc_x", "--reason", "wiped", *where]).exit_code == 1


def test_images_that_an_audit_may_read_stay_until_their_retention_is_over(bench: Bench, name: str) -> None:
    folder = _cache(bench, name)
    with bench.database.writing() as session:
        models.replace_policy(session, models.by_name(session, name), {"audit_retention_days": 3})
    request_id = ask(bench, name, "audit-0")
    caches.clean(bench)
    assert np.load(folder / "images.npy", allow_pickle=False).all()
    assert ledger(bench, request_id)[_artifact(bench, name)].waiting
    with bench.database.writing() as session:
        requests.get(session, request_id).completed_at = now() - timedelta(days=3, hours=1)
    caches.clean(bench)
    assert not np.load(folder / "images.npy", allow_pickle=False)[_positions(bench, name)].any()
    assert not ledger(bench, request_id)[_artifact(bench, name)].waiting


def test_a_request_for_another_purpose_leaves_caches_and_source_out(bench: Bench, name: str) -> None:
    _cache(bench, name)
    request_id = ask(bench, name, "train-0", purpose="bias")
    publish(bench, name, request_id)
    assert set(ledger(bench, request_id)) == {f"model/{name}/version/1"}


def test_a_request_fulfilled_before_it_came_finds_nothing(bench: Bench, name: str) -> None:
    ask(bench, name, "audit-0")
    again = ask(bench, name, "audit-0")
    with bench.database.reading() as session:
        assert requests.get(session, again).status == RequestStatus.COMPLETED
    assert ledger(bench, again) == {}


def _store(bench: Bench) -> str:
    path = bench.settings.data_dir / "stored"
    path.write_bytes(secrets.token_bytes(64))
    return bench.artifacts.put(path)


def _cache(bench: Bench, name: str) -> Path:
    """Have this machine hold decoded images of the dataset, every byte of them set."""
    with bench.database.writing() as session:
        dataset = session.get_one(Dataset, models.by_name(session, name).dataset_id)
        caches.note(session, caches.place_of(bench.settings.data_dir), dataset.id)
    folder = bench.settings.data_dir / "cache" / dataset.id
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.full((dataset.num_samples, 1, 8, 8), 7, dtype=np.uint8))
    return folder


def _artifact(bench: Bench, name: str) -> str:
    return f"cache/{caches.place_of(bench.settings.data_dir)}/dataset/{name}"


def _positions(bench: Bench, name: str) -> list[int]:
    with bench.database.reading() as session:
        dataset_id = session.scalars(select(Model.dataset_id).where(Model.name == name)).one()
        rows = session.scalars(select(Sample.position).where(Sample.dataset_id == dataset_id, Sample.state == "erased"))
        return sorted(rows)
