"""/v1/audit: the log as C2SP tlog-tiles serves it (checkpoint, tiles, entry bundles), its proofs, and its keys."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import PlainTextResponse, Response

from service.deps import Parts, PartsDep, needs
from service.errors import Fault, InvalidRequest, NotFound
from service.evidence.merkle import HASH_BYTES, WIDTH
from service.lanes import long_read
from service.schemas.transparency_log import ConsistencyOut, ProofOut, SigningKeyOut, SigningKeysOut
from service.store import audit, audit_tree, checkpoints, signing_keys
from service.store.checkpoints import SignedCheckpoint

OCTETS = "application/octet-stream"
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
}
# What is once in a tile stays: the log only grows.
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}
NOT_KEPT = {"Cache-Control": "no-cache"}
MAX_LEVEL = 5
MAX_SEQ = 2**53 - 1
_LEVEL = re.compile("[0-5]", re.ASCII)
_PLACE = re.compile(r"((?:x\d{3}/)*)(\d{3})(?:\.p/([1-9]\d{0,2}))?", re.ASCII)

_INDEX_PATTERN = r"^(?!x000/)(x[0-9]{3}/){0,4}[0-9]{3}(\.p/([1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?$"

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[needs("audit:read")])
# What the document says; the routes check by themselves, and say what a tile is named like.
Index = Annotated[str, Path(json_schema_extra={"pattern": _INDEX_PATTERN})]
Level = Annotated[str, Path(json_schema_extra={"enum": [str(level) for level in range(MAX_LEVEL + 1)]})]
Size = Annotated[int, Query(ge=1, le=MAX_SEQ)]


@router.get("/checkpoint", operation_id="get_audit_checkpoint", response_class=PlainTextResponse)
def checkpoint(parts: PartsDep) -> Response:
    """Return a signed note (C2SP tlog-checkpoint) over every entry that is committed."""
    return PlainTextResponse(_fresh(parts).note, headers=NOT_KEPT)


def _fresh(parts: Parts) -> SignedCheckpoint:
    return checkpoints.fresh(parts.database, parts.settings)


@router.get(
    "/tile/entries/{index:path}", operation_id="get_audit_entry_bundle", response_class=Response, responses=BYTES
)
def entry_bundle(index: Index, parts: PartsDep) -> Response:
    """Return up to 256 entries, each the bytes that its leaf hashes, with their length before them in two bytes."""
    number, width = _place(index)
    first = number * WIDTH
    with parts.database.reading() as session:
        rows = audit.find(session, after=first - 1, limit=width)
    if len(rows) < width or rows[-1].seq != first + width - 1:
        raise _no_tile()
    entries = [audit.hashed_bytes(row) for row in rows]
    body = b"".join(len(entry).to_bytes(2) + entry for entry in entries)
    return Response(body, media_type=OCTETS, headers=FOR_EVER)


@router.get("/tile/{level}/{index:path}", operation_id="get_audit_tile", response_class=Response, responses=BYTES)
def tile(level: Level, index: Index, parts: PartsDep) -> Response:
    """Return up to 256 hashes of the Merkle tree side by side (C2SP tlog-tiles)."""
    if _LEVEL.fullmatch(level) is None:
        raise _bad_path("/level", level)
    place, width = (int(level), _place(index)[0]), _place(index)[1]
    with parts.database.reading() as session:
        hashes = audit_tree.tiles(session, [place]).get(place, b"")[: width * HASH_BYTES]
    if len(hashes) < width * HASH_BYTES:
        raise _no_tile()
    return Response(hashes, media_type=OCTETS, headers=FOR_EVER)


def _place(path: str) -> tuple[int, int]:
    """Return the number and the width in a path such as ``x001/234.p/7``. Raises InvalidRequest, NotFound."""
    match = _PLACE.fullmatch(path)
    if match is None or path.startswith("x000/") or len(path) > 40:
        raise _bad_path("/index", path)
    width = int(match[3] or WIDTH)
    if match[3] and width >= WIDTH:
        raise _bad_path("/index", path)
    number = int(match[1].replace("x", "").replace("/", "") + match[2])
    if number * WIDTH > MAX_SEQ:  # more than a database counts to
        raise _no_tile()
    return number, width


def _bad_path(pointer: str, value: str) -> InvalidRequest:
    detail = (
        f"A tile is named <level>/<number>, level 0 to {MAX_LEVEL}, the number in groups of three digits with x before "
        "all but the last and no needless group, and then, if it is not full, .p/<width> with 1 to 255."
    )
    return InvalidRequest(detail, code="invalid_tile_path", faults=[Fault(pointer, "invalid_tile_path", value[:100])])


def _no_tile() -> NotFound:
    return NotFound("The log is not that large; GET /v1/audit/checkpoint says how large.", code="tile_not_found")


@router.get("/entries/{seq}/proof", operation_id="get_audit_entry_proof")
@long_read
def proof(
    seq: Annotated[int, Path(ge=0, le=MAX_SEQ)],
    parts: PartsDep,
    size: Annotated[Size | None, Query(description="The size of an earlier checkpoint.")] = None,
) -> ProofOut:
    """Return the entry, a checkpoint, and the path that shows the one to be in the other."""
    fresh = _fresh(parts)
    with parts.database.reading() as session:
        over = fresh if size is None else checkpoints.at(session, size)
        path = checkpoints.inclusion(session, seq, over.size)
        (entry,) = audit.find(session, after=seq - 1, limit=1)
    return ProofOut(
        seq=seq,
        entry=audit.hashed_bytes(entry).decode(),
        leaf_hash=entry.leaf_hash,
        tree_size=over.size,
        root_hash=over.root.hex(),
        path=[step.hex() for step in path],
        checkpoint=over.note,
    )


@router.get("/consistency", operation_id="get_audit_consistency")
def consistency(
    parts: PartsDep,
    old: Annotated[Size, Query(alias="from", description="The size of the older tree.")],
    new: Annotated[Size | None, Query(alias="to", description="That of the newer; the latest checkpoint's.")] = None,
) -> ConsistencyOut:
    """Return the proof that the log at one size begins with what it was at another."""
    if new is not None and old > new:
        detail = "`from` is the smaller size, `to` the larger."
        raise InvalidRequest(detail, faults=[Fault("/from", "larger_than_to", old, detail)])
    latest = _fresh(parts)
    to = latest.size if new is None else new
    with parts.database.reading() as session:
        if to > latest.size or old > to:
            raise NotFound(f"The latest checkpoint covers {latest.size} entries.", code="beyond_checkpoint")
        path = checkpoints.consistency(session, old, to)
        return ConsistencyOut(
            from_size=old,
            to_size=to,
            from_root=audit_tree.root(session, old).hex(),
            to_root=audit_tree.root(session, to).hex(),
            path=[step.hex() for step in path],
            from_checkpoint=checkpoints.note_at(session, old),
            to_checkpoint=checkpoints.note_at(session, to),
        )


@router.get("/keys", operation_id="list_signing_keys")
def keys(parts: PartsDep) -> SigningKeysOut:
    """Return every public key that ever signed, with its validity, the retired and revoked ones too."""
    with parts.database.reading() as session:
        rows = signing_keys.every(session)
    origin = parts.settings.log_origin
    return SigningKeysOut(origin=origin, items=[SigningKeyOut.of(row, origin=origin) for row in rows])
