"""What was done since the backup is done again before the restored service is ready."""

import os
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from service import backup_cli, journaling, restore_gate
from service.lifecycle import VersionState
from service.store import (
    audit_tree,
    cancel,
    checkpoints,
    decisions,
    keys,
    replays,
    request_keys,
    samples,
    signing_keys,
    versions,
    webhooks,
)
from service.store.tables import (
    ApiKey,
    DeletionRequest,
    ErasedToken,
    Model,
    RequestKey,
    Restore,
    Sample,
    SigningKey,
    Version,
    WebhookEndpoint,
)
from service.store.types import now
from tests.integration.restore.services import Case, version_dataset


def test_what_was_erased_retired_shredded_and_revoked_since_the_backup_is_so_again(case: Case) -> None:
    old = case.first
    early = old.erase("audit-1")
    with old.database.writing() as session:
        key, _ = keys.create(session, name="k", scopes=["admin"])
    case.back_up()
    with old.database.writing() as session:
        request_keys.shred(session, early, reason="ordered")
        keys.revoke(session, key.id)
        version = session.scalars(select(Version)).one()
        versions.move(session, version, VersionState.RETIRED)
        lost = versions.create(
            session, session.get_one(Model, version.model_id), state=VersionState.ACTIVE, role="original",
            origin="upload", sha256="c" * 64, size_bytes=1,
        )  # fmt: skip
    old.erase("audit-2")
    missing = old.erase("train-2")
    checkpoint = checkpoints.fresh(old.database, old.settings)

    new = case.lose_and_restore()
    with new.database.reading() as session:
        assert replays.pending(session) is not None
        assert session.get_one(Version, version.id).state == VersionState.ACTIVE, "so nothing may be served yet"
    backup_cli.replay(new.settings, nothing=None)
    with new.database.writing() as session:
        assert replays.pending(session) is None
        left = session.scalars(select(Sample.sample_id).where(Sample.sample_id.in_(["d-audit-1", "d-audit-2"])))
        assert list(left) == []
        known = samples.suppressed(session, new.secrets.suppression, version_dataset(session), ["d-audit-2"])
        assert known == {"d-audit-2"}
        assert session.get_one(Version, version.id).state == VersionState.RETIRED
        assert versions.was_retired(session, version.sha256, None)
        again = session.scalars(select(Version).where(Version.number == lost.number)).one()
        assert (again.state, again.sha256) == (VersionState.REJECTED, "c" * 64)
        assert not versions.was_retired(session, "c" * 64, None), "it may be uploaded again"
        assert session.get(RequestKey, early) is None
        assert session.get_one(ApiKey, key.id).revoked_at is not None
        assert session.get(DeletionRequest, missing) is None
        restore = session.scalars(select(Restore)).one()
        assert restore.found is not None
        assert (restore.found["suppressed"], restore.found["lost_requests"]) == (1, 1)
        audit_tree.integrate(session)
        assert audit_tree.root(session, checkpoint.size) == checkpoint.root, "as it was signed before the loss"
    assert checkpoints.fresh(new.database, new.settings).size > checkpoint.size
    assert new.erase("audit-3"), "and work goes on"
    journaling.write(new.database, new.settings)
    with new.database.reading() as session:
        assert not session.scalar(select(func.count()).select_from(ErasedToken))
    new.database.dispose()


def test_decisions_taken_since_the_backup_are_taken_again(case: Case) -> None:
    old = case.first
    cancelled, denied, held = (old.erase(f"train-{number}") for number in (1, 2, 3))
    case.back_up()
    with old.database.writing() as session:
        cancel.cancel(session, cancelled)
    with old.database.writing() as session:
        decisions.deny(session, denied, reason="identity_not_verified", note=None, by="key_x")
    with old.database.writing() as session:
        decisions.hold(session, held, note="a court says so", by="key_x")
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing=None)
    with new.database.reading() as session:
        found = {name: session.get_one(DeletionRequest, name).status for name in (cancelled, denied, held)}
    assert found == {cancelled: "cancelled", denied: "denied", held: "on_hold"}
    new.database.dispose()


def _webhooks(session: Any, *ids: str) -> None:
    key, _ = keys.create(session, name="k", scopes=["admin"])
    for each in ids:
        webhooks.create(
            session, endpoint_id=each, key_id=key.id, url="https://example.org/", host="example.org",
            events=["request.completed"], description="", secret=b"s",
        )  # fmt: skip


def test_a_signing_key_revoked_and_webhooks_ended_since_the_backup_are_not_trusted_again(case: Case) -> None:
    old = case.first
    with old.database.writing() as session:
        stolen = signing_keys.current(session, old.settings).key_id
        _webhooks(session, "whk_deleted", "whk_rotated", "whk_kept")
    case.back_up()
    with old.database.writing() as session:
        signing_keys.revoke(session, stolen, reason="stolen")
        renewed = old.settings.model_copy(update={"signing_key": SecretStr(os.urandom(32).hex())})
        fresh = signing_keys.rotate(session, renewed).key_id
        webhooks.delete(session, session.get_one(WebhookEndpoint, "whk_deleted"))
        webhooks.rotate(session, session.get_one(WebhookEndpoint, "whk_rotated"), b"t", previous_until=None)
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing=None)
    with new.database.reading() as session:
        row = session.get_one(SigningKey, stolen)
        assert (row.reason, row.revoked_at is not None) == ("stolen", True)
        assert signing_keys.current(session, renewed).key_id == fresh
        found = {row.id: row.enabled for row in session.scalars(select(WebhookEndpoint))}
    new.database.dispose()
    assert found == {"whk_rotated": False, "whk_kept": True}


def test_weights_that_were_refused_and_purged_since_the_backup_are_not_called_retired(case: Case) -> None:
    old = case.first

    def upload(session: Any, sha256: str) -> Version:
        model = session.scalars(select(Model)).one()
        kind: dict[str, Any] = {"role": "original", "origin": "upload", "size_bytes": 1}
        made = versions.create(session, model, state=VersionState.VALIDATING, sha256=sha256, **kind)
        versions.move(session, made, VersionState.REJECTED)
        return made

    with old.database.writing() as session:
        before = upload(session, "a" * 64).id
    case.back_up()
    with old.database.writing() as session:
        for each in (session.get_one(Version, before), upload(session, "b" * 64)):
            versions.move(session, each, VersionState.PURGED)
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing=None)
    with new.database.reading() as session:
        refused = [versions.was_retired(session, letter * 64, None) for letter in "ab"]
    new.database.dispose()
    assert refused == [False, False], "the bytes may fit another model"


def test_a_process_that_goes_on_notices_that_its_database_was_restored(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_gate, "ASK_AGAIN_SECONDS", 0.0)
    gate = restore_gate.RestoreGate(case.first.database)
    assert not gate.due()
    with case.first.database.writing() as session:
        session.add(Restore(id="rst_1", backup_id="bak_1", backup_at=now(), log_size=0, restored_at=now()))
    assert not gate.opened
    assert gate.due()
