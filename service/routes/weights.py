"""…/versions/{n}/weights: the download, with ranges and digests, and a clear no once a version is out."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from service import weights_stream
from service.auth import Principal
from service.deps import Parts, PartsDep, needs, writing_as
from service.digest_headers import etag, names_tag, repr_digest
from service.errors import Conflict, Gone, Quarantined, ServiceError
from service.lifecycle import VersionState
from service.routes.versions import WEIGHTS, VersionNumber
from service.store import audit, certificates, models, recipients, versions
from service.store.tables import Version

_RANGES = re.compile(r"bytes=\d{0,18}-\d{0,18}( *, *\d{0,18}-\d{0,18})*", re.ASCII)
_RANGE = re.compile(r"(\d*)-(\d*)", re.ASCII)
_BYTES = {WEIGHTS: {"schema": {"type": "string", "format": "binary"}}}
_TAGS: dict[str, Any] = {
    "ETag": {"required": True, "schema": {"type": "string"}},
    "Repr-Digest": {"required": True, "schema": {"type": "string"}},
}
_DOWNLOADED: dict[int | str, dict[str, Any]] = {
    200: {"content": _BYTES, "headers": _TAGS},
    206: {"description": "The ranges asked for.", "content": {**_BYTES, "multipart/byteranges": {}}, "headers": _TAGS},
    304: {"description": "The client has these bytes.", "headers": _TAGS},
}
_TOLD: dict[int | str, dict[str, Any]] = {status: {"headers": _TAGS} for status in (200, 304)}
_TOLD[304] |= {"description": "The client has these bytes."}

router = APIRouter(prefix="/v1/models/{name}/versions", tags=["versions"])


class WeightsFile(FileResponse):
    """Each chunk is read in a turn of the thread pool; larger ones make up for what authorisation and the log cost."""

    chunk_size = 1 << 18


def _refusal(session: Session, name: str, version: Version) -> ServiceError | None:
    match VersionState(version.state):
        case VersionState.ACTIVE:
            return None
        case VersionState.REJECTED | VersionState.PURGED if version.retired_at is None:
            return _lost(name, version) if versions.is_lost(version) else _rejected()
        case VersionState.RETIRED | VersionState.PURGED | VersionState.REJECTED:
            return _retired(session, name, version)
        case VersionState.QUARANTINED:
            return Quarantined("An open deletion request concerns this version; it is withheld until that ends.")
        case VersionState.VALIDATING:
            return Conflict("A worker has not checked these weights yet; ask again soon.", code="version_validating")


def _retired(session: Session, name: str, version: Version) -> Gone:
    gone = Gone(
        f"Version {version.number} of {name!r} held data that was erased since; "
        f"GET /v1/models/{name}/versions/latest names its successor."
    )
    gone.extra["latest"] = f"/v1/models/{name}/versions/latest"
    gone.extra |= certificates.links_of_version(session, version)
    gone.extra["retired_at"] = version.retired_at.isoformat() if version.retired_at else None
    return gone


def _lost(name: str, version: Version) -> Gone:
    gone = Gone(
        f"Version {version.number} of {name!r} was made after the backup from which the service was restored, and is "
        f"lost; GET /v1/models/{name}/versions/latest names the newest in circulation, if there is one.",
        code="version_lost",
        title="This version was lost",
    )
    gone.extra["latest"] = f"/v1/models/{name}/versions/latest"
    return gone


def _rejected() -> Conflict:
    return Conflict("These weights were rejected; the version's `error` says why.", code="version_rejected")


@router.get("/{number}/weights", operation_id="download_weights", response_class=Response, responses=_DOWNLOADED)
def download(
    name: str,
    number: VersionNumber,
    request: Request,
    parts: PartsDep,
    who: Annotated[Principal, needs("weights:read")],
) -> Response:
    """Download the weights (safetensors). Supports Range, If-Range and If-None-Match."""
    with parts.database.reading() as session:
        model = models.by_name(session, name)
        version = versions.get(session, model, number)
        refusal = _refusal(session, name, version)
        if refusal is not None:
            raise refusal
    headers = {
        "ETag": etag(version.sha256),
        "Repr-Digest": repr_digest(version.sha256),
        "Cache-Control": "no-store",
    }
    if names_tag(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        length = {"Content-Length": str(version.size_bytes), "Accept-Ranges": "bytes"}
        return Response(headers=headers | length, media_type=WEIGHTS)
    sent = _applied_range(request, headers["ETag"], version.size_bytes)
    answer = _answer(parts, version, sent, headers)
    _record(parts, who, name, version, sent)
    return answer


def _answer(parts: Parts, version: Version, sent: str | None, headers: dict[str, str]) -> Response:
    if parts.artifacts.local_path(version.sha256) is None and (sent is None or "," not in sent):
        asked = _first_and_end(sent, version.size_bytes) if sent is not None else None
        typed = headers | {"Content-Type": WEIGHTS}
        return weights_stream.answer(
            parts.artifacts, version.sha256, version.size_bytes, byte_range=asked, headers=typed
        )
    path, cleanup = _file(parts, version.sha256)
    return WeightsFile(path, headers=headers, media_type=WEIGHTS, background=cleanup)


def _first_and_end(byte_range: str, size: int) -> tuple[int, int]:
    """Return where a single range begins and before which byte it ends."""
    first, last = _RANGE.findall(byte_range)[0]
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


def _applied_range(request: Request, tag: str, size: int) -> str | None:
    """Return the Range that is answered; drop one that is none, or does not apply, as RFC 9110 §13.1.5, §14.2 ask.

    Raises a problem if no part of it lies in the file.
    """
    given = request.headers.get("range")
    if given is None:
        return None
    if not _RANGES.fullmatch(given) or _backwards(given) or request.headers.get("if-range", tag) != tag:
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
        return None
    there = [f"{first}-{last}" for first, last in _RANGE.findall(given) if _overlaps(first, last, size)]
    if not there:
        raise HTTPException(416, f"The weights have {size} bytes.", {"Content-Range": f"bytes */{size}"})
    # A set of ranges is satisfiable if one of them is; what answers would refuse the set for any that is not.
    kept = ("bytes=" + ", ".join(there)).encode()
    headers = request.scope["headers"]
    request.scope["headers"] = [(name, kept if name == b"range" else value) for name, value in headers]
    return given


def _overlaps(first: str, last: str, size: int) -> bool:
    return int(first) < size if first else int(last) > 0


def _backwards(ranges: str) -> bool:
    found = _RANGE.findall(ranges)
    return any((first and last and int(first) > int(last)) or not (first or last) for first, last in found)


@router.head("/{number}/weights", operation_id="head_weights", response_class=Response, responses=_TOLD)
def head(
    name: str,
    number: VersionNumber,
    request: Request,
    parts: PartsDep,
    who: Annotated[Principal, needs("weights:read")],
) -> Response:
    """Answer as the download would, without the bytes."""
    return download(name, number, request, parts, who)


def _file(parts: Parts, sha256: str) -> tuple[Path, BackgroundTask | None]:
    local = parts.artifacts.local_path(sha256)
    if local is not None:
        return local, None
    # Several ranges are cut from a file; its folder is gone again when the answer has been sent, or is swept away.
    parent = parts.settings.data_dir / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        parts.artifacts.fetch(sha256, folder / "weights")
    except ServiceError:
        shutil.rmtree(folder)
        raise
    except OSError as error:
        shutil.rmtree(folder)
        raise weights_stream.unreachable() from error
    return folder / "weights", BackgroundTask(shutil.rmtree, folder)


def _record(parts: Parts, who: Principal, name: str, version: Version, byte_range: str | None) -> None:
    with writing_as(parts, who) as session:
        # Looked at again, and held: an entry of a download after that of the retirement would be a contradiction.
        row = session.scalar(select(Version).where(Version.id == version.id).with_for_update(read=True))
        refusal = _refusal(session, name, row) if row is not None else None
        if refusal is not None:
            raise refusal
        recipients.note(session, version, who.id)
        audit.record(
            session,
            "version.downloaded",
            subject=f"model/{name}/version/{version.number}",
            payload={"sha256": version.sha256, "range": byte_range[:100] if byte_range else None},
            links={"model": name, "version": f"{name}/{version.number}", "sha256": version.sha256},
        )
