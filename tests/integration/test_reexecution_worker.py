"""A worker with a real child does chosen erasures twice: equal weights are published, and others never are."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from service import migrate
from service.evidence.reexecution import drawn
from service.lifecycle import JobKind, JobStatus
from service.own_artifacts import OwnArtifacts
from service.schemas.report_reexecution import ReexecutionOut
from service.settings import Settings
from service.store import datasets, intake, jobs, models, signing_keys
from service.store.intake import Order, Secrets
from service.store.tables import AuditEntry, Evaluation, Job, Sample, Version
from workers.bench import Bench
from workers.runner import ChildFailed, Runner
from workers.tasks import run_all

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")
NOTHING_DEMANDED: dict[str, Any] = {"privacy": []}
IMPOSSIBLE: dict[str, Any] = {"privacy": [{"metric": "accuracy", "split": "test", "at_least": 0.9999}]}


class Tampering(Runner):
    """Changes one bit of what an erasure made, before anybody has looked at it."""

    def run(self, order: dict[str, Any], **call: Any) -> dict[str, Any]:
        result = super().run(order, **call)
        if order["kind"] == "erase":
            path = Path(order["out"]) / "weights.safetensors"
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        return result


class FailingOnce(OwnArtifacts):
    """Breaks when the first file is put: the attempt ends between its draw and its publication."""

    broken = False

    def put(self, source: Path, *, sha256: str | None = None) -> str:
        if not self.broken:
            self.broken = True
            raise RuntimeError("a fault of the program")
        return super().put(source, sha256=sha256)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench with digits indexed."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("twice"), lease_seconds=30, child_idle_seconds=1e-6, device="cpu"
    )
    migrate.upgrade(settings.resolved_database_url)
    found = Bench.open(settings)
    with found.database.writing() as session:
        row = datasets.register(session, name="d", source={"source": "sklearn:digits"})
        jobs.create(session, JobKind.INDEX, dataset_id=row.id)
    run_all(found)
    yield found
    found.runner.release_idle()
    found.database.dispose()


def _trained(bench: Bench, name: str, **policy: Any) -> None:
    with bench.database.writing() as session:
        model = models.register(
            session,
            name=name,
            dataset=datasets.by_name(session, "d"),
            task="classification",
            architecture="small_cnn",
            architecture_options={"width": 4},
            recipe={"epochs": 2},
            policy={"gate": NOTHING_DEMANDED, **policy},
        )
        jobs.create(session, JobKind.TRAIN, dataset_id=model.dataset_id, model_id=model.id)
    run_all(bench)


def _erased(bench: Bench, name: str) -> Job:
    """Return the job of an erasure, once the worker has nothing left to do."""
    with bench.database.writing() as session:
        dataset = datasets.by_name(session, "d")
        live = select(Sample.sample_id).where(
            Sample.dataset_id == dataset.id, Sample.pool == "train", Sample.state == "live"
        )
        order: dict[str, Any] = {"dataset": "d", "sample_ids": list(session.scalars(live.limit(20)))}
        order |= {"purpose": "privacy", "method": "finetune", "method_options": {"epochs": 2}, "models": [name]}
        order |= {"report_unresolved": False, "received_at": None, "principal_id": "key_test"}
        accepted = intake.accept(session, Order(**order, may_read_datasets=True), SECRETS)
        ((job, _),) = accepted.jobs
    run_all(bench)
    return _job(bench, job.id)


def _job(bench: Bench, job_id: str) -> Job:
    with bench.database.reading() as session:
        return session.get_one(Job, job_id)


def _account(bench: Bench, job: Job) -> dict[str, Any]:
    with bench.database.reading() as session:
        report: dict[str, Any] = session.get_one(Evaluation, job.evaluation_id).report
    account: dict[str, Any] = report["reexecution"]
    ReexecutionOut.model_validate(account, strict=True)
    assert report["seconds"]["reexecution"] == account.get("seconds")
    return account


def _entries(bench: Bench, job: Job, action: str) -> list[dict[str, Any]]:
    with bench.database.reading() as session:
        rows = session.scalars(
            select(AuditEntry)
            .where(AuditEntry.subject == f"job/{job.id}", AuditEntry.action == action)
            .order_by(AuditEntry.seq)
        )
        return [{"seq": row.seq, **json.loads(row.payload)} for row in rows]


def _weights_of(bench: Bench, job: Job) -> str | None:
    with bench.database.reading() as session:
        return session.scalar(select(Version.sha256).where(Version.job_id == job.id))


def test_a_chosen_erasure_is_done_twice_and_published_with_equal_weights(bench: Bench) -> None:
    _trained(bench, "all", reexecution_share=1.0)
    job = _erased(bench, "all")
    assert job.status == JobStatus.PUBLISHED, job.error
    account = _account(bench, job)
    assert (account["chosen"], account["equal"], account["bit_for_bit"]) == (True, True, True)
    assert (
        account["sha256"] == account["reexecuted_sha256"] == account["committed"]["sha256"] == _weights_of(bench, job)
    )
    assert (account["device"], account["tolerance"], account["max_relative_difference"]) == ("cpu", 0.0, 0.0)
    assert account["seconds"] > 0
    (committed,) = _entries(bench, job, "job.result_committed")
    (logged,) = _entries(bench, job, "job.reexecution_drawn")
    (done,) = _entries(bench, job, "job.reexecuted")
    (published,) = _entries(bench, job, "job.published")
    assert committed["seq"] < logged["seq"] < done["seq"] < published["seq"]
    assert committed["seq"] == account["committed"]["seq"]
    assert account["checkpoint"]["note"].splitlines()[1] == str(committed["seq"] + 1)
    assert account["draw"] == drawn(account["checkpoint"]["note"], job.id).hex() == logged["draw"]


def test_an_erasure_that_is_not_chosen_is_published_with_what_it_takes_to_draw_again(bench: Bench) -> None:
    _trained(bench, "none", reexecution_share=0.0)
    job = _erased(bench, "none")
    assert job.status == JobStatus.PUBLISHED, job.error
    account = _account(bench, job)
    assert (account["chosen"], account["share"]) == (False, 0.0)
    assert account["draw"] == drawn(account["checkpoint"]["note"], job.id).hex()
    assert "equal" not in account
    assert _entries(bench, job, "job.reexecuted") == []


def test_weights_put_in_place_of_the_methods_are_not_published(bench: Bench) -> None:
    _trained(bench, "tampered", reexecution_share=1.0)
    planted = dataclasses.replace(bench, runner=Tampering(time_limit_seconds=300, idle_seconds=0))
    try:
        job = _erased(planted, "tampered")
    finally:
        planted.runner.release_idle()
    assert job.status == JobStatus.HELD
    assert job.error is not None
    assert job.error["code"] == "reexecution_diverged"
    assert job.candidate_sha256 is None, "there is nothing that a person could approve"
    assert _weights_of(bench, job) is None
    (told,) = _entries(bench, job, "job.reexecution_diverged")
    (committed,) = _entries(bench, job, "job.result_committed")
    assert told["sha256"] == committed["sha256"] != told["reexecuted_sha256"]
    assert told["equal"] is False

    with bench.database.writing() as session:
        jobs.retry(session, session.get_one(Job, job.id))
    run_all(bench)
    job = _job(bench, job.id)
    assert job.status == JobStatus.PUBLISHED
    account = _account(bench, job)
    assert (account["equal"], account["earlier_divergences"]) == (True, 1)
    assert account["because"] == "another_result_was_committed_before"
    assert account["sha256"] == told["reexecuted_sha256"] == _weights_of(bench, job)


def test_another_result_than_the_one_committed_is_done_again_though_the_draw_spared_it(bench: Bench) -> None:
    _trained(bench, "spared", reexecution_share=0.0)
    seen: list[str] = []

    class Dying(Tampering):
        """The first attempt's worker is killed between the draw and the publication."""

        def run(self, order: dict[str, Any], **call: Any) -> dict[str, Any]:
            seen.append(order["kind"])
            return super().run(order, **call) if len(seen) == 1 else Runner.run(self, order, **call)

    runner = Dying(time_limit_seconds=300, idle_seconds=0)
    failing = FailingOnce(bench.settings.resolved_artifacts_url, bench.database)
    planted = dataclasses.replace(bench, runner=runner, artifacts=failing)
    try:
        job = _erased(planted, "spared")
    finally:
        runner.release_idle()
    assert seen == ["erase", "erase", "reexecute"]
    assert job.status == JobStatus.PUBLISHED
    account = _account(bench, job)
    assert (account["chosen"], account["equal"], account["share"]) == (True, True, 0.0)
    assert account["because"] == "another_result_was_committed_before"
    assert account["committed"]["sha256"] != account["sha256"]
    assert len(_entries(bench, job, "job.result_committed")) == 2
    assert len(_entries(bench, job, "job.reexecution_drawn")) == 1


def test_a_result_that_waits_for_approval_was_done_twice_already(bench: Bench) -> None:
    _trained(bench, "held", reexecution_share=1.0, gate=IMPOSSIBLE, ladder=["finetune"])
    job = _erased(bench, "held")
    assert job.status == JobStatus.HELD
    account = _account(bench, job)
    assert (account["chosen"], account["equal"], account["sha256"]) == (True, True, job.candidate_sha256)
    with bench.database.writing() as session:
        jobs.approve(session, session.get_one(Job, job.id), by="key_other")
    run_all(bench)
    job = _job(bench, job.id)
    assert job.status == JobStatus.PUBLISHED
    assert _weights_of(bench, job) == account["sha256"]
    assert _account(bench, job) == account
    assert len(_entries(bench, job, "job.reexecuted")) == 1


def test_a_second_execution_that_fails_is_not_published(bench: Bench) -> None:
    _trained(bench, "broken", reexecution_share=1.0)

    class LosingTheParent(Runner):
        """The parent's weights are no longer what they were when the work is done again."""

        def run(self, order: dict[str, Any], **call: Any) -> dict[str, Any]:
            changed = {"sha256": "0" * 64} if order["kind"] == "reexecute" else {}
            return super().run({**order, **changed}, **call)

    planted = dataclasses.replace(bench, runner=LosingTheParent(time_limit_seconds=300, idle_seconds=0))
    try:
        job = _erased(planted, "broken")
    finally:
        planted.runner.release_idle()
    assert job.status == JobStatus.HELD
    assert job.error is not None
    assert job.error["code"] == "reexecution_failed"
    assert "bad_checkpoint" in job.error["detail"]
    (told,) = _entries(bench, job, "job.reexecution_diverged")
    assert told["code"] == "bad_checkpoint"
    assert _weights_of(bench, job) is None


def test_a_second_execution_for_which_there_is_no_room_waits_as_any_other_work(bench: Bench) -> None:
    _trained(bench, "full", reexecution_share=1.0)

    class Full(Runner):
        def run(self, order: dict[str, Any], **call: Any) -> dict[str, Any]:
            if order["kind"] == "reexecute":
                raise ChildFailed({"code": "storage_full", "detail": "There is no room left."})
            return super().run(order, **call)

    runner = Full(time_limit_seconds=300, idle_seconds=0)
    try:
        job = _erased(dataclasses.replace(bench, runner=runner), "full")
    finally:
        runner.release_idle()
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 1)
    assert job.error is not None
    assert job.error["code"] == "storage_full"
    assert job.not_before is not None
    assert _entries(bench, job, "job.reexecution_diverged") == [], "nothing was found of the weights"
    assert len(_entries(bench, job, "job.reexecution_drawn")) == 1, "the next attempt meets the same draw"


def test_a_worker_that_cannot_sign_publishes_nothing(bench: Bench) -> None:
    _trained(bench, "unsigned", reexecution_share=0.0)
    with bench.database.writing() as session:
        signing_keys.current(session, bench.settings)
    settings = bench.settings.model_copy(update={"signing_key": SecretStr("11" * 32)})
    job = _erased(dataclasses.replace(bench, settings=settings), "unsigned")
    assert job.status == JobStatus.HELD
    assert job.error is not None
    assert job.error["code"] == "signing_key_unusable"
    assert _entries(bench, job, "job.result_committed") == []
    with bench.database.writing() as session:
        jobs.retry(session, session.get_one(Job, job.id))
    run_all(bench)
    assert _job(bench, job.id).status == JobStatus.PUBLISHED
