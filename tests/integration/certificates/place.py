"""A store where requests are worked on and certificates issued without a worker."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import select

from service import certifying
from service.deps import Parts
from service.evidence.verify import TrustedKey
from service.store import (
    intake,
    jobs,
    keys,
    requests,
    signing_keys,
    versions,
)
from service.store.tables import AuditEntry, Certificate, DeletionRequest, Job
from tests import certificate_cases, factories
from workers import publish
from workers.bench import Bench
from workers.order_parts import Prepared

REPORT = {**certificate_cases.report(method="finetune"), "seconds": {"unlearning": 1.0, "evaluation": 1.0}}


@dataclass
class Place:
    """A store with a bench to work at, and an application over it, where nobody sees to the duties but the tests."""

    bench: Bench
    app: FastAPI

    @property
    def parts(self) -> Parts:
        found: Parts = self.app.state.parts
        return found

    @property
    def database(self) -> Any:
        return self.bench.database

    def entries(self, action: str, request_id: str) -> list[Any]:
        with self.database.reading() as session:
            rows = session.scalars(select(AuditEntry).where(AuditEntry.action == action)).all()
        return [row for row in rows if json.loads(row.payload).get("request") == request_id]

    def certificate(self, request_id: str) -> Any:
        with self.database.reading() as session:
            return session.scalar(select(Certificate).where(Certificate.request_id == request_id))

    def key(self, *scopes: str) -> dict[str, str]:
        with self.database.writing() as session:
            return {"Authorization": f"Bearer {keys.create(session, name='t', scopes=list(scopes))[1]}"}

    def get(self, path: str, *scopes: str, **headers: str) -> httpx.Response:
        return self.call(path, {**self.key(*(scopes or ("audit:read",))), **headers})

    def call(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(ask())

    def trusted(self) -> list[TrustedKey]:
        with self.database.reading() as session:
            signer = signing_keys.current(session, self.parts.settings)
        return [TrustedKey(pin=signer.public_key)]


def model(place: Place, name: str, *, of: str | None = None) -> None:
    factories.model(place.bench, name, of=of or name)
    factories.version(place.bench, name)


def ask(place: Place, name: str, *named: str, **changes: Any) -> str:
    with place.database.writing() as session:
        request: DeletionRequest = intake.accept(
            session, factories.order(name, *named, **changes), place.parts.secrets
        ).request
        return request.id


def work(place: Place, *, more: float = 0.0) -> bytes:
    """Publish what a worker would have for the next job, and return the new version's bytes.

    ``more``: to have a job that is worked on twice come to other weights.
    """
    claim = jobs.claim_next(place.database, owner="test", lease_seconds=60)
    assert claim is not None
    with place.database.reading() as session:
        job = session.get_one(Job, claim.job_id)
        parent = versions.live(session, str(job.model_id))[-1]
        named = requests.sample_keys(session, [request.id for request in requests.of_job(session, job.id)])
        forgotten = [key for key, _ in versions.trained_on(session, parent, sorted(set().union(*named.values())))]
    weights = factories.safetensors(w=[float(int(claim.job_id[-6:], 16)), more])
    path = place.bench.settings.data_dir / "weights"
    path.write_bytes(weights)
    digest = place.bench.artifacts.put(path)
    prepared = Prepared(order={}, parent_id=parent.id, forget_keys=forgotten, excluded_keys=forgotten)
    with place.database.writing() as session:
        jobs.hold_lease(session, claim).rung = "finetune"
        secret = place.bench.suppression_key
        publish.erased(session, claim, prepared, {"report": REPORT}, (digest, len(weights)), [], secret)
    return weights


def issue(place: Place) -> None:
    """Do one turn of the duty, as a process does that has just started."""
    certifying.Issuer()(place.parts)
