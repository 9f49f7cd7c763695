"""Are the keys there, and are they the ones that the database was written with?"""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service.doctor.finding import Finding
from service.doctor.store import absent
from service.errors import ServiceError
from service.evidence.key_wrapping import wrapping_key
from service.settings import Settings
from service.store import request_keys, schema, signing_keys
from service.store.session import Database
from service.store.tables import RequestKey


def look(settings: Settings) -> Iterator[Finding]:
    has_master = settings.master_key is not None or (settings.data_dir / "master.key").exists()
    if not has_master:
        yield Finding.warning("master key", "there is none yet", "It is made at the first start; then back it up.")
    elif settings.master_key is None:
        todo = "Back the file up apart from the database: without it no erased id is recognised."
        yield Finding.warning("master key", "it is a file in the data folder", todo)
    if absent(settings):
        return
    database = Database.open(settings)
    try:
        if schema.unfit(database) is not None:
            todo = "First see what is said of the migrations."
            yield Finding.warning("keys", "could not be compared with what the database holds", todo)
            return
        if has_master:
            yield from _master_key_opens(database, settings)
        yield from _signing_key(database, settings)
    except SQLAlchemyError:
        yield Finding.warning("keys", "could not be compared", "First see what is said of the database.")
    finally:
        database.dispose()


def _master_key_opens(database: Database, settings: Settings) -> Iterator[Finding]:
    with database.reading() as session:
        newest = session.scalar(select(RequestKey.request_id).order_by(RequestKey.request_id.desc()).limit(1))
        if newest is None:
            yield Finding.ok("master key", "is there; nothing is sealed with it yet")
            return
        try:
            request_keys.of(session, newest, wrapping_key(settings.master_key_bytes))
        except ServiceError:
            todo = "Set the UNLEARN_MASTER_KEY that the database was written with."
            yield Finding.fault("master key", "does not open what is stored", todo)
            return
    yield Finding.ok("master key", "opens what is stored")


def _signing_key(database: Database, settings: Settings) -> Iterator[Finding]:
    with database.reading() as session:
        try:
            signing_keys.refuse_unusable(settings)
            if not signing_keys.every(session):
                yield Finding.ok("signing key", "none has signed yet")
                return
            signer = signing_keys.current(session, settings)
        except ServiceError as error:
            yield Finding.fault("signing key", "cannot be used, or is not the current one", error.detail)
            return
    yield Finding.ok("signing key", f"is the current one ({signer.key_id[:16]}…)")
