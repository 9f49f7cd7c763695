"""Certificates: one for each completed request, once what held its samples is gone, whoever issues it and how often."""

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event, select, update

from service import certifying, migrate
from service.app import create_app
from service.deps import Parts
from service.evidence import verify
from service.evidence.verify import Refused, TrustedKey
from service.lifecycle import JobStatus
from service.settings import Settings
from service.store import (
    approval,
    audit,
    certificates,
    dataset_roots,
    decisions,
    intake,
    jobs,
    keys,
    models,
    requests,
    signing_keys,
    versions,
)
from service.store.tables import AuditEntry, Certificate, DeletionRequest, Job, WebhookEndpoint, WebhookEvent
from service.store.types import now
from tests import certificate_cases, factories
from workers import publish, sweeper
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


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("certificates"), database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    bench = Bench.open(settings)
    app = create_app(settings)
    yield Place(bench=bench, app=app)
    app.state.parts.database.dispose()
    bench.database.dispose()


@pytest.fixture
def name(place: Place, request: pytest.FixtureRequest) -> str:
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with place.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(place.bench, found)
    return found


def model(place: Place, name: str, *, of: str | None = None) -> None:
    factories.model(place.bench, name, of=of or name)
    factories.version(place.bench, name)


def ask(place: Place, name: str, *named: str, **changes: Any) -> str:
    with place.database.writing() as session:
        request: DeletionRequest = intake.accept(
            session, factories.order(name, *named, **changes), place.parts.secrets
        ).request
        return request.id


def work(place: Place) -> bytes:
    """Publish what a worker would have for the next job, and return the new version's bytes."""
    claim = jobs.claim_next(place.database, owner="test", lease_seconds=60)
    assert claim is not None
    with place.database.reading() as session:
        job = session.get_one(Job, claim.job_id)
        parent = versions.live(session, str(job.model_id))[-1]
        named = requests.sample_keys(session, [request.id for request in requests.of_job(session, job.id)])
        forgotten = [key for key, _ in versions.trained_on(session, parent, sorted(set().union(*named.values())))]
    weights = factories.safetensors(w=[float(int(claim.job_id[-6:], 16))])
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


def purge(place: Place) -> None:
    sweeper.sweep(place.bench, lambda _: None)


def predicate(raw: bytes) -> Any:
    return json.loads(base64.b64decode(json.loads(raw)["envelopes"]["certificate"]["payload"]))["predicate"]


def test_the_certificate_comes_once_the_old_weights_are_gone_and_verifies(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0", "train-1")
    new = work(place)
    issue(place)
    assert place.certificate(request_id) is None
    early = place.get(f"/v1/deletion-requests/{request_id}/certificate")
    assert (early.status_code, early.json()["code"]) == (409, "certificate_not_ready")
    assert early.json()["request_status"] == "completed"
    assert f"model/{name}/version/1" in early.json()["waits_for"]
    purge(place)
    issue(place)
    answer = place.get(f"/v1/deletion-requests/{request_id}/certificate")
    assert answer.status_code == 200
    verdict = verify.verify(answer.content, trusted=place.trusted(), weights={"new": hashlib.sha256(new).hexdigest()})
    assert verdict.weights == [f"{name}/2"]
    found = verdict.certificate
    assert found["request"]["article"] == "17"
    assert found["forget_set"]["outcomes"]["erased"] == 2
    assert (found["dataset"]["samples_before"] - found["dataset"]["samples_after"]) == 2
    assert found["models"][0]["method"]["guarantee"] == "none"
    old = next(r for r in found["residuals"] if r["name"] == f"model/{name}/version/1")
    assert old["state"] == "purged"
    assert any(r["state"] == "not_ours_to_delete" for r in found["residuals"])
    changed = bytes([new[-1] ^ 1])
    with pytest.raises(Refused, match="none of the certificate's files"):
        verify.verify(answer.content, weights={"new": hashlib.sha256(new[:-1] + changed).hexdigest()})


@pytest.mark.parametrize("lifted", ["release", "approve"])
def test_a_request_that_was_on_hold_has_one_too(place: Place, name: str, lifted: str) -> None:
    model(place, name)
    named = [f"train-{i}" for i in range(21 if lifted == "approve" else 1)]
    with place.database.writing() as session:
        models.by_name(session, name).policy = {"approval_above_share": 0.5}
    request_id = ask(place, name, *named)
    secret = place.parts.secrets.suppression
    for _ in range(2):
        with place.database.writing() as session:
            if lifted == "release":
                decisions.hold(session, request_id, note="counsel asked", by="key_b")
                decisions.release(session, request_id, by="key_b", suppression_key=secret)
            elif requests.get(session, request_id).approved_by is None:
                approval.approve(session, request_id, by="key_b", suppression_key=secret, four_eyes=True)
    work(place)
    purge(place)
    issue(place)
    assert verify.verify(place.certificate(request_id).bundle, trusted=place.trusted()).trusted
    with place.database.reading() as session:
        about: dict[str, Any] = {"links": {"request": request_id}, "limit": 9}
        assert len(audit.find(session, actions=["request.accepted"], **about)) == 1
        assert audit.find(session, actions=["request.resumed"], **about)


@pytest.mark.parametrize("changes", [{"purpose": "bias"}, {"models": True}])
def test_bytes_that_the_request_leaves_with_another_version_are_stated_and_not_waited_for(
    place: Place, name: str, changes: dict[str, Any]
) -> None:
    model(place, name)
    twin = factories.dataset(place.bench, f"{name}-twin").name
    model(place, twin)
    with place.database.writing() as session:
        mine, other = (versions.live(session, models.by_name(session, each).id)[0] for each in (name, twin))
        other.sha256, other.content_sha256 = mine.sha256, mine.content_sha256
    request_id = ask(place, name, "train-0", **({"models": [name]} if "models" in changes else changes))
    work(place)
    purge(place)
    issue(place)
    raw = place.certificate(request_id).bundle
    assert verify.verify(raw, trusted=place.trusted()).trusted
    line = next(each for each in predicate(raw)["residuals"] if each["name"] == f"model/{name}/version/1")
    assert line["state"] == "retired"
    assert "equal bytes belong to a version" in line["done"]


def test_a_request_accepted_twice_by_an_older_log_has_one_too(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    with place.database.writing() as session:
        requests.note(session, requests.get(session, request_id), "request.accepted", {})
    work(place)
    purge(place)
    issue(place)
    assert verify.verify(place.certificate(request_id).bundle, trusted=place.trusted()).trusted


def test_a_request_of_which_the_log_tells_at_length_has_one_too(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    with place.database.writing() as session:
        [(job, _)] = requests.jobs(session, [request_id])[request_id]
        for _ in range(1000):  # as many models, each tried some times, would make
            jobs.note(session, job, "job.attempt_started", {})
    work(place)
    purge(place)
    issue(place)
    assert verify.verify(place.certificate(request_id).bundle, trusted=place.trusted()).trusted


def test_a_request_that_no_model_knew_has_a_certificate_about_its_log_entry(place: Place, name: str) -> None:
    request_id = ask(place, name, "train-0")
    issue(place)
    raw = place.certificate(request_id).bundle
    assert verify.verify(raw, trusted=place.trusted()).trusted
    assert predicate(raw)["models"] == []
    assert "by the records no version in circulation was trained on the samples" in predicate(raw)["does_not_prove"][0]


def test_what_an_earlier_version_or_another_model_knew_is_not_said_to_be_known_to_none(place: Place, name: str) -> None:
    model(place, name)
    ask(place, name, "train-0", purpose="bias")
    work(place)
    purge(place)
    model(place, f"{name}-other", of=name)
    request_id = ask(place, name, "train-0", models=[name])
    issue(place)
    said = predicate(place.certificate(request_id).bundle)["request"]["says"]
    assert "no version in circulation of the models it names was trained on the samples" in said
    assert "no model was trained" not in said


@pytest.mark.parametrize(("purpose", "models"), [("bias", None), ("privacy", True)])
def test_a_request_that_erases_no_sample_says_so(place: Place, name: str, purpose: str, models: bool | None) -> None:
    model(place, name)
    model(place, f"{name}-other", of=name)
    changes = {"purpose": purpose, "models": [name] if models else None}
    request_id = ask(place, name, "train-0", **changes)
    work(place)
    if not models:
        work(place)
    purge(place)
    issue(place)
    raw = place.certificate(request_id).bundle
    found = predicate(raw)
    assert verify.verify(raw, trusted=place.trusted()).trusted
    assert found["dataset"]["root_before"] == found["dataset"]["root_after"]
    says = "narrowed to some models" if models else "not an erasure"
    assert says in found["request"]["says"]
    assert says in found["does_not_prove"][0]
    left = {r["name"]: r["state"] for r in found["residuals"]}
    if models:
        assert left[f"model/{name}-other/version/1"] == "out_of_scope"


def test_a_request_whose_samples_others_erased_says_that_and_not_that_no_model_knew_them(
    place: Place, name: str
) -> None:
    model(place, name)
    ask(place, name, "train-0")
    work(place)
    request_id = ask(place, name, "train-0")
    purge(place)
    issue(place)
    found = predicate(place.certificate(request_id).bundle)
    assert found["models"] == []
    assert found["forget_set"]["already_erased"] == 1
    assert "the work of other requests" in found["does_not_prove"][0]
    assert "no model was trained" not in json.dumps(found)


def test_roots_follow_one_another(place: Place, name: str) -> None:
    first, second = ask(place, name, "train-0"), ask(place, name, "train-1", "audit-0")
    with place.database.reading() as session:
        one, other = (
            dataset_roots.around(session, requests.get(session, each), master_key=b"k" * 32) for each in (first, second)
        )
    assert one.after == other.before
    assert (one.samples_before, one.samples_after, other.samples_after) == (55, 54, 52)
    assert len({one.before, one.after, other.after}) == 3


def test_eight_that_issue_at_once_issue_one(place: Place, name: str) -> None:
    with place.database.writing() as session:
        key, _ = keys.create(session, name="listener", scopes=["requests:read"])
        session.add(
            WebhookEndpoint(
                id=f"listener-{name}"[:40],
                key_id=key.id,
                url="https://receiver.example",
                events=[certificates.ISSUED],
                description="",
                enabled=True,
                secret=b"s",
            )
        )
    request_id = ask(place, name, "train-0")
    start = threading.Barrier(8)

    def run() -> None:
        start.wait()
        issue(place)

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(run) for _ in range(8)]:
            each.result()
    issue(place)
    with place.database.reading() as session:
        rows = session.scalars(select(Certificate).where(Certificate.request_id == request_id)).all()
        told = [e for e in session.scalars(select(WebhookEvent)) if e.data.get("request") == request_id]
    assert len(rows) == 1
    assert len(place.entries(certificates.ISSUED, request_id)) == 1
    assert [event.type for event in told if event.type == certificates.ISSUED] == [certificates.ISSUED]


def test_a_crash_before_the_commit_leaves_nothing_and_the_next_turn_issues(
    place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(place, name, "train-0")
    keep = certificates.keep

    def crash(*given: Any) -> bool:
        keep(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(certificates, "keep", crash)
    with pytest.raises(KeyboardInterrupt):
        issue(place)
    monkeypatch.undo()
    assert place.certificate(request_id) is None
    issue(place)
    assert place.certificate(request_id) is not None
    assert len(place.entries(certificates.ISSUED, request_id)) == 1


def test_one_that_cannot_be_made_holds_no_other_up(place: Place, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = ask(place, name, "train-0"), ask(place, name, "train-1")
    make = certifying._make

    def fail(parts: Parts, request_id: str, *given: Any) -> Any:
        if request_id == bad:
            raise LookupError("the log lacks an entry")
        return make(parts, request_id, *given)

    monkeypatch.setattr(certifying, "_make", fail)
    issuer = certifying.Issuer()
    issuer(place.parts)
    assert (place.certificate(bad), place.certificate(good) is not None) == (None, True)
    monkeypatch.undo()
    issuer(place.parts)
    assert place.certificate(bad) is None, "tried again, but not at once"
    monkeypatch.setattr(time, "monotonic", lambda: time.time() + certifying.RETRY_SECONDS)
    issuer(place.parts)
    assert place.certificate(bad) is not None


def test_those_that_cannot_be_made_take_no_others_place_in_the_page(
    place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(place)
    bad, good = ask(place, name, "train-0"), ask(place, name, "train-1")
    make, page = certifying._make, certificates.without

    def fail(parts: Parts, request_id: str, *given: Any) -> Any:
        if request_id == bad:
            raise LookupError("the log lacks an entry")
        return make(parts, request_id, *given)

    monkeypatch.setattr(certifying, "_make", fail)
    monkeypatch.setattr(certificates, "without", lambda session, **given: page(session, 1, **given))
    issuer = certifying.Issuer()
    for _ in range(3):
        issuer(place.parts)
    assert (place.certificate(bad), place.certificate(good) is not None) == (None, True)
    monkeypatch.undo()
    issue(place)


def test_asked_too_early_it_says_where_the_request_stands(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    answer = place.get(f"/v1/deletion-requests/{request_id}/certificate")
    assert (answer.status_code, answer.json()["code"]) == (409, "certificate_not_ready")
    assert answer.json()["request_status"] == "accepted"
    assert len(answer.json()["waits_for"]) == 1
    assert answer.json()["waits_for"][0].endswith(f"({JobStatus.QUEUED})")


@pytest.mark.parametrize("status", ["cancelled", "denied"])
def test_what_was_not_done_has_no_certificate(place: Place, name: str, status: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    with place.database.writing() as session:
        session.execute(update(DeletionRequest).where(DeletionRequest.id == request_id).values(status=status))
    answer = place.get(f"/v1/deletion-requests/{request_id}/certificate")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_certificate")
    assert status in answer.json()["detail"]
    assert place.get("/v1/deletion-requests/req_none/certificate").status_code == 404


@pytest.mark.parametrize(
    ("scope", "status"),
    [("audit:read", 200), ("requests:read", 200), ("admin", 200), ("weights:read", 403), ("requests:write", 403)],
)
def test_it_takes_the_scope_of_the_log_or_of_requests(place: Place, name: str, scope: str, status: int) -> None:
    request_id = ask(place, name, "train-0")
    issue(place)
    for path in ("certificate", "certificate.html"):
        assert place.get(f"/v1/deletion-requests/{request_id}/{path}", scope).status_code == status
    assert place.call(f"/v1/deletion-requests/{request_id}/certificate").status_code == 401


def test_each_fetch_is_in_the_log(place: Place, name: str) -> None:
    request_id = ask(place, name, "train-0")
    issue(place)
    path = f"/v1/deletion-requests/{request_id}/certificate"
    bundle, page = place.get(path), place.get(path, accept="text/html")
    assert bundle.headers["etag"] == f'"sha256:{hashlib.sha256(bundle.content).hexdigest()}"'
    assert page.headers["content-type"].startswith("text/html")
    assert place.get(f"{path}.html").text == page.text
    assert place.get(path, accept="application/json, text/html").content == bundle.content
    forms = [json.loads(row.payload)["form"] for row in place.entries(certificates.FETCHED, request_id)]
    assert forms == ["bundle", "page", "page", "bundle"]


def test_the_schema_is_served(place: Place) -> None:
    answer = place.get("/v1/schemas/unlearning-certificate/v1", "models:read")
    assert answer.json() == verify.PREDICATE_SCHEMA
    assert place.call("/v1/schemas/unlearning-certificate/v1").status_code == 401


def test_the_answer_about_retired_weights_names_the_certificate(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    work(place)
    answer = place.get(f"/v1/models/{name}/versions/1/weights", "weights:read")
    assert answer.status_code == 410
    assert answer.json()["certificate"] == f"/v1/deletion-requests/{request_id}/certificate"


def test_what_a_worker_that_is_away_keeps_is_stated_and_not_waited_for(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    work(place)
    with place.database.reading() as session:
        request = requests.get(session, request_id)
        session.expunge(request)
        assert request.completed_at is not None
        request.completed_at -= certificates.PATIENCE + timedelta(seconds=1)
        assert certificates.waits_for(session, request) == [f"model/{name}/version/1"]
    purge(place)


def test_a_rotated_key_leaves_its_certificates_good_and_a_revoked_one_signs_none(place: Place, name: str) -> None:
    first = ask(place, name, "train-0")
    issue(place)
    old = place.trusted()
    with place.database.writing() as session:
        signing_keys.rotate(session, place.parts.settings)
    second = ask(place, name, "train-1")
    issue(place)
    new = place.trusted()
    assert old != new
    assert verify.verify(place.certificate(first).bundle, trusted=old).trusted
    assert verify.verify(place.certificate(second).bundle, trusted=new).trusted
    with pytest.raises(Refused, match="not a trusted key"):
        verify.verify(place.certificate(second).bundle, trusted=old)
    third = ask(place, name, "train-2")
    with place.database.writing() as session:
        current = signing_keys.current(session, place.parts.settings)
        signing_keys.revoke(session, current.key_id, reason="stolen")
    issue(place)
    assert place.certificate(third) is None
    with place.database.writing() as session:
        signing_keys.rotate(session, place.parts.settings)
    issue(place)
    assert verify.verify(place.certificate(third).bundle, trusted=place.trusted()).trusted


def test_nothing_in_a_certificate_names_a_sample(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0", "train-1", "audit-1")
    work(place)
    purge(place)
    issue(place)
    raw = place.certificate(request_id).bundle
    envelopes = json.loads(raw)["envelopes"].values()
    texts = [raw, *(base64.b64decode(envelope["payload"]) for envelope in envelopes)]
    assert not [
        text for text in texts for sample in ("train-0", "train-1", "audit-1") if f"{name}-{sample}".encode() in text
    ]


def test_a_turn_with_nothing_to_do_is_one_query_that_an_index_answers(place: Place, name: str) -> None:
    ask(place, name, "train-0")
    issue(place)
    asked: list[tuple[str, Any]] = []
    listen = ("before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    event.listen(place.parts.database.engine, *listen)
    issue(place)
    event.remove(place.parts.database.engine, *listen)
    asked = [call for call in asked if call[0].startswith("SELECT")]
    assert len(asked) == 1
    if place.database.engine.dialect.name == "sqlite":
        with place.database.engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked[0][0]}", asked[0][1]).all()
        assert "ix_deletion_requests_without_certificate" in str(plan)
