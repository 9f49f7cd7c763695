"""Bytes being deleted while somebody names them again are there afterwards; a rejected upload stays rejected."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from service.app import create_app
from service.auth import Principal
from service.deps import Parts
from service.errors import Conflict
from service.lifecycle import JobKind, JobStatus, VersionState
from service.routes import jobs as job_routes
from service.routes import versions as routes
from service.store import jobs, models
from service.store.tables import Job, Version
from service.store.types import now
from tests import factories
from workers import attempt_end, leftovers, publish, retirement
from workers.bench import Bench

WHO = Principal(id="key_test", name="test", scopes=frozenset({"admin"}))


@pytest.fixture(scope="module")
def bench_settings() -> dict[str, Any]:
    return {"lease_seconds": 10}


@pytest.fixture
def name(bench: Bench, request: pytest.FixtureRequest) -> str:
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    factories.model(bench, found, of=found)
    return found


def _body(bench: Bench, name: str) -> Path:
    path = bench.settings.data_dir / f"{name}.safetensors"
    path.write_bytes(factories.safetensors(w=[float(len(name)), float(hash(name) % 1000)]))
    return path


def _upload(bench: Bench, name: str) -> str:
    parts: Parts = create_app(bench.settings).state.parts
    try:
        return routes._keep(name, _body(bench, name), None, parts, WHO)[0].sha256
    finally:
        parts.database.dispose()


def _reject(bench: Bench, sha256: str) -> None:
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=10)
    assert claim is not None
    with bench.database.writing() as session:
        publish.validated(session, claim, ["unfit"])


def _at_the_deletion(bench: Bench, monkeypatch: pytest.MonkeyPatch, other: Callable[[], Any]) -> threading.Thread:
    """Have ``other`` begin in the instant before the bytes are deleted, and give it time to get in between."""
    purge = type(bench.artifacts).purge
    thread = threading.Thread(target=other)

    def slowly(store: Any, digest: str) -> bool:
        if not thread.ident:
            thread.start()
            thread.join(1.0)
        return purge(store, digest)

    monkeypatch.setattr(type(bench.artifacts), "purge", slowly)
    return thread


def test_an_upload_in_the_instant_of_the_purge_keeps_its_bytes(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = _upload(bench, name)
    _reject(bench, digest)
    thread = _at_the_deletion(bench, monkeypatch, lambda: _upload(bench, name))
    retirement.purge(bench)
    thread.join(60)
    with bench.database.reading() as session:
        model = models.by_name(session, name)
        states = {row.number: row.state for row in session.query(Version).filter_by(model_id=model.id)}
    assert states == {1: VersionState.PURGED, 2: VersionState.VALIDATING}
    assert bench.artifacts.size(digest) is not None


def test_an_upload_in_the_instant_an_orphan_is_removed_keeps_its_bytes(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = bench.artifacts.put(_body(bench, name))
    stored = bench.artifacts.local_path(digest)
    assert stored is not None
    os.utime(stored, (time.time() - 1000,) * 2)
    thread = _at_the_deletion(bench, monkeypatch, lambda: _upload(bench, name))
    leftovers.remove_orphans(bench)
    thread.join(60)
    assert bench.artifacts.size(digest) is not None


def test_a_retry_of_rejected_weights_is_refused_with_what_to_do(bench: Bench, name: str) -> None:
    _upload(bench, name)
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=10)
    assert claim is not None
    assert claim.kind == JobKind.VALIDATE
    with bench.database.writing() as session:
        error = {"code": "bad_checkpoint", "detail": "x"}
        attempt_end.failed(session, claim, error, bench.suppression_key, status=JobStatus.FAILED)
    parts: Parts = create_app(bench.settings).state.parts
    with pytest.raises(Conflict) as refusal:
        job_routes.retry(claim.job_id, parts, WHO)
    assert refusal.value.code == "version_rejected"
    assert "upload" in refusal.value.detail
    with bench.database.reading() as session:
        assert jobs.get(session, claim.job_id).status == JobStatus.FAILED
    parts.database.dispose()
