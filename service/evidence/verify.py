#!/usr/bin/env python3
"""Check an unlearning certificate offline, without trusting whoever issued it.

    python verify.py bundle.json --trusted-key KEY [--weights FILE ...] [--report FILE ...] [--believe-date]

This one file runs by itself: it needs Python 3.11 and `cryptography`, no network, and nothing of the service. It
checks that the bundle is in canonical bytes (RFC 8785) and in the shape of its schema, that the three statements
(in-toto Statement v1 in DSSE envelopes) and the log's checkpoint (C2SP signed note) carry the signature of one key,
that the key is one of those pinned, was valid when it signed and was never revoked, that every log entry is included in
the signed tree (RFC 6962), and that statements, entries, weights and reports agree. It cannot check that the operator
ran what they signed; the certificate's `does_not_prove` says so.

Exit codes: 0 verified · 1 refused, the message names what is wrong · 2 wrong usage · 3 everything agrees, but no
trusted key was given, so that anybody may have signed it · 4 a file cannot be read.
"""

import argparse
import base64
import binascii
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Json: TypeAlias = dict[str, Any]

VERIFIED, REFUSED, USAGE, UNTRUSTED, UNREADABLE = 0, 1, 2, 3, 4
MAX_BUNDLE_BYTES = 64 * 2**20
MAX_SAFE_INTEGER = 2**53 - 1
BUNDLE_TYPE = "application/vnd.unlearning-certificate.bundle.v1+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
CERTIFICATE = "urn:unlearning-service:unlearning-certificate/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PREDICATES = {"certificate": CERTIFICATE, "provenance": PROVENANCE, "test_result": TEST_RESULT}
# What an evaluation has, as it is served, that is not part of the report whose digest was taken.
NOT_OF_THE_REPORT = ("id", "job_id", "created_at", "plots")
# How the digest of a report is made that several requests share: over its common part, and a tree of their figures.
PARTS_SCHEME = "urn:unlearning-service:report-parts:1"
CLOCK_SLACK = timedelta(minutes=1)
# States of an artefact that held the samples and does so no more.
GONE = ("purged", "overwritten", "absent")
# How far weights of two runs on CUDA may lie apart, relative to the largest of their tensor.
CUDA_TOLERANCE = 1e-4


class Refused(Exception):
    """The evidence does not hold. ``code`` is stable, the message says what is wrong."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class TrustedKey:
    """A key that the auditor learned of by another way, and what they know of its validity.

    ``pin``: the 32 bytes of the Ed25519 public key, or of its SHA-256, which is the key's id. ``name``: of the one log
    that the key is trusted for; None for whatever it signs.
    """

    pin: bytes
    name: str | None = None
    not_before: str | None = None
    not_after: str | None = None
    revoked_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found. ``trusted`` False: everything agrees, but nobody vouches for the key."""

    trusted: bool
    key_id: str
    certificate: Json
    weights: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return VERIFIED if self.trusted else UNTRUSTED


# --- Shapes: JSON Schema 2020-12, in the part of it that `check_shape` knows -----------------------------------------


def _object(required: Json, optional: Json | None = None) -> Json:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": sorted(required), "additionalProperties": False}


def _list(items: Json, **limits: int) -> Json:
    return {"type": "array", "items": items, **limits}


def _or_null(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


def _map(values: Json) -> Json:
    return {"type": "object", "additionalProperties": values}


_TEXT: Json = {"type": "string"}
_NAME: Json = {"type": "string", "pattern": "^.{1,300}$"}
_WORD: Json = {"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,63}$"}
_SHA256: Json = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_MOMENT: Json = {
    "type": "string",
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?Z$",
}
_BASE64: Json = {"type": "string", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number"}
_FLAG: Json = {"type": "boolean"}
_ANY: Json = {"type": "object"}
_INTERVAL = {"type": ["array", "null"], "items": _or_null(_NUMBER), "minItems": 2, "maxItems": 2}
_DIGEST = _object({"sha256": _SHA256})

_REQUEST = _object(
    {
        "id": _NAME,
        "purpose": {"enum": ["privacy", "bias", "confusion"]},
        "scope": {"enum": ["full", "partial"]},
        "models_named": {"type": ["array", "null"], "items": _NAME},
        "received_at": _MOMENT,
        "due_at": _or_null(_MOMENT),
        "completed_at": _MOMENT,
        "overdue": _FLAG,
        "regulation": _or_null(_TEXT),
        "article": _or_null(_TEXT),
        "says": _TEXT,
    }
)
_FORGET_SET = _object(
    {
        "num_samples": _COUNT,
        "commitment_root": _SHA256,
        "not_found": _COUNT,
        "already_erased": _COUNT,
        "outcomes": _map(_COUNT),
    }
)
_DATASET = _object(
    {
        "name": _NAME,
        "digest": _or_null(_SHA256),
        "root_before": _SHA256,
        "root_after": _SHA256,
        "samples_before": _COUNT,
        "samples_after": _COUNT,
    }
)
_METHOD = _object(
    {
        "id": _NAME,
        "version": _TEXT,
        "kind": {"enum": ["exact", "approximate"]},
        "guarantee": {"enum": ["exact", "none"]},
        "means": _TEXT,
        "fidelity": _TEXT,
        "parameters_sha256": _SHA256,
        "deterministic": _or_null(_FLAG),
    }
)
_BOUND = _object(
    {
        "demand": _TEXT,
        "limit": _or_null(_NUMBER),
        "margin": _or_null(_NUMBER),
        "required": _FLAG,
        "verdict": {"enum": ["pass", "fail", "inconclusive", "untestable", "not_applicable"]},
        "sentence": _TEXT,
    }
)
_RESULT = _object(
    {
        "metric": _NAME,
        "split": _or_null(_TEXT),
        "value": _or_null(_NUMBER),
        "ci95": _INTERVAL,
        "n": _COUNT,
        "basis": _TEXT,
        "direction": _TEXT,
        "ideal": _or_null(_NUMBER),
        "measured": _TEXT,
        "bounds": _list(_BOUND),
    }
)
# Beside these it has the attack's value under the attack's name, which is another for each kind of model.
_FIGURE: Json = {
    **_object({"request": _NAME, "n": _COUNT, "ci95": _INTERVAL, "salt": _SHA256 | {"pattern": "^[0-9a-f]{32}$"}}),
    "additionalProperties": _or_null(_NUMBER),
}
_PARTS = _object(
    {
        "scheme": {"const": PARTS_SCHEME},
        "common_sha256": _SHA256,
        "requests": _COUNT,
        "root": _SHA256,
        "own": _object({"figure": _FIGURE, "index": _COUNT, "proof": _list(_SHA256, maxItems=64)}),
    }
)
_VERIFICATION = _object(
    {
        "evaluation": _NAME,
        "report_sha256": _SHA256,
        "log_index": _COUNT,
        "gate": {"enum": ["pass", "fail", "inconclusive", "not_evaluated"]},
        "sentence": _TEXT,
        "approved_by": _or_null(_TEXT),
        "results": _list(_RESULT),
    },
    {"parts": _PARTS},
)
_REEXECUTION = _object(
    {
        "chosen": _FLAG,
        "because": {"enum": ["draw", "another_result_was_committed_before"]},
        "share": _NUMBER,
        "draw": _SHA256,
        "sha256": _SHA256,
        "committed": _object({"seq": _COUNT, "sha256": _SHA256}),
        "checkpoint": _object({"size": _COUNT, "note": _TEXT}),
        "earlier_divergences": _COUNT,
    },
    {
        "equal": _FLAG,
        "reexecuted_sha256": _SHA256,
        "bit_for_bit": _FLAG,
        "device": _TEXT,
        "tolerance": _NUMBER,
        "max_relative_difference": _or_null(_NUMBER),
        "seconds": _NUMBER,
    },
)
_MODEL = _object(
    {
        "model": _NAME,
        "job": _NAME,
        "result": _object({"version": _COUNT, "sha256": _SHA256, "log_index": _COUNT}),
        "parent": _object({"version": _COUNT, "sha256": _SHA256}),
        "references": _object({"retrained_sha256": _or_null(_SHA256), "reference_models": _or_null(_COUNT)}),
        "method": _METHOD,
        "criteria": _object({"policy_sha256": _SHA256, "log_index": _COUNT}),
        "verification": _VERIFICATION,
        "reexecution": _or_null(_REEXECUTION),
    },
    # Reports of before models had tasks name none, and certificates that rest on them neither.
    {"task": _WORD},
)
_RESIDUAL = _object(
    {
        "kind": _WORD,
        "name": _NAME,
        "sha256": _or_null(_SHA256),
        "state": _WORD,
        "done": _TEXT,
        "at": _or_null(_MOMENT),
        "log_index": _or_null(_COUNT),
    }
)
_RECIPIENTS = _object(
    {"downloads": _COUNT, "recipients": _COUNT, "notices": _COUNT, "acknowledged": _COUNT, "says": _TEXT}
)
_EVIDENCE = _object(
    {"provenance_sha256": _SHA256, "test_result_sha256": _SHA256, "log_sha256": _SHA256, "keys_sha256": _SHA256}
)
PREDICATE_SCHEMA: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": CERTIFICATE,
    "title": "Unlearning certificate",
    "description": "What was asked, done, measured and left, for one completed deletion request.",
    **_object(
        {
            "id": _NAME,
            "issued_at": _MOMENT,
            "request": _REQUEST,
            "forget_set": _FORGET_SET,
            "dataset": _DATASET,
            "models": _list(_MODEL),
            "residuals": _list(_RESIDUAL),
            "recipients": _RECIPIENTS,
            "evidence": _EVIDENCE,
            "does_not_prove": _list(_TEXT, minItems=1),
        }
    ),
}
_ENVELOPE = _object(
    {
        "payload": _BASE64,
        "payloadType": {"const": PAYLOAD_TYPE},
        "signatures": _list(_object({"keyid": _NAME, "sig": _BASE64}), minItems=1, maxItems=1),
    }
)
_ENTRY = _object({"seq": _COUNT, "time": _MOMENT, "actor": _TEXT, "action": _TEXT, "subject": _TEXT, "payload": _ANY})
_KEY = _object(
    {
        "name": _NAME,
        "key_id": _NAME,
        "public_key": _BASE64,
        "not_before": _MOMENT,
        "not_after": _or_null(_MOMENT),
        "revoked_at": _or_null(_MOMENT),
    }
)
BUNDLE_SCHEMA = _object(
    {
        "media_type": {"const": BUNDLE_TYPE},
        "envelopes": _object(dict.fromkeys(PREDICATES, _ENVELOPE)),
        "log": _object(
            {
                "checkpoint": _TEXT,
                "entries": _list(_object({"entry": _ENTRY, "proof": _list(_BASE64, maxItems=64)}), minItems=1),
            }
        ),
        "keys": _list(_KEY, minItems=1),
    }
)
_PROVENANCE = _object(
    {
        "buildDefinition": _object(
            {
                "buildType": _NAME,
                "externalParameters": _object({"request": _NAME, "method": _TEXT, "options": _ANY, "purpose": _TEXT}),
                "internalParameters": _object(
                    {
                        "jobs": _list(
                            _object(
                                {
                                    "job": _NAME,
                                    "model": _NAME,
                                    "method": _NAME,
                                    "parameters": _ANY,
                                    "seed": {"type": ["integer", "null"]},
                                    "environment": _ANY,
                                }
                            )
                        )
                    }
                ),
                "resolvedDependencies": _list(_object({"name": _NAME, "digest": _DIGEST})),
            }
        ),
        "runDetails": _object(
            {
                "builder": _object({"id": _NAME, "version": _map(_TEXT)}),
                "metadata": _object({"invocationId": _NAME, "startedOn": _or_null(_MOMENT), "finishedOn": _MOMENT}),
                "byproducts": _list(_object({"name": _NAME, "digest": _DIGEST})),
            }
        ),
    }
)
_TEST_RESULT = _object(
    {
        "result": {"enum": ["PASSED", "WARNED", "FAILED"]},
        "configuration": _list(_object({"name": _NAME, "digest": _DIGEST})),
        "passedTests": _list(_TEXT),
        "warnedTests": _list(_TEXT),
        "failedTests": _list(_TEXT),
    }
)
_PREDICATE_SCHEMAS = {"certificate": PREDICATE_SCHEMA, "provenance": _PROVENANCE, "test_result": _TEST_RESULT}


def statement_schema(part: str) -> Json:
    """Return the JSON Schema of one of the three statements: `certificate`, `provenance` or `test_result`."""
    return _object(
        {
            "_type": {"const": STATEMENT_TYPE},
            "subject": _list(_object({"name": _NAME, "digest": _DIGEST}), minItems=1),
            "predicateType": {"const": PREDICATES[part]},
            "predicate": {k: v for k, v in _PREDICATE_SCHEMAS[part].items() if k not in ("$schema", "$id")},
        }
    )


_IS: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def check_shape(value: Any, schema: Json, where: str = "") -> None:
    """Raise Refused unless ``value`` has the shape. ``where``: the JSON pointer of the value."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_IS[kind](value) for kind in kinds):
        raise _shapeless(where, f"is not {' or '.join(kinds)}")
    if "const" in schema and value != schema["const"]:
        raise _shapeless(where, f"is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        raise _shapeless(where, f"is none of {', '.join(schema['enum'])}")
    if isinstance(value, str) and "pattern" in schema and not re.fullmatch(schema["pattern"][1:-1], value):
        raise _shapeless(where, f"does not match {schema['pattern']}")
    if _IS["number"](value) and value < schema.get("minimum", value):
        raise _shapeless(where, f"is below {schema['minimum']}")
    if isinstance(value, list):
        _check_items(value, schema, where)
    if isinstance(value, dict):
        _check_members(value, schema, where)


def _check_items(value: list[Any], schema: Json, where: str) -> None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        raise _shapeless(where, f"has {len(value)} items")
    for index, item in enumerate(value):
        check_shape(item, schema.get("items", {}), f"{where}/{index}")


def _check_members(value: Json, schema: Json, where: str) -> None:
    known = schema.get("properties", {})
    missing = [name for name in schema.get("required", []) if name not in value]
    if missing:
        raise _shapeless(where, f"lacks {', '.join(missing)}")
    rest = schema.get("additionalProperties", {})
    strange = [] if rest is not False else [name for name in value if name not in known]
    if strange:
        raise _shapeless(where, f"has members that the schema does not know: {', '.join(strange)[:200]}")
    for name, member in value.items():
        check_shape(member, known.get(name, rest), f"{where}/{name}")


def _shapeless(where: str, what: str) -> Refused:
    return Refused("bad_shape", f"{where or 'the document'} {what}")


# --- Canonical JSON (RFC 8785) ---------------------------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 bytes. Raises ValueError for what I-JSON (RFC 7493) cannot carry."""
    return "".join(_pieces(value)).encode()


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for index, name in enumerate(sorted(value, key=lambda name: name.encode("utf-16-be"))):
            yield "," if index else ""
            yield f"{json.dumps(name, ensure_ascii=False)}:"
            yield from _pieces(value[name])
        yield "}"
    elif isinstance(value, list):
        yield "["
        for index, item in enumerate(value):
            yield "," if index else ""
            yield from _pieces(item)
        yield "]"
    else:
        yield _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_SAFE_INTEGER:
        raise ValueError("an integer beyond 2^53")
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """Return a number as ECMAScript writes it (ECMA-262, Number::toString)."""
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("a number that is not finite")
    if value == 0:
        return "0"
    mantissa, _, power = repr(abs(value)).partition("e")
    whole, _, part = mantissa.partition(".")
    digits = (whole + part).lstrip("0")
    point = len(whole) + int(power or 0) - (len(whole + part) - len(digits))
    digits = digits.rstrip("0")
    return ("-" if value < 0 else "") + _placed(digits, point)


def _placed(digits: str, point: int) -> str:
    """Return the digits with the decimal point after ``point`` of them."""
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"


def read_canonical(raw: bytes, what: str) -> Any:
    """Return the JSON document of ``raw``. Raises Refused unless these are its canonical bytes."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=no_name_twice, parse_constant=_no_constant, parse_int=whole)
    except RecursionError:
        raise Refused("not_json", f"{what} is nested too deeply") from None
    except ValueError as error:
        raise Refused("not_json", f"{what} is not JSON: {error}") from None
    try:
        written = canonical(value)
    except (ValueError, RecursionError) as error:
        raise Refused("not_canonical", f"{what} cannot be written canonically: {error}") from None
    if written != raw:
        raise Refused("not_canonical", f"{what} is not in canonical bytes (RFC 8785)")
    return value


def no_name_twice(pairs: list[tuple[str, Any]]) -> Json:
    """Return the object (`object_pairs_hook` of `json.loads`). Raises ValueError where readers could differ on it."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def whole(text: str) -> int | float:
    """Return the number: a double (RFC 8785 §3.2.2.3), which beyond 2^53 may be written without a fraction."""
    value = int(text)
    return value if abs(value) <= MAX_SAFE_INTEGER else float(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _decoded(text: str, what: str) -> bytes:
    """Return the bytes of base64 text. Raises Refused for a second way to write the same bytes."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("bad_encoding", f"{what} is not base64") from None
    if base64.b64encode(found).decode() != text:
        raise Refused("bad_encoding", f"{what} is not in the one base64 form of its bytes")
    return found


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def moment(text: str, what: str) -> datetime:
    """Return the moment that RFC 3339 text in UTC names. Raises Refused."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused("bad_shape", f"{what} is no moment in time: {text}") from None


# --- Signatures, proofs ----------------------------------------------------------------------------------------------


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what a DSSE signature signs (the pre-authentication encoding, DSSE v1)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def note_key_id(name: str, public_key: bytes) -> bytes:
    """Return the key id of a signed note's Ed25519 key (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n\x01" + public_key).digest()[:4]


def _check_signature(public_key: bytes, signature: bytes, message: bytes, what: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Refused("bad_signature", f"the signature of {what} is not one of the key it names") from None


def leaf_hash(entry: Json) -> bytes:
    """Return the RFC 6962 leaf hash of a log entry."""
    return hashlib.sha256(b"\x00" + canonical(entry)).digest()


def root_from_proof(
    leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], what: str = "log entry", tree: str = "checkpoint"
) -> bytes:
    """Return the root that an inclusion proof leads to (RFC 9162 §2.1.3.2). Raises Refused for a proof of no tree."""
    if index >= size:
        raise Refused("bad_proof", f"{what} {index} lies beyond the {tree}, which has {size} entries")
    node, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Refused("bad_proof", f"the inclusion proof of {what} {index} is too long")
        if node % 2 or node == last:
            found = hashlib.sha256(b"\x01" + sibling + found).digest()
            while node % 2 == 0 and node:
                node, last = node // 2, last // 2
        else:
            found = hashlib.sha256(b"\x01" + found + sibling).digest()
        node, last = node // 2, last // 2
    if last:
        raise Refused("bad_proof", f"the inclusion proof of {what} {index} is too short")
    return found


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 root over leaf hashes."""
    level = list(leaves)
    while len(level) > 1:  # an odd last node goes up as it is
        paired = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]
    return level[0] if level else hashlib.sha256(b"").digest()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a signed note of a log says: this many entries have this root."""

    origin: str
    size: int
    root: bytes


def read_checkpoint(note: str, key: Json) -> Checkpoint:
    """Return what the checkpoint says once the key's signature is found good. Raises Refused."""
    text, gap, tail = note.rpartition("\n\n")
    lines = text.split("\n")
    if not gap or not tail.endswith("\n") or len(lines) < 3 or not re.fullmatch("0|[1-9][0-9]{0,17}", lines[1]):
        raise Refused("bad_checkpoint", "the log's checkpoint is not a signed note with origin, size and root")
    if lines[0] != key["name"]:
        raise Refused("bad_checkpoint", f"the checkpoint is of the log {lines[0]!r}, the key of {key['name']!r}")
    public = _decoded(key["public_key"], "the public key")
    wanted, found = note_key_id(key["name"], public), 0
    for line in tail[:-1].split("\n"):
        mark, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        if mark != "\u2014" or not name or not encoded:
            raise Refused("bad_checkpoint", "a signature line of the checkpoint is malformed")
        signature = _decoded(encoded, "a signature of the checkpoint")
        if name == key["name"] and signature[:4] == wanted:
            _check_signature(public, signature[4:], (text + "\n").encode(), "the checkpoint")
            found += 1
    if found != 1:
        raise Refused("bad_checkpoint", f"the checkpoint bears {found} signatures of the key {key['key_id']}, not one")
    root = _decoded(lines[2], "the checkpoint's root")
    if len(root) != 32:
        raise Refused("bad_checkpoint", "the checkpoint's root is not 32 bytes long")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root)


# --- The checks, in order --------------------------------------------------------------------------------------------


def verify(
    raw: bytes,
    *,
    trusted: Sequence[TrustedKey] = (),
    weights: Mapping[str, str] | None = None,
    reports: Mapping[str, bytes] | None = None,
    believe_date: bool = False,
) -> Verdict:
    """Return what the bundle shows. Raises Refused at the first thing that is wrong.

    ``weights``: SHA-256 of each weights file by its name. ``reports``: reports as they are served, by file name.
    ``believe_date``: accept what says that it was issued before its key was revoked.
    """
    try:
        return _verified(raw, trusted, weights or {}, reports or {}, believe_date=believe_date)
    except RecursionError:
        raise Refused("not_json", "the bundle is nested too deeply") from None


def _verified(
    raw: bytes,
    trusted: Sequence[TrustedKey],
    weights: Mapping[str, str],
    reports: Mapping[str, bytes],
    *,
    believe_date: bool,
) -> Verdict:
    if len(raw) > MAX_BUNDLE_BYTES:
        raise Refused("too_large", f"the bundle is larger than {MAX_BUNDLE_BYTES} bytes")
    bundle = read_canonical(raw, "the bundle")
    check_shape(bundle, BUNDLE_SCHEMA)
    key = _signing_key(bundle)
    payloads, statements = _open_envelopes(bundle, key)
    certificate: Json = statements["certificate"]["predicate"]
    pinned = _pinned(key, trusted)
    issued_at = certificate["issued_at"]
    notes = _check_validity(key, issued_at, "the bundle", believe_date=believe_date)
    for each in pinned:
        record = {**key, **_known_of(each)}
        notes += _check_validity(record, issued_at, "the trusted key's own record", believe_date=believe_date)
    _check_evidence_digests(bundle, payloads, certificate["evidence"])
    entries = _check_log(bundle["log"], key, certificate["issued_at"])
    _check_request(certificate, entries)
    for model in certificate["models"]:
        _check_model(model, certificate["request"], entries)
    _check_residuals(certificate, entries)
    _check_subjects(statements, entries)
    provenance = statements["provenance"]["predicate"]
    _check_provenance(provenance, certificate)
    for run, model in zip(
        provenance["buildDefinition"]["internalParameters"]["jobs"], certificate["models"], strict=True
    ):
        _check_reexecution(model, run, bundle["keys"], entries)
    _check_test_result(statements["test_result"]["predicate"], certificate)
    return Verdict(
        trusted=bool(pinned),
        key_id=key["key_id"],
        certificate=certificate,
        weights=_check_weights(weights, certificate),
        reports=_check_reports(reports, certificate),
        notes=list(dict.fromkeys(notes)),
    )


def _signing_key(bundle: Json) -> Json:
    """Return the one key that all three envelopes name."""
    named = {envelope["signatures"][0]["keyid"] for envelope in bundle["envelopes"].values()}
    if len(named) != 1:
        raise Refused("keys_differ", f"the envelopes name different keys: {', '.join(sorted(named))}")
    ids = [key["key_id"] for key in bundle["keys"]]
    if len(set(ids)) != len(ids):
        raise Refused("keys_differ", "a key id stands twice among the bundle's keys")
    name = named.pop()
    found: Json | None = next((key for key in bundle["keys"] if key["key_id"] == name), None)
    if found is None:
        raise Refused("unknown_key", f"the bundle does not hold the key {name} that its envelopes name")
    public = _decoded(found["public_key"], "the public key")
    if found["key_id"] != sha256(public):
        raise Refused("unknown_key", f"{name} is not the id of the public key beside it")
    return found


def _open_envelopes(bundle: Json, key: Json) -> tuple[dict[str, bytes], dict[str, Json]]:
    payloads, statements = {}, {}
    public = _decoded(key["public_key"], "the public key")
    for part, envelope in bundle["envelopes"].items():
        payload = _decoded(envelope["payload"], f"the payload of the {part} envelope")
        signature = _decoded(envelope["signatures"][0]["sig"], f"the signature of the {part} envelope")
        _check_signature(public, signature, pae(envelope["payloadType"], payload), f"the {part} envelope")
        statement = read_canonical(payload, f"the {part} statement")
        check_shape(statement, statement_schema(part), f"the {part} statement: ")
        payloads[part], statements[part] = payload, statement
    return payloads, statements


def _pinned(key: Json, trusted: Sequence[TrustedKey]) -> list[TrustedKey]:
    """Return every record that the auditor has of the key, since one may know of a revocation that another lacks."""
    public = _decoded(key["public_key"], "the public key")
    pins = (public, hashlib.sha256(public).digest())
    found = [each for each in trusted if each.pin in pins]
    if trusted and not found:
        raise Refused("untrusted_key", f"the bundle is signed by {key['key_id']}, which is not a trusted key")
    if found and all(each.name not in (None, key["name"]) for each in found):
        raise Refused("untrusted_key", f"the key {key['key_id']} is not trusted for the log {key['name']!r}")
    return found


def _known_of(pinned: TrustedKey) -> Json:
    """Return what the auditor's own copy says of the key; where it says nothing, the bundle's word stays."""
    known = {name: getattr(pinned, name) for name in ("not_before", "not_after", "revoked_at")}
    return {name: value for name, value in known.items() if value is not None}


def _check_validity(key: Json, issued_at: str, source: str, *, believe_date: bool) -> list[str]:
    """Return what to look at if the key was revoked after it signed. Raises Refused if it was not valid then.

    Whoever stole a key can write any date: one before the revocation counts only for who knows it from elsewhere.
    """
    issued, key_id = moment(issued_at, "issued_at"), key["key_id"]
    if issued < moment(key["not_before"], "not_before"):
        raise Refused("key_not_yet_valid", f"by {source}, the key {key_id} was not valid yet at {issued_at}")
    if key["not_after"] is not None and issued >= moment(key["not_after"], "not_after"):
        raise Refused("key_expired", f"by {source}, the key {key_id} was not valid any more at {issued_at}")
    if key["revoked_at"] is not None and issued >= moment(key["revoked_at"], "revoked_at"):
        raise Refused("key_revoked", f"by {source}, the key {key_id} was revoked at {key['revoked_at']}")
    if key["revoked_at"] is None:
        return []
    if not believe_date:
        raise Refused(
            "key_revoked",
            f"by {source}, the key {key_id} was revoked at {key['revoked_at']}. That the certificate was issued "
            f"before, at {issued_at}, is its own word, which whoever stole the key can write. If you had it, or a "
            "checkpoint with its entry certificate.issued, before the revocation, accept it with --believe-date",
        )
    return [f"by {source}, the key was revoked later, at {key['revoked_at']}: see the log's entry certificate.issued"]


def _check_evidence_digests(bundle: Json, payloads: Mapping[str, bytes], stated: Json) -> None:
    found = {
        "provenance": sha256(payloads["provenance"]),
        "test_result": sha256(payloads["test_result"]),
        "log": sha256(canonical(bundle["log"])),
        "keys": sha256(canonical(bundle["keys"])),
    }
    for part, digest in found.items():
        if stated[f"{part}_sha256"] != digest:
            raise Refused("digest_mismatch", f"the bundle's {part} is not the one that the certificate was made with")


def _check_log(log: Json, key: Json, issued_at: str) -> dict[int, Json]:
    """Return the entries by their number once each is proven to stand in the signed tree."""
    checkpoint, issued = read_checkpoint(log["checkpoint"], key), moment(issued_at, "issued_at")
    found: dict[int, Json] = {}
    for row in log["entries"]:
        entry = row["entry"]
        seq = entry["seq"]
        if found and seq <= max(found):
            raise Refused("bad_log", f"log entry {seq} is out of order")
        proof = [_decoded(node, f"the proof of log entry {seq}") for node in row["proof"]]
        if root_from_proof(leaf_hash(entry), index=seq, size=checkpoint.size, proof=proof) != checkpoint.root:
            raise Refused("bad_proof", f"log entry {seq} is not in the tree that the checkpoint signs")
        if moment(entry["time"], "an entry's time") > issued + CLOCK_SLACK:
            raise Refused("bad_log", f"log entry {seq} is later than the certificate")
        found[seq] = entry
    return found


def _entry_of(entries: Mapping[int, Json], action: str, subject: str) -> Json:
    found = [entry for entry in entries.values() if (entry["action"], entry["subject"]) == (action, subject)]
    if len(found) != 1:
        raise Refused("bad_log", f"the bundle holds {len(found)} log entries {action} of {subject}, not one")
    return found[0]


def _acceptance(entries: Mapping[int, Json], subject: str) -> Json:
    """Return the first acceptance in the log: a hold that is lifted writes another, which states nothing anew."""
    found = [
        entry for entry in entries.values() if (entry["action"], entry["subject"]) == ("request.accepted", subject)
    ]
    if not found:
        raise Refused("bad_log", f"the bundle holds no log entry request.accepted of {subject}")
    return found[0]


def _agree(stated: Any, logged: Any, what: str) -> None:
    if stated != logged:
        raise Refused("inconsistent", f"{what} in the certificate is not what the log has")


def _check_request(certificate: Json, entries: Mapping[int, Json]) -> None:
    request, forget_set = certificate["request"], certificate["forget_set"]
    subject = f"deletion-request/{request['id']}"
    received = _entry_of(entries, "request.received", subject)["payload"]
    for name in ("commitment_root", "num_samples", "not_found", "already_erased"):
        _agree(forget_set[name], received.get(name), name)
    _agree(request["purpose"], received.get("purpose"), "the purpose")
    accepted = _acceptance(entries, subject)["payload"]
    _agree(request["scope"], accepted.get("scope"), "the scope")
    if isinstance(accepted.get("received_at"), str):
        logged = moment(accepted["received_at"], "received_at")
        _agree(moment(request["received_at"], "received_at"), logged, "received_at")
    completed = _entry_of(entries, "request.completed", subject)
    _agree(forget_set["outcomes"], completed["payload"].get("outcomes"), "the outcomes")
    made = [model["job"] for model in certificate["models"]]
    logged = completed["payload"].get("jobs", made)
    if logged != {
        "omitted_bytes": len(canonical(made)),
        "sha256": sha256(canonical(made)),
    }:  # how a long list is logged
        _agree(made, logged, "the list of jobs that made new versions for the request")
    ended, issued = moment(request["completed_at"], "completed_at"), moment(certificate["issued_at"], "issued_at")
    if abs(moment(completed["time"], "an entry's time") - ended) > CLOCK_SLACK:
        raise Refused("inconsistent", "completed_at in the certificate is not when the log has it")
    if ended > issued + CLOCK_SLACK:
        raise Refused("inconsistent", "the certificate was issued before the request was completed")
    due = request["due_at"]
    _check_due(due, subject, entries)
    if request["overdue"] != (due is not None and ended > moment(due, "due_at")):
        raise Refused("inconsistent", "the certificate's `overdue` does not follow from its dates")


def _check_due(due: str | None, subject: str, entries: Mapping[int, Json]) -> None:
    """Hold the due date against the last log entry that set one."""
    settled = ("request.accepted", "request.extended")
    told = [e["payload"] for e in entries.values() if e["subject"] == subject and e["action"] in settled]
    said = [payload["due_at"] for payload in told if "due_at" in payload]
    logged = said[-1] if said else None
    found = moment(logged, "due_at") if isinstance(logged, str) else None
    _agree(None if due is None else moment(due, "due_at"), found, "due_at")


def _check_model(model: Json, request: Json, entries: Mapping[int, Json]) -> None:
    name, verification, result = model["model"], model["verification"], model["result"]
    frozen = _at(entries, model["criteria"]["log_index"], f"the criteria of {name}")
    by_request = (frozen["action"], frozen["subject"]) == ("request.accepted", f"deletion-request/{request['id']}")
    by_job = (frozen["action"], frozen["subject"]) == ("job.queued", f"job/{model['job']}")
    if not by_request and not by_job:
        raise Refused("inconsistent", f"the log entry named for the criteria of {name} froze none")
    policies = frozen["payload"].get("policies") if by_request else {name: frozen["payload"].get("policy_digest")}
    logged = policies.get(name) if isinstance(policies, dict) else None
    _agree(model["criteria"]["policy_sha256"], logged, f"the criteria of {name}")
    published = _at(entries, result["log_index"], f"the publication of {name}")
    _agree((f"job/{model['job']}", "job.published"), (published["subject"], published["action"]), f"the job of {name}")
    _agree(result["sha256"], published["payload"].get("sha256"), f"the digest of {name}'s new weights")
    _agree(result["version"], published["payload"].get("version"), f"the version of {name}")
    measured = _at(entries, verification["log_index"], f"the evaluation of {name}")
    subject = f"evaluation/{verification['evaluation']}"
    _agree((subject, "evaluation.recorded"), (measured["subject"], measured["action"]), f"the evaluation of {name}")
    # Entries of before the log had reports' digests say nothing of them.
    logged = measured["payload"].get("report_sha256", verification["report_sha256"])
    _agree(verification["report_sha256"], logged, f"the report's digest of {name}")
    if "parts" in verification:
        _check_parts(verification, request, name)
    _agree(verification["gate"], measured["payload"].get("gate"), f"the gate's verdict on {name}")
    _agree(model["method"]["id"], measured["payload"].get("method"), f"the method used on {name}")
    if not frozen["seq"] < measured["seq"] < published["seq"]:
        raise Refused(
            "inconsistent", f"by the log, {name} was not evaluated after its criteria were frozen and before it"
        )
    # Entries of long ago do not say it.
    _agree(model["job"], measured["payload"].get("job", model["job"]), f"the job whose evaluation is named for {name}")
    _agree(name, published["payload"].get("model", name), f"the model that {model['job']} made")
    if (model["method"]["kind"] == "exact") != (model["method"]["guarantee"] == "exact"):
        raise Refused("inconsistent", f"an approximate method carries no guarantee, and {name}'s is called one")


def _check_parts(verification: Json, request: Json, name: str) -> None:
    """Raise Refused unless the request's own figure is one of the report whose digest is in the log."""
    parts, own = verification["parts"], verification["parts"]["own"]
    digest = digest_of_parts(parts["common_sha256"], requests=parts["requests"], root=parts["root"])
    if digest != verification["report_sha256"]:
        raise Refused("digest_mismatch", f"the parts of the report on {name} do not make the digest that the log has")
    _agree(own["figure"]["request"], request["id"], f"the request whose figure is shown of {name}")
    if _root_of_figure(own["figure"], own["index"], own["proof"], size=parts["requests"]) != parts["root"]:
        raise Refused("bad_proof", f"the request's own figure of {name} is none of the report's")


def _root_of_figure(figure: Json, index: int, proof: Sequence[str], *, size: int) -> str:
    siblings = [bytes.fromhex(node) for node in proof]
    leaf = leaf_hash(figure)
    return root_from_proof(leaf, index=index, size=size, proof=siblings, what="figure", tree="report").hex()


def _at(entries: Mapping[int, Json], seq: int, what: str) -> Json:
    if seq not in entries:
        raise Refused("bad_log", f"the bundle lacks log entry {seq}, which is named for {what}")
    return entries[seq]


def _check_residuals(certificate: Json, entries: Mapping[int, Json]) -> None:
    for residual in certificate["residuals"]:
        if residual["kind"] == "version" and residual["state"] == "purged":
            if residual["log_index"] is None:
                raise Refused("inconsistent", f"{residual['name']} is called purged, and no log entry says so")
            entry = _at(entries, residual["log_index"], f"the purge of {residual['name']}")
            purge = ("version.purged", residual["name"])
            _agree(purge, (entry["action"], entry["subject"]), f"the purge of {residual['name']}")
            _agree(residual["sha256"], entry["payload"].get("sha256"), f"the digest of {residual['name']}")
        elif residual["log_index"] is not None:
            _at(entries, residual["log_index"], f"the residual {residual['name']}")


def _check_subjects(statements: Mapping[str, Json], entries: Mapping[int, Json]) -> None:
    certificate = statements["certificate"]["predicate"]
    expected = [
        {"name": f"{model['model']}/{model['result']['version']}", "digest": {"sha256": model["result"]["sha256"]}}
        for model in certificate["models"]
    ]
    if not expected:
        ended = _entry_of(entries, "request.completed", f"deletion-request/{certificate['request']['id']}")
        expected = [{"name": f"audit-entry/{ended['seq']}", "digest": {"sha256": leaf_hash(ended).hex()}}]
    for part, statement in statements.items():
        if statement["subject"] != expected:
            raise Refused("subjects_differ", f"the {part} statement is about other files than the certificate's models")


def _check_provenance(provenance: Json, certificate: Json) -> None:
    definition = provenance["buildDefinition"]
    asked, jobs = definition["externalParameters"], definition["internalParameters"]["jobs"]
    request = certificate["request"]
    if (asked["request"], asked["purpose"]) != (request["id"], request["purpose"]):
        raise Refused("inconsistent", "the provenance is of another request than the certificate")
    if [job["job"] for job in jobs] != [model["job"] for model in certificate["models"]]:
        raise Refused("inconsistent", "the provenance is of other jobs than the certificate")
    used = _digests(definition["resolvedDependencies"], "the provenance's dependencies")
    made = _digests(provenance["runDetails"]["byproducts"], "the provenance's byproducts")
    for job, model in zip(jobs, certificate["models"], strict=True):
        name, parent, verification = model["model"], model["parent"], model["verification"]
        if (job["model"], job["method"]) != (name, model["method"]["id"]):
            raise Refused("inconsistent", f"the provenance has another method for {name} than the certificate")
        if sha256(canonical(job["parameters"])) != model["method"]["parameters_sha256"]:
            raise Refused("digest_mismatch", f"the parameters used on {name} do not have the certificate's digest")
        if used.get(f"{name}/{parent['version']}") != parent["sha256"]:
            raise Refused("digest_mismatch", f"the provenance has another parent of {name} than the certificate")
        if made.get(f"evaluation/{verification['evaluation']}") != verification["report_sha256"]:
            raise Refused("digest_mismatch", f"the provenance has another report of {name} than the certificate")


def _digests(resources: Sequence[Json], what: str) -> dict[str, str]:
    found = {each["name"]: each["digest"]["sha256"] for each in resources}
    if len(found) != len(resources):
        raise Refused("inconsistent", f"a name stands twice among {what}")
    return found


def _check_reexecution(model: Json, run: Json, keys: Sequence[Json], entries: Mapping[int, Json]) -> None:
    """Draw again whether the work had to be done twice, and hold what was committed to against the log."""
    told, name = model["reexecution"], model["model"]
    if told is None:
        return
    seq, first = told["committed"]["seq"], told["committed"]["sha256"]
    entry = _at(entries, seq, f"the result that {name}'s job was committed to")
    expected = ("job.result_committed", f"job/{model['job']}", first)
    what = f"the result that {name}'s job was committed to"
    _agree(expected, (entry["action"], entry["subject"], entry["payload"].get("sha256")), what)
    _agree(told["sha256"], model["result"]["sha256"], f"the result that was or was not made twice, of {name},")
    if first == told["sha256"]:
        _check_committed(model, run, entry["payload"])
    signed = _signed_by_one_of(keys, told["checkpoint"]["note"], name)
    draw = hashlib.sha256((told["checkpoint"]["note"] + model["job"]).encode()).hexdigest()
    if (signed.size, told["checkpoint"]["size"], told["draw"]) != (seq + 1, seq + 1, draw):
        raise Refused("inconsistent", f"the draw for {name} does not follow from the checkpoint after its commitment")
    drawn = Fraction(int(draw, 16), 1 << 256) < Fraction(told["share"])
    because = "draw" if first == told["sha256"] else "another_result_was_committed_before"
    if (told["chosen"], told["because"]) != (drawn or because != "draw", because):
        raise Refused("inconsistent", f"whether {name} was to be made twice does not follow from the draw")
    if told["chosen"] and not _equal(told):
        raise Refused("inconsistent", f"{name} was to be made twice, and equal weights are not shown")


def _check_committed(model: Json, run: Json, logged: Json) -> None:
    name = model["model"]
    _agree(model["parent"]["sha256"], logged.get("parent_sha256"), f"the parent of {name}")
    _agree(model["method"]["id"], logged.get("method"), f"the method used on {name}")
    parameters = sha256(canonical({"config": run["parameters"], "seed": run["seed"]}))
    _agree(parameters, logged.get("parameters_sha256"), f"the digest of parameters and seed used on {name}")


def _signed_by_one_of(keys: Sequence[Json], note: str, name: str) -> Checkpoint:
    for key in keys:
        try:
            return read_checkpoint(note, key)
        except Refused:
            continue
    raise Refused("bad_checkpoint", f"the checkpoint of the draw for {name} is signed by none of the bundle's keys")


def _equal(told: Json) -> bool:
    same = told.get("reexecuted_sha256") == told["sha256"]
    apart, tolerance = told.get("max_relative_difference"), told.get("tolerance", 0)
    near = apart is not None and told.get("device") != "cpu" and 0 <= apart <= tolerance <= CUDA_TOLERANCE
    return told.get("equal") is True and told.get("bit_for_bit") is same and (same or near)


def _check_test_result(tests: Json, certificate: Json) -> None:
    used = _digests(tests["configuration"], "the test result's configuration")
    for model in certificate["models"]:
        name, verification = model["model"], model["verification"]
        if used.get(f"policy/{name}/{model['result']['version']}") != model["criteria"]["policy_sha256"]:
            raise Refused("digest_mismatch", f"the test result has other criteria of {name} than the certificate")
        if used.get(f"evaluation/{verification['evaluation']}") != verification["report_sha256"]:
            raise Refused("digest_mismatch", f"the test result has another report of {name} than the certificate")
    gates = [model["verification"]["gate"] for model in certificate["models"]]
    if tests["result"] == "PASSED" and (not gates or set(gates) != {"pass"} or tests["failedTests"]):
        raise Refused("inconsistent", "the test result says PASSED, and the certificate's gates do not")
    if (tests["result"] == "FAILED") != ("fail" in gates):
        raise Refused("inconsistent", "the test result and the certificate's gates differ")


def _check_weights(weights: Mapping[str, str], certificate: Json) -> list[str]:
    """Return which version each file is. Raises Refused for a file that the certificate is not about."""
    known = {m["result"]["sha256"]: f"{m['model']}/{m['result']['version']}" for m in certificate["models"]}
    for name, digest in weights.items():
        if digest not in known:
            raise Refused("weights_mismatch", f"{name} has SHA-256 {digest}, which is none of the certificate's files")
    return [known[digest] for digest in weights.values()]


def _check_reports(reports: Mapping[str, bytes], certificate: Json) -> list[str]:
    known = {model["verification"]["report_sha256"]: model for model in certificate["models"]}
    found = []
    for name, raw in reports.items():
        try:
            report = json.loads(raw, object_pairs_hook=no_name_twice, parse_int=whole)
            digest = report_digest(report)
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            raise Refused("report_mismatch", f"{name} is not a report") from None
        if digest not in known:
            raise Refused("report_mismatch", f"{name} has digest {digest}, which is none of the certificate's reports")
        _check_figures(known[digest], report, name, request_id=certificate["request"]["id"])
        found.append(known[digest]["verification"]["evaluation"])
    return found


def _check_figures(model: Json, report: Json, file: str, *, request_id: str) -> None:
    """Raise Refused unless the certificate says of the model what the report says."""
    method, verification = model["method"], model["verification"]
    shared = "parts" in verification
    stated = {
        "task": model.get("task"),
        "method": method["id"],
        "guarantee": method["guarantee"] == "exact",
        "parameters": method["parameters_sha256"],
        "verdict": (verification["gate"], verification["sentence"]),
        "list of figures": [[r[k] for k in ("metric", "split", "value", "ci95", "n")] for r in verification["results"]],
        "re-execution": model["reexecution"],
        "figure of the request's own samples": verification["parts"]["own"]["figure"] if shared else None,
    }
    try:
        reported = {
            "task": report.get("task"),
            "method": report["method"],
            "guarantee": report["guarantee"] == "exact",
            "parameters": sha256(canonical(report["config"])),
            "verdict": (report["gate"]["verdict"], report["gate"]["sentence"]),
            "list of figures": [[m.get(k) for k in ("name", "split", "value", "ci95", "n")] for m in report["metrics"]],
            "re-execution": report.get("reexecution"),
            "figure of the request's own samples": _own_figure(report, request_id) if shared else None,
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Refused("report_mismatch", f"{file} is not a report of an evaluation") from None
    for what, value in stated.items():
        if value != reported[what]:
            raise Refused("report_mismatch", f"the certificate has another {what} of {model['model']} than {file}")


def _own_figure(report: Json, request_id: str) -> Json | None:
    return next((figure for figure in report["per_request"] if figure["request"] == request_id), None)


def report_digest(report: Mapping[str, Any]) -> str:
    """Return the digest that the log has of a report, as it is served: whole, or with one request's figure alone.

    It is that of the canonical bytes, without what is added where it is served; where the report says that it is made
    of `parts`, that of the parts. Raises Refused where these do not fit together.
    """
    if "parts" not in report:
        return sha256(canonical({name: value for name, value in report.items() if name not in NOT_OF_THE_REPORT}))
    parts, figures = report["parts"], report["per_request"]
    if "shown" in parts:
        [figure], shown = figures, parts["shown"]
        root = _root_of_figure(figure, shown["index"], shown["proof"], size=parts["requests"])
    else:
        root = tree_root([leaf_hash(figure) for figure in figures]).hex()
        if parts["requests"] != len(figures):
            raise Refused("report_mismatch", f"the report is of {parts['requests']} requests and has {len(figures)}")
    if (parts["scheme"], parts["root"]) != (PARTS_SCHEME, root):
        raise Refused("report_mismatch", "the figures of the report's requests do not have the root that it states")
    return digest_of_parts(common_digest(report), requests=parts["requests"], root=root)


def common_digest(report: Mapping[str, Any]) -> str:
    """Return the digest of what a report says for all requests that share it."""
    others = (*NOT_OF_THE_REPORT, "parts", "per_request")
    return sha256(canonical({name: value for name, value in report.items() if name not in others}))


def digest_of_parts(common_sha256: str, *, requests: int, root: str) -> str:
    """Return the digest of a report made of parts. ``root``: of the tree over its requests' figures."""
    parts = {"scheme": PARTS_SCHEME, "common_sha256": common_sha256, "requests": requests, "root": root}
    return sha256(canonical(parts))


# --- Trusted keys and the command line -------------------------------------------------------------------------------


def read_trusted(text: str) -> list[TrustedKey]:
    """Return the keys of a `--trusted-key`. Raises ValueError.

    One a line: a verifier key (`name+hash+base64`), a public key in hexadecimal or base64, or a key's id. Or the JSON
    list of keys that the service serves, whose dates of validity and revocation then count too.
    """
    stripped = text.strip()
    if stripped.startswith(("{", "[")):
        document = json.loads(stripped)
        rows = document if isinstance(document, list) else document.get("items", document.get("keys", []))
        return [_trusted_row(row) for row in rows]
    return [_pin(line.strip()) for line in stripped.splitlines() if line.strip()]


def _trusted_row(row: Json) -> TrustedKey:
    known = {name: _date(row[name]) for name in ("not_before", "not_after", "revoked_at") if row.get(name) is not None}
    found = _pin(row.get("verifier_key") or row["public_key"])
    return TrustedKey(pin=found.pin, name=found.name, **known)


def _date(text: Any) -> str:
    if not isinstance(text, str) or datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text} is no moment with its offset from UTC")
    return text


def _pin(text: str) -> TrustedKey:
    if re.fullmatch("[0-9a-fA-F]{64}", text):
        return TrustedKey(pin=bytes.fromhex(text))
    name, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    if re.fullmatch("[0-9a-f]{8}", key_id):
        data = base64.b64decode(encoded, validate=True)
        if data[:1] != b"\x01" or len(data) != 33 or note_key_id(name, data[1:]).hex() != key_id:
            raise ValueError("the verifier key's hash is not that of its name and bytes")
        return TrustedKey(pin=data[1:], name=name)
    found = base64.b64decode(text, validate=True)
    if len(found) != 32:
        raise ValueError("a public key has 32 bytes")
    return TrustedKey(pin=found)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(
    bundle: Path,
    *,
    keys: Sequence[str],
    weights: Sequence[Path],
    reports: Sequence[Path],
    believe_date: bool = False,
) -> int:
    """Print what the bundle shows, or what is wrong with it, and return the exit code."""
    try:
        trusted = [key for text in keys for key in read_trusted(_text_or_file(text))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return _say(USAGE, f"a trusted key cannot be read: {error}")
    try:
        raw = bundle.read_bytes()
        digests = {str(path): _file_digest(path) for path in weights}
        documents = {str(path): path.read_bytes() for path in reports}
    except OSError as error:
        return _say(UNREADABLE, f"cannot read {error.filename}: {error.strerror}")
    if keys and not trusted:
        return _say(USAGE, "--trusted-key names no key")
    try:
        verdict = verify(raw, trusted=trusted, weights=digests, reports=documents, believe_date=believe_date)
    except Refused as refusal:
        return _say(REFUSED, f"REFUSED ({refusal.code}): {refusal}")
    sys.stdout.write(_summary(verdict))
    return verdict.exit_code


def _text_or_file(text: str) -> str:
    try:
        return Path(text).read_text()
    except (OSError, ValueError):
        return text


def _say(code: int, message: str) -> int:
    sys.stderr.write(f"{printable(message)}\n")
    return code


def printable(text: str) -> str:
    """Return the text with whatever could steer a terminal, or break a line, escaped: the bundle's maker wrote it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def _summary(verdict: Verdict) -> str:
    certificate = verdict.certificate
    request, forget_set = certificate["request"], certificate["forget_set"]
    lines = [
        "VERIFIED" if verdict.trusted else "UNTRUSTED KEY: everything agrees, but no trusted key was given",
        f"key          {verdict.key_id}",
        f"request      {request['id']}, {request['purpose']}, scope {request['scope']}",
        f"dates        received {request['received_at']}, due {request['due_at']}, completed {request['completed_at']}",
        f"samples      {forget_set['num_samples']} named, {forget_set['not_found']} not found",
    ]
    for model in certificate["models"]:
        method, gate = model["method"], model["verification"]["gate"]
        kind = "exact" if method["kind"] == "exact" else "approximate, no guarantee"
        task = f", for {model['task']}," if "task" in model else ""
        lines.append(
            f"model        {model['model']}/{model['result']['version']}{task} by {method['id']} ({kind}), gate: {gate}"
        )
        lines += _own_line(model["verification"])
    lines += [] if certificate["models"] else ["model        none: nothing was unlearned or measured for this request"]
    kept = [each for each in certificate["residuals"] if each["state"] not in GONE]
    lines += [f"left         {each['name']}: {each['state']}" for each in kept]
    lines += [f"note         {note}" for note in verdict.notes]
    lines += [f"weights      {name}: the file is this version" for name in verdict.weights]
    lines += [f"report       {name}: the file is this report" for name in verdict.reports]
    lines += ["does not prove", *(f"  - {limit}" for limit in certificate["does_not_prove"])]
    return "\n".join(map(printable, lines)) + "\n"


def _own_line(verification: Json) -> list[str]:
    """Return the line about the request's own samples, where the work was shared."""
    if "parts" not in verification:
        return []
    figure, sharing = verification["parts"]["own"]["figure"], verification["parts"]["requests"]
    known = ("request", "n", "ci95", "salt")
    found = {name: value for name, value in figure.items() if name not in known and value is not None}
    attacks = ", ".join(f"{name} {value}" for name, value in found.items()) or "nothing measured"
    return [
        f"own samples  {attacks}, 95 % interval {figure['ci95']}, on {figure['n']}; {sharing} requests shared the work"
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        description="Check an unlearning certificate offline.",
        epilog="Exit codes: 0 verified, 1 refused, 2 wrong usage, 3 no trusted key was given, 4 unreadable file.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--trusted-key", action="append", default=[], help="the key to trust, or a file with keys")
    parser.add_argument("--weights", action="append", default=[], type=Path, help="a weights file it should be about")
    parser.add_argument("--report", action="append", default=[], type=Path, help="a report it should be about")
    parser.add_argument("--believe-date", action="store_true", help="accept what was issued before its key was revoked")
    given = parser.parse_args(arguments)
    return run(
        given.bundle,
        keys=given.trusted_key,
        weights=given.weights,
        reports=given.report,
        believe_date=given.believe_date,
    )


if __name__ == "__main__":
    sys.exit(main())
