"""A certificate's facts, a log and keys for tests, made without the service's log: the tree here is the textbook's."""

import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.evidence import bundle, report_parts
from service.evidence.bundle import KeyRecord, LogProofs
from service.evidence.facts import (
    CertificateFacts,
    DatasetFacts,
    LoggedEntry,
    ModelFacts,
    Recipients,
    RequestFacts,
    Residual,
    SharedReport,
)
from service.evidence.report_parts import Cut
from service.evidence.verify import common_digest, report_digest

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
DUE = START + timedelta(days=29)
WEIGHTS = b"weights of the new version"
LOG_NAME = "log.example/unlearning"


@dataclass(frozen=True)
class Key:
    """An Ed25519 key that signs under a name."""

    private: Ed25519PrivateKey
    name: str = LOG_NAME

    @property
    def public_key(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)


def key(number: int = 1) -> Key:
    return Key(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


def record(of: Key, **changes: Any) -> KeyRecord:
    dates = {"not_before": START - timedelta(days=30), "not_after": None, "revoked_at": None}
    return KeyRecord(name=of.name, public_key=of.public_key, **{**dates, **changes})


# --- A log, by RFC 6962's own recursive definitions ------------------------------------------------------------------


def tree_head(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = _split(len(leaves))
    return hashlib.sha256(b"\x01" + tree_head(leaves[:k]) + tree_head(leaves[k:])).digest()


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 §2.1.1."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), tree_head(leaves[k:])]
    return [*path(m - k, leaves[k:]), tree_head(leaves[:k])]


def _split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def note(text: str, signer: Key) -> str:
    """A C2SP signed note of the text, which ends in a newline."""
    key_id = hashlib.sha256(signer.name.encode() + b"\n\x01" + signer.public_key).digest()[:4]
    return f"{text}\n\u2014 {signer.name} {base64.b64encode(key_id + signer.sign(text.encode())).decode()}\n"


def checkpoint(leaves: Sequence[bytes], signer: Key) -> str:
    root = base64.b64encode(tree_head(leaves)).decode()
    return note(f"{signer.name}\n{len(leaves)}\n{root}\n", signer)


def entry(seq: int, action: str, subject: str, payload: dict[str, Any]) -> LoggedEntry:
    time = (START + timedelta(minutes=seq)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return LoggedEntry(seq=seq, time=time, actor="key_1", action=action, subject=subject, payload=payload)


def logged(request: str = "req_1", *, model: str | None = "m") -> dict[str, LoggedEntry]:
    """The entries that a certificate is proven by, among others, in the order in which they were written."""
    of_request = f"deletion-request/{request}"
    received = {
        "purpose": "privacy",
        "method": "auto",
        "commitment_root": hashlib.sha256(request.encode()).hexdigest(),
        "num_samples": 3,
        "not_found": 1,
        "already_erased": 0,
    }
    accepted = {
        "scope": "full",
        "policies": {model: sha("policy")} if model else {},
        "received_at": (START - timedelta(days=1)).isoformat(),
        "due_at": DUE.isoformat(),
    }
    outcomes = {"pending": 0, "erased": 3, "erased_not_trained_on": 0, "already_erased": 0, "not_found": 1}
    rows: list[tuple[str, str, str, dict[str, Any]]] = [
        ("noise", "noise", "noise", {}),
        ("received", "request.received", of_request, received),
        ("accepted", "request.accepted", of_request, accepted),
    ]
    if model:
        committed = {
            "sha256": sha(WEIGHTS),
            "parent_sha256": sha("parent"),
            "method": "scrub_r",
            "parameters_sha256": sha(rfc8785.dumps({"config": report()["config"], "seed": 7})),
            "seed": 7,
        }
        measured = {"job": "job_1", "method": "scrub_r", "gate": "pass", "report_sha256": report_digest(report())}
        rows += [
            ("committed", "job.result_committed", "job/job_1", committed),
            ("evaluation", "evaluation.recorded", f"evaluation/{evaluation_of(request)}", measured),
            ("published", "job.published", "job/job_1", {"model": "m", "version": 2, "sha256": sha(WEIGHTS)}),
        ]
    rows += [
        (
            "completed",
            "request.completed",
            of_request,
            {"outcomes": outcomes, "jobs": ["job_1"] if model else [], "scope": "full"},
        )
    ]
    if model:
        rows += [("purged", "version.purged", f"model/{model}/version/1", {"sha256": sha("parent")})]
    rows += [("tail", "noise", "noise", {"last": True})]
    return {name: entry(seq, action, subject, body) for seq, (name, action, subject, body) in enumerate(rows)}


def evaluation_of(request: str) -> str:
    return request.replace("req", "evl")


def sha(what: str | bytes) -> str:
    return hashlib.sha256(what.encode() if isinstance(what, str) else what).hexdigest()


# --- Facts -----------------------------------------------------------------------------------------------------------


def report(**changes: Any) -> dict[str, Any]:
    """A small report with the fields that statements read."""
    attack = "mia_threshold.phi.auc"
    whole = {
        "method": "scrub_r",
        "guarantee": "approximate",
        "fidelity": "paper",
        "method_does_not_prove": "Influence may remain.",
        "config": {"epochs": 5, "lr": 0.0005, "alpha": 1e-7},
        "seed": 7,
        "metrics": [
            {
                "name": attack,
                "value": 0.5125,
                "ci95": [0.46, 0.565],
                "n": 40,
                "direction": "target",
                "ideal": 0.5,
                "basis": "unseen controls",
                "verdict": "measured",
                "seconds": 0.1,
            },
            {
                "name": "accuracy",
                "split": "test",
                "value": 0.97,
                "n": 200,
                "direction": "higher",
                "ideal": None,
                "basis": "none",
                "verdict": "measured",
                "seconds": 0.1,
            },
        ],
        "gate": {
            "verdict": "pass",
            "sentence": "1 of 1 required bounds are kept.",
            "bounds": [
                {
                    "metric": attack,
                    "within": "by_size",
                    "on": "edge",
                    "required": True,
                    "verdict": "pass",
                    "sentence": "It is near 0.5.",
                    "value": 0.5125,
                    "ci95": [0.46, 0.565],
                    "n": 40,
                    "limit": None,
                    "margin": 0.09,
                }
            ],
        },
        "environment": {"python": "3.12", "torch": "2.11", "deterministic": True, "code_sha256": sha("code")},
        "inputs": {"retrained_sha256": None},
        "references": None,
        "does_not_prove": ["No measurement here proves erasure."],
    }
    return {**whole, **changes}


def facts(entries: dict[str, LoggedEntry], request: str = "req_1", **changes: Any) -> CertificateFacts:
    """The facts of a request that the entries are of."""
    model = "published" in entries
    received, completed = entries["received"].payload, entries["completed"]
    outcomes = dict(completed.payload["outcomes"])
    whole = CertificateFacts(
        id=f"cert_{request}",
        issued_at=START + timedelta(hours=1),
        service_version="0.1.0",
        request=RequestFacts(
            id=request,
            purpose="privacy",
            scope="full",
            models=None,
            method="auto",
            options={},
            received_at=START - timedelta(days=1),
            due_at=DUE,
            started_at=START + timedelta(minutes=3) if model else None,
            completed_at=START + timedelta(minutes=completed.seq),
            num_samples=3,
            commitment_root=received["commitment_root"],
            not_found=1,
            already_erased=0,
            outcomes=outcomes,
            completed=completed,
        ),
        dataset=DatasetFacts(
            name="digits",
            digest=sha("digits"),
            root_before=sha("before"),
            root_after=sha("after"),
            samples_before=100,
            samples_after=97,
        ),
        models=[_model(entries, request)] if model else [],
        residuals=_residuals(entries),
        recipients=Recipients(downloads=2, recipients=1, notices=1, acknowledged=0),
    )
    return replace(whole, **changes)


def _model(entries: dict[str, LoggedEntry], request: str) -> ModelFacts:
    return ModelFacts(
        model="m",
        job="job_1",
        version=2,
        sha256=sha(WEIGHTS),
        published_entry=entries["published"].seq,
        parent_version=1,
        parent_sha256=sha("parent"),
        policy_sha256=sha("policy"),
        criteria_entry=entries["accepted"].seq,
        approved_by=None,
        evaluation=evaluation_of(request),
        evaluation_entry=entries["evaluation"].seq,
        report_sha256=report_digest(report()),
        report=report(),
    )


def _residuals(entries: dict[str, LoggedEntry]) -> list[Residual]:
    source = Residual(
        kind="source",
        name="dataset/digits",
        sha256=None,
        state="kept",
        done="The source is not edited by this service.",
        at=None,
        entry=None,
    )
    if "purged" not in entries:
        return [source]
    parent = Residual(
        kind="version",
        name="model/m/version/1",
        sha256=sha("parent"),
        state="purged",
        done="Deleted, and its absence checked.",
        at=START + timedelta(minutes=6),
        entry=entries["purged"].seq,
    )
    return [parent, source]


def proofs(entries: dict[str, LoggedEntry], signer: Key, *, extra: int = 3) -> LogProofs:
    """Prove every entry but the noise, in a log that has some more."""
    rows = list(entries.values())
    rows += [entry(len(rows) + i, "noise", "noise", {"i": i}) for i in range(extra)]
    leaves = [rfc8785.dumps(row.document()) for row in rows]
    shown = [row for row in rows if row.action != "noise"]
    return LogProofs(checkpoint=checkpoint(leaves, signer), entries=[(row, path(row.seq, leaves)) for row in shown])


def made(
    *,
    signer: Key | None = None,
    request: str = "req_1",
    model: str | None = "m",
    records: Sequence[KeyRecord] | None = None,
    **changes: Any,
) -> bytes:
    """Return a whole bundle."""
    signer = signer or key()
    entries = logged(request, model=model)
    return bundle.make(
        facts(entries, request, **changes),
        log=proofs(entries, signer),
        keys=records or [record(signer)],
        signer=signer,
    )


def account(entries: dict[str, LoggedEntry], signer: Key, *, share: float, again: bool = False) -> dict[str, Any]:
    """What a report says of the draw from the log up to the job's commitment."""
    seq = entries["committed"].seq
    drawn_from = checkpoint([rfc8785.dumps(row.document()) for row in list(entries.values())[: seq + 1]], signer)
    told = {
        "chosen": again,
        "because": "draw",
        "share": share,
        "draw": sha(drawn_from + "job_1"),
        "sha256": sha(WEIGHTS),
        "committed": {"seq": seq, "sha256": sha(WEIGHTS)},
        "checkpoint": {"size": seq + 1, "note": drawn_from},
        "earlier_divergences": 0,
    }
    compared = {
        "equal": True,
        "reexecuted_sha256": sha(WEIGHTS),
        "bit_for_bit": True,
        "device": "cpu",
        "tolerance": 0.0,
        "max_relative_difference": 0.0,
        "seconds": 2.5,
    }
    return {**told, **compared} if again else told


def made_twice(signer: Key, told: dict[str, Any]) -> bytes:
    """Return a bundle whose report tells this of its re-execution."""
    return made_from(report(reexecution=told), signer)


def made_from(whole: dict[str, Any], signer: Key | None = None) -> bytes:
    """Return a bundle of one request that rests on this report alone."""
    entries, signer = logged(), signer or key()
    of, digest = entries["evaluation"], report_digest(whole)
    entries["evaluation"] = replace(of, payload={**of.payload, "report_sha256": digest})
    model = replace(facts(entries).models[0], report=whole, report_sha256=digest)
    log = proofs(entries, signer)
    return bundle.make(facts(entries, models=[model]), log=log, keys=[record(signer)], signer=signer)


def figures(requests: Sequence[str]) -> list[dict[str, Any]]:
    """What a worker measures on the samples of each of several requests."""
    return [{"request": each, "n": 3, "mia_threshold.phi.auc": 0.5, "ci95": [0.25, 0.75]} for each in requests]


def shared_report(sharing: int) -> Cut:
    """The parts of a report that so many requests share, of which `req_1` is one."""
    others = [f"req_{secrets.token_hex(16)}" for _ in range(sharing - 1)]
    return report_parts.cut(report(per_request=figures([*others[:2], "req_1", *others[2:]])))


def made_shared(signer: Key, cut: Cut, **changes: Any) -> bytes:
    """Return the bundle of `req_1`, one of those whose work was shared. ``changes``: of what proves its figure."""
    entries = logged()
    of = entries["evaluation"]
    entries["evaluation"] = replace(of, payload={**of.payload, "report_sha256": cut.sha256})
    own = next(each for each in cut.figures if each.request_id == "req_1")
    shared = SharedReport(
        common_sha256=common_digest(cut.stored),
        requests=cut.stored["parts"]["requests"],
        root=cut.stored["parts"]["root"],
        own={"figure": dict(own.document), "index": own.index, "proof": own.proof},
    )
    model = replace(facts(entries).models[0], report=cut.stored, report_sha256=cut.sha256)
    model = replace(model, shared=replace(shared, **changes))
    log = proofs(entries, signer)
    return bundle.make(facts(entries, models=[model]), log=log, keys=[record(signer)], signer=signer)
