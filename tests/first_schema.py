"""A database as the first schema had it, filled by plain SQL: nothing here uses today's tables.

The dataset `d` and the model `m` are real, so that a worker can go on with what was open; `bulk` and `n` are there for
their number and their states.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Connection, DateTime, MetaData, inspect
from sqlalchemy.dialects.sqlite import DATETIME

MASTER = bytes(range(32))
TEXT = "ul_" + "k" * 43
EXPIRED, REVOKED = "ul_" + "e" * 43, "ul_" + "r" * 43
RECEIVED = "2024-05-01T09:00:00.000000Z"
BULK, DOWNLOADS, ENTRIES = 4000, 7, 3000
JOB_ENDS = ("published", "completed", "held", "poisoned", "failed", "cancelled")
REQUEST_STATES = ("received", "accepted", "in_progress", "denied", "cancelled", "on_hold", "failed")
VERSION_STATES = ("validating", "rejected", "quarantined", "retired", "purged", "active")
REFUSING = {"sqlite": ("UPDATE", "DELETE"), "postgresql": ("UPDATE", "DELETE", "TRUNCATE")}


@dataclass(kw_only=True)
class First:
    """Writes rows of the first schema, and the log beside them."""

    connection: Connection
    tables: MetaData = field(default_factory=MetaData)
    size: int = 0
    chained: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # As the database itself describes them, so that no column of today slips in.
        self.tables.reflect(self.connection)
        for table in self.tables.tables.values():
            for column in table.columns:
                if isinstance(column.type, DATETIME):
                    column.type = DateTime()

    def add(self, table: str, *rows: Mapping[str, Any]) -> None:
        found = self.tables.tables[table]
        encoded = [{name: _plain(found.c[name].type, value) for name, value in row.items()} for row in rows]
        self.connection.execute(found.insert(), encoded)

    def log(self, action: str, subject: str, payload: Mapping[str, Any], **links: str) -> None:
        """Append an entry as the first version did: RFC 8785 JSON, SHA-256 with the leaf's zero byte."""
        seconds, minutes = self.size % 60, self.size // 60
        entry = {
            "seq": self.size,
            "time": f"2024-05-{1 + minutes // 1440:02}T{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}.000000Z",
            "actor": "key_old",
            "action": action,
            "subject": subject,
            "payload": dict(payload),
        }
        leaf = hashlib.sha256(b"\x00" + canonical(entry)).hexdigest()
        row = {**entry, "payload": canonical(payload).decode(), "leaf_hash": leaf}
        self.chained.append(row)
        self.add("audit_entries", row)
        if links:
            self.add("audit_links", *({"kind": kind, "ref": ref, "seq": self.size} for kind, ref in links.items()))
        self.size += 1


def _plain(kind: Any, value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(kind, JSON) else value


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return RFC 8785 JSON of a document that has ASCII names and no fractions."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def derived(key: bytes, purpose: str) -> bytes:
    """Return HKDF-SHA256 without salt, one block (RFC 5869)."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, purpose.encode() + b"\x01", "sha256")


def commitment_root(key: bytes, sample_ids: list[str]) -> str:
    leaves = sorted(hmac.digest(derived(key, each), each.encode(), "sha256") for each in sample_ids)
    return _tree(leaves).hex()


def _tree(leaves: list[bytes]) -> bytes:
    """Return the RFC 6962 tree head, by its recursive definition."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _tree(leaves[:half]) + _tree(leaves[half:])).digest()


def token(dataset_id: str, sample_id: str) -> bytes:
    return hmac.digest(derived(MASTER, "suppression list"), f"{dataset_id}\x00{sample_id}".encode(), "sha256")


def rows(connection: Connection, columns: Mapping[str, list[str]]) -> dict[str, list[tuple[Any, ...]]]:
    """Return what stands in these columns of each table, in an order of its own."""
    found = {}
    for table, names in columns.items():
        listed = ", ".join(f'"{name}"' for name in names)
        found[table] = sorted(
            (tuple(map(_comparable, row)) for row in connection.exec_driver_sql(f'SELECT {listed} FROM "{table}"')),
            key=repr,
        )
    return found


def _comparable(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def columns(connection: Connection) -> dict[str, list[str]]:
    """Return the columns of every table but Alembic's own."""
    inspector = inspect(connection)
    names = [name for name in inspector.get_table_names() if name != "alembic_version"]
    return {name: [column["name"] for column in inspector.get_columns(name)] for name in names}


def fill(connection: Connection, *, source: Path, dataset: Mapping[str, Any], weights: Mapping[str, Any]) -> First:
    """Fill a database at revision 0001. ``dataset``: digest and samples of ``source``; ``weights``: digest and size."""
    first = First(connection=connection)
    _keys(first)
    _datasets(first, source, dataset)
    _models(first, weights)
    _open_request(first, dataset)
    _completed_request(first)
    _states(first)
    _long_log(first)
    first.connection.execute(first.tables.tables["audit_head"].update().values(size=first.size))
    return first


def _moment(text: str = RECEIVED) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)


def _naive(first: First) -> Any:
    moment = _moment()
    return moment.replace(tzinfo=None) if first.connection.dialect.name == "sqlite" else moment


def _keys(first: First) -> None:
    then = _naive(first)
    for name, text, ends in (
        ("old", TEXT, {}),
        ("exp", EXPIRED, {"expires_at": then}),
        ("rev", REVOKED, {"revoked_at": then}),
    ):
        digest = hashlib.sha256(text.encode()).digest()
        row = {"id": f"key_{name}", "name": name, "prefix": text[:11], "sha256": digest, "scopes": ["admin"]}
        first.add("api_keys", {**row, "created_at": then, **ends})
        first.log("key.created", f"key/key_{name}", {"name": name, "scopes": ["admin"]}, key=f"key_{name}")
    first.add("workers", {"id": "old:1", "started_at": then, "seen_at": then})


def _datasets(first: First, source: Path, dataset: Mapping[str, Any]) -> None:
    then = _naive(first)
    of = {"num_samples": 0, "num_classes": 0, "created_at": then}
    ready = {"state": "ready", "num_classes": 2, "image_shape": [1, 8, 8]}
    npz = {"source": "npz", "path": str(source)}
    rows_ = dataset["samples"]
    first.add(
        "datasets",
        {
            **of,
            **ready,
            "id": "ds_d",
            "name": "d",
            "source": npz,
            "num_samples": len(rows_),
            "digest": dataset["digest"],
        },
    )
    first.add(
        "datasets",
        {**of, **ready, "id": "ds_bulk", "name": "bulk", "source": npz, "num_samples": BULK, "digest": "b" * 64},
    )
    first.add(
        "datasets",
        {**of, "id": "ds_f", "name": "f", "source": npz, "state": "failed", "error": {"code": "source_file_missing"}},
    )
    first.log("dataset.registered", "dataset/d", {"source": "npz"}, dataset="d")
    first.log("dataset.registered", "dataset/bulk", {"source": "npz"}, dataset="bulk")
    first.add("samples", *({"dataset_id": "ds_d", "state": "live", **each} for each in rows_))
    first.add("samples", *_bulk())
    erased = [f"bulk-{i}" for i in range(0, BULK, 10)]
    first.add(
        "suppressions",
        *({"dataset_id": "ds_bulk", "token": token("ds_bulk", each), "created_at": then} for each in erased),
    )


def _bulk() -> Iterator[dict[str, Any]]:
    for i in range(BULK):
        erased = i % 10 == 0
        yield {
            "dataset_id": "ds_bulk",
            "sample_id": None if erased else f"bulk-{i}",
            "position": i,
            "split": "train",
            "pool": "train",
            "label": i % 2,
            "state": "erased" if erased else "live",
        }


def _models(first: First, weights: Mapping[str, Any]) -> None:
    then = _naive(first)
    recipe = {"epochs": 2, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005}
    recipe |= {"schedule": "one_cycle", "seed": 0}
    common = {"task": "classification", "architecture": "small_cnn", "architecture_options": {"width": 4}}
    common |= {"policy": {"max_accuracy_drop": 100, "stop_serving": "on_success"}, "created_at": then}
    first.add("models", {**common, "id": "mod_m", "name": "m", "dataset_id": "ds_d", "recipe": recipe})
    first.add("models", {**common, "id": "mod_n", "name": "n", "dataset_id": "ds_bulk", "recipe": None})
    first.log("model.registered", "model/m", {"architecture": "small_cnn"}, model="m", dataset="d")
    of = {"model_id": "mod_m", "role": "original", "origin": "trained", "training_samples": 120, "created_at": then}
    of |= {"size_bytes": weights["size"], "training_seconds": 1.5}
    gone = {"retired_at": then, "purged_at": then}
    first.add("versions", {**of, **gone, "id": "ver_m1", "number": 1, "state": "purged", "sha256": "1" * 64})
    first.add(
        "versions",
        {
            **of,
            "id": "ver_m2",
            "number": 2,
            "state": "retired",
            "sha256": "2" * 64,
            "retired_at": then,
            "parent_id": "ver_m1",
        },
    )
    first.add(
        "versions",
        {**of, "id": "ver_m3", "number": 3, "state": "active", "sha256": weights["sha256"], "parent_id": "ver_m2"},
    )
    first.log("version.activated", "model/m/version/3", {"sha256": weights["sha256"]}, model="m", version="m/3")
    for number, state in enumerate(VERSION_STATES, start=1):
        ends = {
            "validating": {},
            "rejected": {"error": {"errors": ["shape"]}},
            "retired": {"retired_at": then},
            "purged": gone,
        }
        row = {**of, "id": f"ver_n{number}", "model_id": "mod_n", "number": number, "state": state}
        first.add("versions", {**row, "sha256": f"{number}a" * 32, **ends.get(state, {})})


def _request(first: First, request_id: str, **fields: Any) -> dict[str, Any]:
    then = _naive(first)
    row: dict[str, Any] = {"id": request_id, "dataset_id": "ds_bulk", "principal_id": "key_old", "purpose": "privacy"}
    row |= {"method": "retrain", "method_options": {}, "scope": "full", "status": "accepted", "num_samples": 1}
    row |= {"not_found": 0, "already_erased": 0, "commitment_root": "0" * 64, "received_at": then, "created_at": then}
    return {**row, "due_at": then, **fields}


def _job(first: First, job_id: str, **fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": job_id,
        "kind": "erase",
        "status": "queued",
        "dataset_id": "ds_bulk",
        "model_id": "mod_n",
    }
    row |= {"purpose": "privacy", "method": "retrain", "method_options": {}, "policy_digest": "0" * 64, "seed": 7}
    row |= {"attempts": 0, "fence": 0, "done": 0, "total": 0, "created_at": _naive(first)}
    return {**row, **fields}


def _cover(first: First, request_id: str, ids: list[str], where: str, outcome: str) -> None:
    table = first.tables.tables["samples"]
    of = table.c.dataset_id == where
    known = first.connection.execute(table.select().where(of).order_by(table.c.position)).all()
    keys = [row.id for row in known if row.sample_id in ids]
    first.add("request_samples", *({"request_id": request_id, "sample_id": key, "outcome": outcome} for key in keys))


def _open_request(first: First, dataset: Mapping[str, Any]) -> None:
    """Add an accepted request with its queued job, as intake left them."""
    ids = [each["sample_id"] for each in dataset["samples"] if each["pool"] == "train"][:4]
    root = commitment_root(b"o" * 32, ids)
    open_ = _request(first, "req_open", dataset_id="ds_d", num_samples=4, commitment_root=root)
    first.add("deletion_requests", open_)
    first.add("request_keys", {"request_id": "req_open", "key": b"o" * 32})
    _cover(first, "req_open", ids, "ds_d", "pending")
    samples = first.tables.tables["samples"]
    first.connection.execute(samples.update().where(samples.c.sample_id.in_(ids)).values(state="pending"))
    job = _job(first, "job_open", dataset_id="ds_d", model_id="mod_m", rung_at=_naive(first), due_at=_naive(first))
    first.add("jobs", job)
    first.add("job_requests", {"job_id": "job_open", "request_id": "req_open"})
    answer = {"principal_id": "key_old", "key": "again", "fingerprint": b"f" * 32, "request_id": "req_open"}
    first.add("idempotency_keys", {**answer, "answer": {"id": "req_open"}, "created_at": _naive(first)})
    facts = {"purpose": "privacy", "method": "retrain", "commitment_root": root, "num_samples": 4}
    facts |= {"not_found": 0, "already_erased": 0}
    first.log("request.received", "deletion-request/req_open", facts, request="req_open", dataset="d")
    first.log("request.accepted", "deletion-request/req_open", {"scope": "full"}, request="req_open", dataset="d")
    first.log("job.queued", "job/job_open", {"kind": "erase"}, job="job_open", request="req_open", model="m")
    first.add(
        "events", {"request_id": "req_open", "name": "state", "data": {"status": "accepted"}, "time": _naive(first)}
    )


def _completed_request(first: First) -> None:
    then = _naive(first)
    ended = {"status": "completed", "started_at": then, "completed_at": then, "num_samples": BULK // 10}
    first.add("deletion_requests", _request(first, "req_done", **ended))
    first.add("request_keys", {"request_id": "req_done", "key": b"d" * 32})
    samples = first.tables.tables["samples"]
    erased = samples.c.state == "erased"
    keys = [row.id for row in first.connection.execute(samples.select().where(erased))]
    first.add("request_samples", *({"request_id": "req_done", "sample_id": key, "outcome": "erased"} for key in keys))
    first.add("version_exclusions", *({"version_id": "ver_n6", "sample_id": key} for key in keys))
    first.add(
        "jobs",
        _job(
            first,
            "job_done",
            status="published",
            attempts=1,
            fence=1,
            finished_at=then,
            evaluation_id="evl_1",
            version_id="ver_n6",
        ),
    )
    first.add("job_requests", {"job_id": "job_done", "request_id": "req_done"})
    first.add(
        "attempts", {"job_id": "job_done", "fence": 1, "owner": "old:1", "outcome": "published", "started_at": then}
    )
    report = {"method": "retrain", "metrics": [], "gate": {"verdict": "not_evaluated", "sentence": "-"}}
    first.add("evaluations", {"id": "evl_1", "job_id": "job_done", "report": report, "created_at": then})
    facts = {"purpose": "privacy", "method": "retrain", "commitment_root": "0" * 64, "num_samples": BULK // 10}
    first.log("request.received", "deletion-request/req_done", facts, request="req_done", dataset="bulk")
    first.log("request.completed", "deletion-request/req_done", {}, request="req_done", dataset="bulk")


def _states(first: First) -> None:
    """Add a request and a job in every other state. Whoever works on a busy one still holds its lease."""
    then, later = _naive(first), _naive(first).replace(year=2099)
    for state in REQUEST_STATES:
        first.add("deletion_requests", _request(first, f"req_{state}", status=state, error={"code": "old"}))
        first.add("request_keys", {"request_id": f"req_{state}", "key": state[:1].encode() * 32})
    for state in JOB_ENDS:
        first.add(
            "jobs", _job(first, f"job_{state}", status=state, finished_at=then, error={"code": "old"}, attempts=5)
        )
    busy = {"owner": "old:1", "lease_until": later, "fence": 1, "attempts": 1}
    first.add("jobs", _job(first, "job_running", status="running", phase="unlearning", **busy))
    first.add("jobs", _job(first, "job_evaluating", status="evaluating", kind="index", **{**busy, "model_id": None}))
    for state, jobs in (("in_progress", "running"), ("on_hold", "held"), ("failed", "failed")):
        first.add("job_requests", {"job_id": f"job_{jobs}", "request_id": f"req_{state}"})


def _long_log(first: First) -> None:
    for _ in range(DOWNLOADS):
        links = {"model": "m", "version": "m/2"}
        first.log("version.downloaded", "model/m/version/2", {"sha256": "2" * 64, "range": None}, **links)
    while first.size < ENTRIES:
        first.log("job.progressed", "job/job_done", {"turn": first.size, "name": "Zoë"}, job="job_done")
