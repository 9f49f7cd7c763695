"""Replays into a restored database what was erased after its backup was made, as the erasure journal tells it.

The log's entries are appended as they were hashed, so the log goes on as if it had never been lost. What they tell of
is then made so without a second entry; decisions about requests are taken again, and are entries of their own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.evidence.commitments import suppression_token
from service.evidence.leaf import entry_bytes
from service.evidence.merkle import hash_leaf
from service.lifecycle import SampleState, VersionState
from service.store import audit, replayed_decisions, replayed_trust, request_keys, traces
from service.store.lost_requests import lost_requests
from service.store.samples import one_of
from service.store.tables import (
    ApiKey,
    AuditEntry,
    AuditHead,
    AuditLink,
    Dataset,
    DeletionRequest,
    Model,
    RequestKey,
    Restore,
    Sample,
    Suppression,
    Version,
    table_of,
)
from service.store.types import new_id, now
from service.store.versions import LIVE_STATES, LOST_IN_RESTORE

_CHUNK = 1_000
_FIELDS = ("seq", "time", "actor", "action", "subject", "payload", "leaf_hash")
_VERSION_STATES = {
    "version.rejected": VersionState.REJECTED,
    "version.retired": VersionState.RETIRED,
    "version.purged": VersionState.PURGED,
}


@dataclass(kw_only=True)
class Done:
    """What a replay found to do. Requests that were received after the backup are not in the database.

    ``lost_requests`` of them are to be sent again, ``ended_requests`` had ended.
    """

    entries: int = 0
    suppressed: int = 0
    versions_retired: int = 0
    keys_shredded: int = 0
    api_keys_revoked: int = 0
    webhooks_ended: int = 0
    lost_requests: list[str] = field(default_factory=list)
    ended_requests: list[str] = field(default_factory=list)
    to_decide: list[str] = field(default_factory=list)


def pending(session: Session) -> Restore | None:
    """Return the restore that is not over, if there is one."""
    return session.scalar(select(Restore).where(Restore.finished_at.is_(None)).order_by(Restore.id).limit(1))


def refuse_writing(session: Session) -> None:
    """Raise Conflict while a replay is due: an entry made now would take the number of one that is to come back."""
    if pending(session) is not None:
        detail = "The database was restored and waits for its replay; run `unlearn replay` first."
        raise Conflict(detail, code="restore_replay_pending")


def replay(
    session: Session,
    restore: Restore,
    *,
    entries: Mapping[int, Mapping[str, Any]],
    tokens: Iterable[tuple[str, str]],
    suppression_key: bytes,
) -> Done:
    """Make the database forget again all that was forgotten since its backup. Raises Conflict."""
    later = _later(session, entries)
    done = Done(entries=len(later))
    _append(session, later)
    done.suppressed = _suppress(session, tokens, suppression_key)
    done.versions_retired = _retire(session, later)
    done.keys_shredded = _shred(session, later)
    done.api_keys_revoked = _revoke(session, later)
    replayed_trust.signing_keys(session, later)
    done.webhooks_ended = replayed_trust.webhooks(session, later)
    session.flush()
    done.to_decide = replayed_decisions.take_again(session, later, suppression_key=suppression_key)
    lost = lost_requests(session, later)
    done.lost_requests, done.ended_requests = lost.to_send_again, lost.ended
    counts = {name: value if isinstance(value, int) else len(value) for name, value in vars(done).items()}
    _finish(session, restore, counts)
    return done


def acknowledge(session: Session, restore: Restore, *, reason: str) -> None:
    """Let the service go on without a replay, because a person says that there is nothing to replay."""
    _finish(session, restore, {"nothing_to_replay": True, "reason": reason})


def _finish(session: Session, restore: Restore, found: dict[str, Any]) -> None:
    size = session.scalar(select(AuditHead.size)) or 0
    restore.finished_at, restore.found = now(), found
    told: dict[str, Any] = {"backup": restore.backup_id, "backup_made_at": restore.backup_at.isoformat()}
    told |= {"backup_log_size": restore.log_size, "log_size": size, **found}
    audit.record(session, "service.restored", subject=f"restore/{restore.id}", payload=told)


def _later(session: Session, entries: Mapping[int, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the journal's entries that the restored log has not, checked to be its continuation."""
    size = session.scalar(select(AuditHead.size)) or 0
    found = [entries[seq] for seq in sorted(entries) if seq >= size]
    shared = max((seq for seq in entries if seq < size), default=None)
    if shared is not None:
        leaf = session.scalar(select(AuditEntry.leaf_hash).where(AuditEntry.seq == shared))
        if leaf != entries[shared]["leaf_hash"]:
            detail = "The journal is of another log than the backup, or entries were made before this replay."
            raise Conflict(detail, code="journal_of_another_log")
    if [entry["seq"] for entry in found] != list(range(size, size + len(found))):
        detail = f"The journal lacks entries after {size}; give it whole, from before the backup to its end."
        raise Conflict(detail, code="journal_has_a_gap")
    for entry in found:
        names = {name: entry[name] for name in ("seq", "time", "actor", "action", "subject")}
        if hash_leaf(entry_bytes(**names, payload=entry["payload"].encode())).hex() != entry["leaf_hash"]:
            raise Conflict(f"Entry {entry['seq']} of the journal is not what was hashed.", code="journal_damaged")
    return found


def _append(session: Session, later: Sequence[Mapping[str, Any]]) -> None:
    for start in range(0, len(later), _CHUNK):
        some = later[start : start + _CHUNK]
        session.execute(insert(table_of(AuditEntry)), [{name: entry[name] for name in _FIELDS} for entry in some])
        links = [{"kind": k, "ref": r, "seq": entry["seq"]} for entry in some for k, r in entry.get("links", [])]
        if links:
            session.execute(insert(table_of(AuditLink)), links)
    if later:
        head: dict[str, Any] = {"size": later[-1]["seq"] + 1, "time": later[-1]["time"]}
        session.execute(update(table_of(AuditHead)).where(AuditHead.id == 1).values(**head))
        session.expire_all()


def _suppress(session: Session, tokens: Iterable[tuple[str, str]], suppression_key: bytes) -> int:
    """Erase the ids that the tokens stand for, wherever they are again, and remember the tokens."""
    by_dataset: dict[str, set[bytes]] = {}
    for dataset_id, token in tokens:
        by_dataset.setdefault(dataset_id, set()).add(bytes.fromhex(token))
    count = 0
    for dataset_id, wanted in by_dataset.items():
        if session.get(Dataset, dataset_id) is None:
            continue  # registered after the backup, and lost with all it held
        known = set(map(bytes, session.scalars(select(Suppression.token).where(Suppression.dataset_id == dataset_id))))
        new = [{"dataset_id": dataset_id, "token": token} for token in sorted(wanted - known)]
        for start in range(0, len(new), _CHUNK):
            session.execute(insert(Suppression), new[start : start + _CHUNK])
        count += len(new)
        _forget(session, dataset_id, wanted, suppression_key)
    return count


def _forget(session: Session, dataset_id: str, wanted: set[bytes], key: bytes) -> None:
    rows = session.execute(
        select(Sample.id, Sample.sample_id).where(Sample.dataset_id == dataset_id, Sample.sample_id.is_not(None))
    )
    ids = [row.id for row in rows if suppression_token(key, dataset_id, row.sample_id) in wanted]
    if ids:
        session.execute(
            update(Sample).where(one_of(session, Sample.id, ids)).values(state=SampleState.ERASED, sample_id=None)
        )
        traces.note(session, "samples")


def _retire(session: Session, later: Sequence[Mapping[str, Any]]) -> int:
    """Take versions out of circulation as the log says; one that came after the backup leaves its number taken."""
    ends: dict[tuple[str, int], tuple[VersionState, str]] = {}
    made: dict[tuple[str, int], dict[str, Any]] = {}
    for entry in later:
        place = entry["subject"].split("/")
        if entry["action"].startswith("version.") and len(place) == 4:
            name = place[1], int(place[3])
            if entry["action"] == "version.created":
                made[name] = json.loads(entry["payload"])
            elif entry["action"] in _VERSION_STATES and VersionState.REJECTED not in ends.get(name, ()):
                # What was rejected is purged too, and is not retired by that.
                ends[name] = _VERSION_STATES[entry["action"]], entry["time"]
    count = 0
    for (model_name, number), payload in made.items():
        end = ends.pop((model_name, number), (VersionState.REJECTED, ""))
        _leave_number(session, model_name, number, payload, end)
    for (model_name, number), (state, time) in ends.items():
        version = _version(session, model_name, number)
        if version is not None and version.state in (*LIVE_STATES, VersionState.RETIRED):
            count += version.state in LIVE_STATES
            _end(version, state, time)
    return count


def _end(version: Version, state: VersionState, time: str) -> None:
    # Bytes that the log says are purged may have come back with the backup: retired, they are purged again.
    version.state = VersionState.RETIRED if state == VersionState.PURGED else state
    if state != VersionState.REJECTED:
        version.retired_at = version.retired_at or datetime.fromisoformat(time)


def _leave_number(
    session: Session, model_name: str, number: int, payload: dict[str, Any], end: tuple[VersionState, str]
) -> None:
    model = session.scalar(select(Model).where(Model.name == model_name))
    if model is None or _version(session, model_name, number) is not None:
        return
    version = Version(
        id=new_id("ver"),
        model_id=model.id,
        number=number,
        state=VersionState.REJECTED,
        role=payload["role"],
        origin=payload["origin"],
        sha256=payload["sha256"],
        size_bytes=0,
        error={"code": LOST_IN_RESTORE, "detail": "It was made after the backup that was restored."},
    )
    # One that had left circulation stays refused if its bytes come again; what had not may be uploaded again.
    if end[0] != VersionState.REJECTED:
        _end(version, *end)
    session.add(version)


def _version(session: Session, model_name: str, number: int) -> Version | None:
    return session.scalar(
        select(Version)
        .join(Model, Model.id == Version.model_id)
        .where(Model.name == model_name, Version.number == number)
    )


def _of(later: Sequence[Mapping[str, Any]], *actions: str) -> list[Mapping[str, Any]]:
    return [entry for entry in later if entry["action"] in actions]


def _subject(entry: Mapping[str, Any]) -> str:
    return str(entry["subject"]).rpartition("/")[2]


def _shred(session: Session, later: Sequence[Mapping[str, Any]]) -> int:
    count = 0
    for request_id in {_subject(entry) for entry in _of(later, "request_key.shredded")}:
        if session.get(RequestKey, request_id) is not None:
            request_keys.destroy(session, session.get_one(DeletionRequest, request_id))
            count += 1
    return count


def _revoke(session: Session, later: Sequence[Mapping[str, Any]]) -> int:
    """End the keys that were revoked, and those whose secret was changed: the old one must not open anything."""
    ids = {_subject(entry) for entry in _of(later, "key.revoked", "key.rotated")}
    rows = session.scalars(select(ApiKey).where(ApiKey.id.in_(ids), ApiKey.revoked_at.is_(None))).all()
    for row in rows:
        row.revoked_at = now()
    return len(rows)
