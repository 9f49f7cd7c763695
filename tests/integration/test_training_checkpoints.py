"""Checkpoints of trainings: named under the fence, of one order alone, gone with their use, on both databases."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from service import migrate
from service.lifecycle import JobKind, JobStatus, SampleState
from service.routes.jobs import view
from service.schemas.jobs import CheckpointErrorOut
from service.settings import Settings
from service.store import gauges, holdings, intake, jobs, models, residuals, training_checkpoints
from service.store.intake import Secrets
from service.store.jobs import Claim
from service.store.tables import AuditEntry, DeletionRequest, Job, Sample, TrainingCheckpoint
from service.store.types import now
from tests import factories
from workers import leftovers, orders, resumption, retirement
from workers.bench import Bench
from workers.heartbeat import Heartbeat
from workers.order_parts import Place
from workers.resumption import Resumption

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("kept"), database_url=url, lease_seconds=0.001)
    migrate.upgrade(settings.resolved_database_url)
    found = Bench.open(settings)
    yield found
    found.database.dispose()


@pytest.fixture
def name(bench: Bench) -> str:
    """Name a dataset and a model of the test's own, whose training is the only job to claim."""
    found = f"k{secrets.token_hex(4)}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    resumption.clear(bench)
    factories.dataset(bench, found)
    factories.model(bench, found, of=found)
    with bench.database.writing() as session:
        model = models.by_name(session, found)
        jobs.create(session, JobKind.TRAIN, dataset_id=model.dataset_id, model_id=model.id)
    return found


def _claimed(bench: Bench) -> Claim:
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert claim is not None
    return claim


def _attempt(bench: Bench, claim: Claim, folder: Path) -> tuple[Resumption, Heartbeat]:
    folder.mkdir(exist_ok=True)
    place = Place(settings=bench.settings, artifacts=bench.artifacts, out=folder)
    seen = resumption.looked_at(bench, claim)
    with bench.database.reading() as session:
        order = orders.prepare(session, session.get_one(Job, claim.job_id), place).order
    assert order is not None
    beat = Heartbeat(bench, claim)
    return Resumption(bench, claim, order, seen=seen, beat=beat), beat


def _keep(kept: Resumption, folder: Path, content: bytes, epochs: int) -> None:
    """Say what a child says that has written a file."""
    (folder / "checkpoint.safetensors").write_bytes(content)
    kept.told({"type": "checkpoint", "file": "checkpoint.safetensors", "epochs": epochs})
    assert not (folder / "checkpoint.safetensors").exists(), "the child waits until it has gone"


def _again(bench: Bench, claim: Claim) -> Claim:
    with bench.database.writing() as session:
        jobs.give_back(session, jobs.hold_lease(session, claim), max_attempts=5, reason="test")
    return _claimed(bench)


def _row(bench: Bench, claim: Claim) -> TrainingCheckpoint | None:
    with bench.database.reading() as session:
        return training_checkpoints.of_job(session, claim.job_id)


def _change_a_sample(bench: Bench, name: str, *, state: SampleState = SampleState.PENDING, pool: str = "train") -> None:
    with bench.database.writing() as session:
        session.execute(update(Sample).where(Sample.sample_id == f"{name}-{pool}-0").values(state=state))


def _reasons(bench: Bench, job_id: str) -> list[Any]:
    with bench.database.reading() as session:
        found = session.query(AuditEntry).filter_by(action="job.checkpoint_deleted", subject=f"job/{job_id}").all()
        return [json.loads(entry.payload)["reason"] for entry in found]


def test_the_newest_checkpoint_is_given_to_the_next_attempt(bench: Bench, name: str, tmp_path: Path) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    assert kept.order["checkpoints"]["before"] is None
    _keep(kept, tmp_path, b"first", 1)
    first = _row(bench, claim)
    assert first is not None
    _keep(kept, tmp_path, b"second", 2)
    row = _row(bench, claim)
    assert row is not None
    assert (row.epochs, row.fence, row.size_bytes) == (2, claim.fence, 6)
    assert bench.artifacts.size(first.sha256) is None, "what it replaced is gone"
    later = _again(bench, claim)
    kept, _ = _attempt(bench, later, tmp_path)
    before = kept.order["checkpoints"]["before"]
    assert (Path(before["path"]).read_bytes(), before["sha256"]) == (b"second", row.sha256)
    kept.told({"type": "resumed", "epochs": 2})
    with bench.database.reading() as session:
        assert training_checkpoints.resumed_from(session, claim.job_id) == [2]


def test_no_sweep_takes_a_named_checkpoint_and_a_job_that_is_over_leaves_none(
    bench: Bench, name: str, tmp_path: Path
) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"kept " + name.encode(), 1)
    row = _row(bench, claim)
    assert row is not None
    leftovers.remove_orphans(bench)
    resumption.clear(bench)
    assert bench.artifacts.size(row.sha256) is not None
    with bench.database.writing() as session:
        jobs.move(session, jobs.hold_lease(session, claim), JobStatus.FAILED, "job.failed")
    resumption.clear(bench)
    assert _row(bench, claim) is None
    assert bench.artifacts.size(row.sha256) is None
    assert _reasons(bench, claim.job_id) == ["job_over"]


@pytest.mark.parametrize("state", [SampleState.PENDING, SampleState.ERASED, SampleState.VANISHED])
def test_a_checkpoint_goes_as_soon_as_its_training_set_changed(
    bench: Bench, name: str, tmp_path: Path, state: SampleState
) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"knows " + name.encode(), 1)
    row = _row(bench, claim)
    assert row is not None
    _change_a_sample(bench, name, state=state)
    resumption.clear(bench)
    assert _row(bench, claim) is None
    assert bench.artifacts.size(row.sha256) is None
    assert _reasons(bench, claim.job_id) == ["training_set_changed"]
    _keep(kept, tmp_path, b"knows more " + name.encode(), 2)
    assert _row(bench, claim) is None, "the attempt that goes on keeps nothing more"


def test_a_sample_that_went_is_noticed_though_others_came_with_the_same_count_and_sum(
    bench: Bench, name: str, tmp_path: Path
) -> None:
    """Samples 2 and 3 were withheld and come back, 1 and 4 go: neither their number nor the sum of keys tells."""

    def withhold(numbers: tuple[int, ...], state: SampleState) -> None:
        with bench.database.writing() as session:
            named = [f"{name}-train-{number}" for number in numbers]
            session.execute(update(Sample).where(Sample.sample_id.in_(named)).values(state=state))

    withhold((2, 3), SampleState.PENDING)
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"exactly " + name.encode(), 1)
    withhold((2, 3), SampleState.LIVE)
    resumption.clear(bench)
    assert _row(bench, claim) is not None, "what came back is not in it"
    withhold((1, 4), SampleState.ERASED)
    resumption.clear(bench)
    assert _row(bench, claim) is None
    assert _reasons(bench, claim.job_id) == ["training_set_changed"]


def test_a_sample_that_came_back_just_before_the_order_was_made_is_known(
    bench: Bench, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _change_a_sample(bench, name)
    claim = _claimed(bench)
    seen = resumption.looked_at(bench, claim)
    monkeypatch.setattr(resumption, "looked_at", lambda *_: seen)
    _change_a_sample(bench, name, state=SampleState.LIVE)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"came back " + name.encode(), 1)
    assert _row(bench, claim) is not None
    _change_a_sample(bench, name)
    resumption.clear(bench)
    assert _reasons(bench, claim.job_id) == ["training_set_changed"]


def test_a_checkpoint_of_a_release_that_did_not_say_what_it_knows_goes(bench: Bench, name: str, tmp_path: Path) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"unknown " + name.encode(), 1)
    with bench.database.writing() as session:
        session.execute(update(TrainingCheckpoint).values(positions=None, training_set="40:820"))
    resumption.clear(bench)
    assert _row(bench, claim) is None
    assert _reasons(bench, claim.job_id) == ["training_set_unknown"]


def test_a_request_for_other_samples_is_not_told_of_a_checkpoint(bench: Bench, name: str, tmp_path: Path) -> None:
    """It is older than the request, and another request's sample went from it; this one's it never read."""
    factories.version(bench, name)
    claim = _claimed(bench)
    with bench.database.writing() as session:
        first = intake.accept(session, factories.order(name, "train-0"), SECRETS).request.id
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"of others " + name.encode(), 1)
    with bench.database.writing() as session:
        intake.accept(session, factories.order(name, "train-1"), SECRETS)
        session.execute(update(DeletionRequest).where(DeletionRequest.id == first).values(created_at=now()))
        key = session.query(Sample.id).filter_by(sample_id=f"{name}-train-0").scalar()
    with bench.database.writing() as session:
        holdings.note_all(session, [session.get_one(DeletionRequest, first)], {first: [key]})
    assert _state(bench, first) is None
    assert _row(bench, claim) is not None


def test_a_held_out_sample_leaves_a_training_as_it_is(bench: Bench, name: str, tmp_path: Path) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"stays " + name.encode(), 1)
    _change_a_sample(bench, name, pool="audit")
    resumption.clear(bench)
    assert _row(bench, claim) is not None


def test_a_checkpoint_of_another_order_is_not_gone_on_with(bench: Bench, name: str, tmp_path: Path) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"old " + name.encode(), 1)
    _change_a_sample(bench, name)
    kept, _ = _attempt(bench, _again(bench, claim), tmp_path)
    assert kept.order["checkpoints"]["before"] is None
    assert _row(bench, claim) is None
    assert _reasons(bench, claim.job_id) == ["another_order"]


def test_one_whose_bytes_are_gone_is_not_gone_on_with(bench: Bench, name: str, tmp_path: Path) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"lost " + name.encode(), 1)
    row = _row(bench, claim)
    assert row is not None
    bench.artifacts.purge(row.sha256)
    kept, _ = _attempt(bench, _again(bench, claim), tmp_path)
    assert kept.order["checkpoints"]["before"] is None


def test_one_that_the_child_cannot_read_is_deleted(bench: Bench, name: str, tmp_path: Path) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"damaged " + name.encode(), 1)
    kept.told({"type": "checkpoint_refused", "detail": "it is not safetensors"})
    assert _row(bench, claim) is None
    assert _reasons(bench, claim.job_id) == ["refused"]


def test_an_attempt_that_lost_its_lease_names_nothing(bench: Bench, name: str, tmp_path: Path) -> None:
    claim = _claimed(bench)
    kept, beat = _attempt(bench, claim, tmp_path)
    later = _again(bench, claim)
    newer, _ = _attempt(bench, later, tmp_path)
    _keep(newer, tmp_path, b"newer " + name.encode(), 3)
    _keep(kept, tmp_path, b"older " + name.encode(), 4)
    row = _row(bench, claim)
    assert row is not None
    assert (row.epochs, row.fence) == (3, later.fence)
    assert beat.lost.is_set(), "its child is stopped"


def test_a_store_that_refuses_costs_the_checkpoint_alone(
    bench: Bench, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, beat = _attempt(bench, _claimed(bench), tmp_path)

    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.artifacts, "put", full)
    _keep(kept, tmp_path, b"too much", 1)
    assert not beat.lost.is_set()


def test_what_could_not_be_kept_is_told_until_something_is(
    bench: Bench, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)

    def told() -> tuple[CheckpointErrorOut | None, int]:
        with bench.database.reading() as session:
            shown = view(session, session.get_one(Job, claim.job_id)).checkpoint_error
            return shown, gauges.read(session, sweep_seconds=5).checkpoints_not_kept

    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    before = told()[1]
    assert told()[0] is None
    kept.told({"type": "checkpoint_not_written", "code": "storage_full", "epochs": 1})
    with monkeypatch.context() as patched:
        patched.setattr(bench.artifacts, "put", full)
        _keep(kept, tmp_path, b"no room in the store either " + name.encode(), 2)
    shown, counted = told()
    assert shown is not None
    assert (shown.code, shown.times, counted - before) == ("storage_full", 2, 2)
    _keep(kept, tmp_path, b"there is room again " + name.encode(), 3)
    assert told() == (None, before + 2)


def test_a_completed_request_names_the_checkpoint_that_knew_its_sample(bench: Bench, name: str, tmp_path: Path) -> None:
    claim = _claimed(bench)
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"knew " + name.encode(), 1)
    row = _row(bench, claim)
    assert row is not None
    factories.version(bench, name)
    with bench.database.writing() as session:
        request_id = intake.accept(session, factories.order(name, "train-0"), SECRETS).request.id
        key = session.query(Sample.id).filter_by(sample_id=f"{name}-train-0").scalar()
    with bench.database.writing() as session:
        holdings.note_all(session, [session.get_one(DeletionRequest, request_id)], {request_id: [key]})
    assert _row(bench, claim) is None
    assert _state(bench, request_id) == "dropped"
    retirement.purge(bench)
    assert _state(bench, request_id) == "purged"
    assert bench.artifacts.size(row.sha256) is None


def test_a_checkpoint_made_since_the_request_is_none_of_its_business(bench: Bench, name: str, tmp_path: Path) -> None:
    factories.version(bench, name)
    claim = _claimed(bench)
    with bench.database.writing() as session:
        request_id = intake.accept(session, factories.order(name, "train-0"), SECRETS).request.id
    kept, _ = _attempt(bench, claim, tmp_path)
    _keep(kept, tmp_path, b"never knew " + name.encode(), 1)
    with bench.database.writing() as session:
        key = session.query(Sample.id).filter_by(sample_id=f"{name}-train-0").scalar()
        holdings.note_all(session, [session.get_one(DeletionRequest, request_id)], {request_id: [key]})
    assert _row(bench, claim) is not None
    assert _state(bench, request_id) is None


def _state(bench: Bench, request_id: str) -> str | None:
    with bench.database.reading() as session:
        found = [line for line in residuals.of_request(session, request_id) if line.kind == residuals.TRAINING]
    return found[0].state if found else None


ORDER: dict[str, Any] = {
    "kind": "erase",
    "method": "retrain",
    "config": {},
    "seed": 1,
    "device": "cpu",
    "sha256": "a" * 64,
    "spec": {"architecture": "small_cnn", "recipe": {"epochs": 2}},
    "dataset": {"source": {"source": "npz"}, "digest": "d", "roots": ["/r"], "cache": "/c", "erased": [1]},
    "train": [1, 2, 3],
    "forget_index": [0],
    "weights": "/w",
    "out": "/o",
    "audit": [9],
    "earlier": [],
}


@pytest.mark.parametrize(
    "changed",
    [
        {"config": {"seed": 2}},
        {"seed": 2},
        {"sha256": "b" * 64},
        {"method": "sisa"},
        {"device": "cuda"},
        {"spec": {"architecture": "small_cnn", "recipe": {"epochs": 3}}},
        {"dataset": {**ORDER["dataset"], "digest": "e"}},
        {"train": [1, 2, 4]},
        {"train": [1, 2]},
        {"forget_index": [1]},
        {"prepared": {"shard_checkpoints": {"path": "/p", "sha256": "c" * 64}}},
    ],
)
def test_whatever_decides_the_training_decides_the_orders_digest(changed: dict[str, Any]) -> None:
    assert resumption.order_digest({**ORDER, **changed}) != resumption.order_digest(ORDER)


def test_where_things_lie_and_what_is_measured_after_decide_nothing() -> None:
    elsewhere = {"weights": "/x", "out": "/y", "audit": [8], "earlier": [{}], "references": {"path": "/z"}}
    moved = {"dataset": {**ORDER["dataset"], "cache": "/elsewhere", "roots": [], "erased": []}}
    assert resumption.order_digest({**ORDER, **elsewhere, **moved}) == resumption.order_digest(ORDER)


@pytest.mark.parametrize(
    ("order", "kept"),
    [
        ({"kind": "train"}, True),
        ({"kind": "prepare"}, True),
        ({"kind": "erase", "method": "retrain"}, True),
        ({"kind": "erase", "method": "sisa"}, True),
        ({"kind": "erase", "method": "finetune"}, False),
        ({"kind": "index"}, False),
    ],
)
def test_trainings_are_kept_and_nothing_else(order: dict[str, Any], kept: bool) -> None:
    assert resumption.can_be_kept(order) is kept
