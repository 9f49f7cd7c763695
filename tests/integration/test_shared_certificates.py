"""Requests that share a job: the certificate of each costs as much as if it had been alone, and tells of no other."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic import command
from sqlalchemy import event, select

from service import certifying, migrate
from service.app import create_app
from service.evidence import verify
from service.evidence.verify import Refused, TrustedKey
from service.settings import Settings
from service.store import audit, checkpoints, dataset_roots, intake, jobs, keys, requests, signing_keys, versions
from service.store.intake import Secrets
from service.store.tables import Base, Certificate, Evaluation, Job
from tests import certificate_cases, factories
from tests.migrated import bring_to_head
from workers import publish, sweeper
from workers.bench import Bench
from workers.order_parts import Prepared

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC", approval_above_share=1.0)
FEW, MANY = 2, 60


@dataclass
class Place:
    bench: Bench
    app: Any
    asked: dict[str, list[str]] = field(default_factory=dict)

    @property
    def trusted(self) -> list[TrustedKey]:
        with self.bench.database.reading() as session:
            return [TrustedKey(pin=signing_keys.current(session, self.bench.settings).public_key)]

    def get(self, path: str) -> httpx.Response:
        with self.bench.database.writing() as session:
            key = keys.create(session, name="t", scopes=["requests:read"])[1]

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.get(path, headers={"Authorization": f"Bearer {key}"})

        return asyncio.run(ask())

    def bundles(self, name: str) -> dict[str, bytes]:
        with self.bench.database.reading() as session:
            rows = session.scalars(select(Certificate).where(Certificate.request_id.in_(self.asked[name])))
            return {row.request_id: row.bundle for row in rows}

    def evaluation(self, name: str) -> tuple[str, str]:
        """Return the id of the one evaluation, and the digest that the log has of its report."""
        with self.bench.database.reading() as session:
            [(job, _)] = requests.jobs(session, self.asked[name][:1])[self.asked[name][0]]
            [entry] = audit.find(session, actions=["evaluation.recorded"], links={"job": job.id})
            return str(job.evaluation_id), json.loads(entry.payload)["report_sha256"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("shared"), database_url=url)
    bring_to_head(settings.resolved_database_url)
    found = Place(Bench.open(settings), create_app(settings))
    for name, count in (("few", FEW), ("many", MANY)):
        _work_for(found, name, count)
    yield found
    found.app.state.parts.database.dispose()
    found.bench.database.dispose()


def _work_for(place: Place, name: str, count: int) -> None:
    """Have so many requests complete by one job, and purge what held their samples."""
    bench = place.bench
    factories.dataset(bench, name, train=2 * MANY, held_out=5)
    factories.model(bench, name, of=name)
    factories.version(bench, name)
    with bench.database.writing() as session:
        orders = [factories.order(name, f"train-{i}") for i in range(count)]
        place.asked[name] = [intake.accept(session, each, SECRETS).request.id for each in orders]
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=600)
    assert claim is not None
    _publish(bench, claim, place.asked[name])
    sweeper.sweep(bench, lambda _: None)


def _publish(bench: Bench, claim: jobs.Claim, asked: list[str]) -> None:
    with bench.database.reading() as session:
        job = session.get_one(Job, claim.job_id)
        parent = versions.live(session, str(job.model_id))[-1]
        named = requests.sample_keys_of_job(session, job.id)
        forgotten = [key for key, _ in versions.trained_on(session, parent, sorted(set().union(*named.values())))]
    path = bench.settings.data_dir / "weights"
    path.write_bytes(factories.safetensors(w=[float(len(asked))]))
    digest = bench.artifacts.put(path)
    prepared = Prepared(order={}, parent_id=parent.id, forget_keys=forgotten, excluded_keys=forgotten)
    report = certificate_cases.report(method="finetune", per_request=certificate_cases.figures(asked))
    result = {"report": {**report, "seconds": {"unlearning": 1.0, "evaluation": 1.0}}}
    with bench.database.writing() as session:
        jobs.hold_lease(session, claim).rung = "finetune"
        publish.erased(session, claim, prepared, result, (digest, path.stat().st_size), [], bench.suppression_key)


@dataclass
class Read:
    """What was asked of the database, and how much it gave."""

    statements: int = 0
    characters: int = 0


@contextmanager
def _reading(place: Place) -> Iterator[Read]:
    read, engine = Read(), place.app.state.parts.database.engine

    def statement(*_: Any) -> None:
        read.statements += 1

    def row(instance: Any, _: Any) -> None:
        read.characters += len(str({name: value for name, value in vars(instance).items() if name[0] != "_"}))

    event.listen(engine, "before_cursor_execute", statement)
    event.listen(Base, "load", row, propagate=True)
    yield read
    event.remove(engine, "before_cursor_execute", statement)
    event.remove(Base, "load", row)


def _issue_the_next(place: Place, name: str) -> Read:
    """Return what it costs to make the certificate of one request, the first of a turn."""
    parts, request_id = place.app.state.parts, next(i for i in place.asked[name] if i not in place.bundles(name))
    signed = checkpoints.fresh(parts.database, parts.settings)
    with _reading(place) as read:
        certifying.issue(parts, request_id, signed, dataset_roots.Reader())
    return read


def test_a_certificate_costs_as_much_to_make_with_sixty_requests_sharing_the_job_as_with_two(place: Place) -> None:
    few, many = _issue_the_next(place, "few"), _issue_the_next(place, "many")
    assert many.statements == few.statements
    assert many.characters <= few.characters + 2_000


def test_a_turn_reads_a_dataset_once_for_all_of_its_certificates(place: Place) -> None:
    issued = sum(len(place.bundles(name)) for name in place.asked)
    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    engine = place.app.state.parts.database.engine
    event.listen(engine, "before_cursor_execute", note)
    certifying.Issuer()(place.app.state.parts)
    event.remove(engine, "before_cursor_execute", note)
    assert sum(len(place.bundles(name)) for name in place.asked) - issued >= MANY - 1
    assert sum("FROM samples" in each and "position" in each for each in asked) == len(place.asked)


def test_each_certificate_is_verified_is_as_large_as_any_and_names_no_other_request(place: Place) -> None:
    certifying.Issuer()(place.app.state.parts)
    sizes = []
    for name in ("few", "many"):
        bundles = place.bundles(name)
        assert sorted(bundles) == sorted(place.asked[name])
        for request_id, raw in bundles.items():
            verdict = verify.verify(raw, trusted=place.trusted)
            own = verdict.certificate["models"][0]["verification"]["parts"]["own"]["figure"]
            assert own["request"] == request_id
            told = json.dumps([verdict.certificate, json.loads(raw)["log"]])
            assert not [other for other in place.asked[name] if other != request_id and other in told]
        sizes.append(max(map(len, bundles.values())))
    assert sizes[1] <= sizes[0] + 1_000


def test_roots_read_once_for_many_requests_are_those_of_each_alone(place: Place) -> None:
    reader, master_key = dataset_roots.Reader(), place.bench.settings.master_key_bytes
    with place.bench.database.reading() as session:
        asked = [requests.get(session, each) for each in place.asked["many"]]
        together = [reader.around(session, each, master_key=master_key) for each in asked]
        assert together == [dataset_roots.around(session, each, master_key=master_key) for each in asked]
    by_after = {each.after: each for each in together}
    assert len(by_after) == MANY
    assert sum(each.before in by_after for each in together) == MANY - 1  # each begins where another ended


def test_the_report_is_served_whole_or_for_one_request_with_the_same_digest(place: Place) -> None:
    evaluation, logged = place.evaluation("many")
    whole = place.get(f"/v1/evaluations/{evaluation}").json()
    assert [each["request"] for each in whole["per_request"]] == place.asked["many"]
    mine, path = place.asked["many"][7], f"/v1/evaluations/{evaluation}?request_id="
    answer = place.get(path + mine)
    assert verify.report_digest(answer.json()) == verify.report_digest(whole) == logged
    assert not [each for each in place.asked["many"] if each != mine and each in answer.text]
    verdict = verify.verify(_issued(place, mine), trusted=place.trusted, reports={"r": answer.content})
    assert verdict.reports == [evaluation]
    with pytest.raises(Refused, match="own samples"):
        verify.verify(_issued(place, place.asked["many"][8]), reports={"r": answer.content})
    stranger = place.get(path + place.asked["few"][0])
    assert (stranger.status_code, stranger.json()["code"]) == (404, "deletion_request_not_found")


def _issued(place: Place, request_id: str) -> bytes:
    certifying.Issuer()(place.app.state.parts)
    return next(raw for name in place.asked for each, raw in place.bundles(name).items() if each == request_id)


def test_a_report_of_before_there_were_parts_is_served_and_certified_as_it_was(place: Place) -> None:
    evaluation, _ = place.evaluation("few")
    with place.bench.database.writing() as session:
        old = certificate_cases.report(per_request=certificate_cases.figures(place.asked["few"]))
        session.add(Evaluation(id="evl_old", job_id=session.get_one(Evaluation, evaluation).job_id, report=old))
    served = place.get("/v1/evaluations/evl_old").json()
    assert verify.report_digest({**served, "schema": None}) != verify.report_digest(old)  # the digest is of all of it
    del served["schema"]
    assert verify.report_digest(served) == verify.report_digest(old) == _digest(old)
    cut = place.get(f"/v1/evaluations/evl_old?request_id={place.asked['few'][0]}")
    assert (cut.status_code, cut.json()["code"]) == (409, "report_not_in_parts")


def test_a_schema_taken_back_has_the_figures_in_the_report_again(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    bring_to_head(settings.resolved_database_url)
    place = Place(Bench.open(settings), create_app(settings))
    _work_for(place, "back", 3)
    evaluation, logged = place.evaluation("back")
    before = place.get(f"/v1/evaluations/{evaluation}").json()
    config = migrate.config(settings.resolved_database_url)
    command.downgrade(config, "0027")
    with place.bench.database.engine.connect() as connection:
        report = json.loads(connection.exec_driver_sql("SELECT report FROM evaluations").scalar_one())
    assert verify.report_digest(report) == logged
    command.upgrade(config, "head")
    assert place.get(f"/v1/evaluations/{evaluation}").json() == before
    certifying.Issuer()(place.app.state.parts)
    answer = json.dumps(before).encode()
    assert verify.verify(place.bundles("back")[place.asked["back"][0]], reports={"r": answer}).reports == [evaluation]
    place.app.state.parts.database.dispose()
    place.bench.database.dispose()


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(verify.canonical(document)).hexdigest()
