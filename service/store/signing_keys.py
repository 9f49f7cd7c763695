"""The service's signing keys: private halves from a setting or a file, public halves and their validity in the store.

The store says which key is current; a process whose private key is another one signs nothing. Each addition,
retirement and revocation is an audit entry, so that the log itself says which key could sign when. Their dates go with
the log's times: by a clock that was set back, a key would be retired before it signed the last certificates.
"""

import os
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, Unavailable
from service.evidence import signing
from service.evidence.notes import NoteKey
from service.evidence.signing import Signer, UnusableKey
from service.settings import Settings, key_file
from service.store import audit, audit_tree
from service.store.session import may_write
from service.store.tables import SigningKey

ALGORITHM = "ed25519"


def every(session: Session) -> list[SigningKey]:
    """Return all keys there ever were, oldest first."""
    return list(session.scalars(select(SigningKey).order_by(SigningKey.not_before, SigningKey.key_id)))


def note_keys(session: Session, origin: str) -> list[NoteKey]:
    """Return all public keys, also those no longer valid, as what reads notes of this origin takes."""
    return [NoteKey(name=origin, public_key=row.public_key) for row in every(session)]


def known_note_keys(session: Session, settings: Settings) -> list[NoteKey]:
    """Return those of the log, and the one that this process signs with: a log cut short may not tell of it yet."""
    try:
        own = _configured(settings) or (_read(_file(settings), settings) if _file(settings).exists() else None)
    except Unavailable:
        own = None
    mine = [NoteKey(name=settings.log_origin, public_key=own.public_key)] if own is not None else []
    return [*note_keys(session, settings.log_origin), *mine]


def current(session: Session, settings: Settings) -> Signer:
    """Return who signs now; the first call of all adds the key, and needs a writing session.

    Raises Unavailable where no key is valid, or this process has another one than the current.
    """
    row = _current(session)
    if row is None:
        return _add_first(session, settings)
    signer = _load(settings, row.key_id)
    if signer.key_id != row.key_id:
        raise _unusable(
            f"This process has the signing key {signer.key_id[:16]}…, and the current one is {row.key_id[:16]}…. "
            "Give it that one, or make its key the current one with `unlearn signing-keys rotate`."
        )
    return signer


def valid_from(session: Session, key_id: str) -> datetime:
    """Return from when on a key of this service is valid."""
    return session.get_one(SigningKey, key_id).not_before


def rotate(session: Session, settings: Settings) -> Signer:
    """Retire the current key, if there is one, and make another one current from now on.

    The next one is the configured key; where none is configured, a new one, which `current` moves into place after
    the commit, over the old private key. Raises Conflict if the configured key was in use before.
    """
    audit_tree.lock(session)
    signer = _configured(settings) or _made(_next_file(settings), settings)
    if session.get(SigningKey, signer.key_id) is not None:
        raise Conflict(
            "The configured signing key is in use, or was. Set UNLEARN_SIGNING_KEY or UNLEARN_SIGNING_KEY_FILE to a "
            "new key first, here and for every process.",
            code="signing_key_not_new",
        )
    moment = audit.time_now(session)
    row = _current(session)
    if row is not None:
        row.not_after = moment
        session.flush()  # two current keys are not allowed, not even within a transaction
        _record(session, "signing_key.retired", row.key_id, {"not_after": audit.moment(moment)})
    _add(session, signer, moment)
    return signer


def revoke(session: Session, key_id: str, *, reason: str) -> None:
    """Say that nothing signed with the key is to be trusted; doing it twice is not an error. Raises NotFound."""
    audit_tree.lock(session)
    row = session.get(SigningKey, key_id)
    if row is None:
        raise NotFound("There is no such signing key.", code="signing_key_not_found")
    if row.revoked_at is None:
        row.revoked_at, row.reason = audit.time_now(session), reason
        _record(session, "signing_key.revoked", key_id, {"revoked_at": audit.moment(row.revoked_at), "reason": reason})


def _current(session: Session) -> SigningKey | None:
    return session.scalar(
        select(SigningKey).where(
            SigningKey.algorithm == ALGORITHM, SigningKey.not_after.is_(None), SigningKey.revoked_at.is_(None)
        )
    )


def _add_first(session: Session, settings: Settings) -> Signer:
    if not may_write(session):
        raise RuntimeError("the first signing key is added by a writing session")
    audit_tree.lock(session)  # two processes that start together take turns
    if _current(session) is not None:
        return current(session, settings)
    if session.scalar(select(SigningKey.key_id).limit(1)) is not None:
        raise _unusable("No signing key is valid: the last one was revoked. Run `unlearn signing-keys rotate`.")
    signer = _load(settings, None)
    _add(session, signer, audit.time_now(session))
    return signer


def _add(session: Session, signer: Signer, moment: datetime) -> None:
    session.add(SigningKey(key_id=signer.key_id, algorithm=ALGORITHM, public_key=signer.public_key, not_before=moment))
    session.flush()
    payload = {
        "algorithm": ALGORITHM,
        "public_key": signer.public_key.hex(),
        "verifier_key": NoteKey(name=signer.name, public_key=signer.public_key).verifier_key,
        "not_before": audit.moment(moment),
    }
    _record(session, "signing_key.added", signer.key_id, payload)


def _record(session: Session, action: str, key_id: str, payload: dict[str, str]) -> None:
    subject = f"signing-key/{key_id}"
    audit.record(session, action, subject=subject, payload=payload, links={"signing_key": key_id})


def _load(settings: Settings, key_id: str | None) -> Signer:
    """Return the configured signer, or the one in the data folder; ``key_id`` is the current key's, if there is one."""
    configured = _configured(settings)
    if configured is not None:
        return configured
    path = _file(settings)
    if key_id is None:
        key_file(path)
    _finish_rotation(settings, key_id)
    return _read(path, settings)


def refuse_unusable(settings: Settings) -> None:
    """Raise ServiceError if a signing key is configured and cannot sign; asks no database."""
    _configured(settings)


def _configured(settings: Settings) -> Signer | None:
    try:
        if settings.signing_key is not None:
            seed = signing.parse_seed(settings.signing_key.get_secret_value())
        elif settings.signing_key_file is not None:
            seed = signing.read_seed(settings.signing_key_file)
        else:
            return None
    except UnusableKey as error:
        raise _unusable(f"{error}.") from None
    return Signer.of_seed(seed, name=settings.log_origin)


def _file(settings: Settings) -> Path:
    return settings.data_dir / "signing.key"


def _next_file(settings: Settings) -> Path:
    return settings.data_dir / "signing.key.next"


def _read(path: Path, settings: Settings) -> Signer:
    try:
        return Signer.of_seed(signing.read_seed(path), name=settings.log_origin)
    except UnusableKey as error:
        raise _unusable(f"{error}.") from None


def _made(path: Path, settings: Settings) -> Signer:
    path.unlink(missing_ok=True)  # left by a rotation that was not committed
    return Signer.of_seed(key_file(path), name=settings.log_origin)


def _finish_rotation(settings: Settings, key_id: str | None) -> None:
    """Move the next key into place if the store says that it is the current one."""
    path = _next_file(settings)
    try:
        if path.exists() and _read(path, settings).key_id == key_id:
            os.replace(path, _file(settings))  # noqa: PTH105 - over the old one, in one step
    except FileNotFoundError:  # another process was faster
        pass


def _unusable(detail: str) -> Unavailable:
    return Unavailable(detail, code="signing_key_unusable")
