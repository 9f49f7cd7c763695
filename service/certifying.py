"""The duty that issues certificates: one for each completed request, once what held its samples is gone."""

import time
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import IntegrityError, NoResultFound

from service import faults
from service.deps import Parts
from service.duties import Duty
from service.errors import ServiceError
from service.evidence import bundle, verify
from service.evidence.verify import Refused, TrustedKey
from service.faults import Step
from service.store import certificate_facts, certificates, checkpoints, dataset_roots, requests, signing_keys
from service.store.checkpoints import SignedCheckpoint
from service.store.tables import Certificate

EVERY_SECONDS, RETRY_SECONDS = 2.0, 60.0
_SIGNING = "signing"
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Made:
    """A bundle, and what is kept beside it."""

    id: str
    raw: bytes
    key_id: str


class Issuer:
    """Issues certificates. It remembers which could not be made, to try them again more seldom."""

    def __init__(self) -> None:
        self._not_before: dict[str, float] = {}

    def __call__(self, parts: Parts) -> None:
        """Issue what can be issued now. Costs one query where there is nothing to do."""
        with parts.database.reading() as session:
            waiting = certificates.without(session, besides=[each for each in self._not_before if not self._due(each)])
            ready = [each for each in waiting if not certificates.waits_for(session, requests.get(session, each))]
        if not ready or not self._due(_SIGNING):
            return
        try:
            signed = checkpoints.fresh(parts.database, parts.settings)
        except ServiceError as error:
            self._failed(_SIGNING, error)
            return
        roots = dataset_roots.Reader()
        for request_id in ready:
            if parts.draining.is_set():
                return
            try:
                issue(parts, request_id, signed, roots)
            except (Refused, ServiceError, LookupError, NoResultFound, TypeError, ValueError) as error:
                self._failed(request_id, error)  # and holds no other up

    def _failed(self, what: str, error: Exception) -> None:
        self._not_before[what] = time.monotonic() + RETRY_SECONDS
        log.error("certificate.failed", concerning=what, error=type(error).__name__, reason=str(error))

    def _due(self, what: str) -> bool:
        return time.monotonic() >= self._not_before.get(what, 0.0)


def issue(parts: Parts, request_id: str, signed: SignedCheckpoint, roots: dataset_roots.Reader) -> None:
    """Issue the certificate of one request. Raises Refused, LookupError. ``roots``: shared by those of one turn."""
    made = _make(parts, request_id, signed, roots)
    if made is None:
        return
    row = Certificate(
        id=made.id, request_id=request_id, sha256=verify.sha256(made.raw), key_id=made.key_id, bundle=made.raw
    )
    faults.reach(Step.CERTIFICATE_ISSUING)
    try:
        with parts.database.writing() as session:
            kept = certificates.keep(session, request_id, row)
    except IntegrityError:  # another process was faster
        kept = False
    if kept:
        log.info("certificate.issued", request_id=request_id, certificate_id=made.id)


def _make(parts: Parts, request_id: str, signed: SignedCheckpoint, roots: dataset_roots.Reader) -> Made | None:
    """Return the bundle; None where the key was changed since the checkpoint. Raises Refused, LookupError."""
    with parts.database.reading() as session:
        request = requests.get(session, request_id)
        signer = signing_keys.current(session, parts.settings)
        if signer.key_id != signed.key_id:
            return None
        master_key = parts.settings.master_key_bytes
        valid_from = signing_keys.valid_from(session, signer.key_id)
        gathered = certificate_facts.gather(session, request, master_key=master_key, roots=roots, not_before=valid_from)
        proofs = certificate_facts.proofs(session, gathered.entries, signed)
        keys = certificate_facts.keys(session, signer.name)
    raw = bundle.make(gathered.facts, log=proofs, keys=keys, signer=signer)
    # No certificate is issued that an auditor's check would refuse.
    verify.verify(raw, trusted=[TrustedKey(pin=signer.public_key)])
    return Made(id=gathered.facts.id, raw=raw, key_id=signer.key_id)


DUTY = Duty(name="certificates", every_seconds=EVERY_SECONDS, run=Issuer())
