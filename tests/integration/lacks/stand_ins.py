"""Jobs whose child answers as it is told, and what became of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import select

from service.lifecycle import JobKind
from service.store import intake, jobs, models
from service.store.intake import Secrets
from service.store.tables import AuditEntry, Job, Version
from tests import factories
from workers.bench import Bench
from workers.runner import ChildFailed, Runner

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")


class Answering(Runner):
    """A child that answers at once as told, having written weights."""

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__(time_limit_seconds=1, idle_seconds=1)
        self.answer = answer

    def run(self, order: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self.answer(order)


def trained(order: dict[str, Any]) -> dict[str, Any]:
    (Path(order["out"]) / "weights.safetensors").write_bytes(f"weights {order['out']}".encode())
    return {"info": {"seconds": 1.0}}


def failing(code: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise ChildFailed({"code": code, "detail": "The storage has no room left."})

    return answer


def queue_training(bench: Bench, name: str) -> str:
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        return jobs.create(session, JobKind.TRAIN, dataset_id=model.dataset_id, model_id=model.id).id


def queue_erasure(bench: Bench, name: str, method: str) -> tuple[str, str]:
    with bench.database.writing() as session:
        accepted = intake.accept(session, factories.order(name, "train-0", method=method), SECRETS)
        return accepted.request.id, accepted.jobs[0][0].id


def read_job(bench: Bench, job_id: str) -> Job:
    with bench.database.reading() as session:
        return session.get_one(Job, job_id)


def actions_of(bench: Bench, job_id: str) -> list[str]:
    with bench.database.reading() as session:
        rows = select(AuditEntry.action).where(AuditEntry.subject == f"job/{job_id}").order_by(AuditEntry.seq)
        return list(session.scalars(rows))


def answering(bench: Bench, answer: Callable[[dict[str, Any]], dict[str, Any]], **settings: Any) -> Bench:
    return replace(bench, runner=Answering(answer), settings=bench.settings.model_copy(update=settings))


def count_versions(bench: Bench, name: str) -> int:
    with bench.database.reading() as session:
        model = models.by_name(session, name)
        return len(session.scalars(select(Version).where(Version.model_id == model.id)).all())
