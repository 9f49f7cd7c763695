"""Do the broker, the artifact store and the erasure journal take, give back and delete?"""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from kombu import Connection, Exchange, Queue
from kombu.exceptions import OperationalError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from service.artifacts import ArtifactStore
from service.broker import celery_config
from service.doctor.finding import Finding
from service.doctor.store import absent
from service.erasure_journal import Head, Journal, journal_key
from service.errors import PreconditionFailed, StorageFull, WrongStore
from service.outages import lacking
from service.settings import Settings
from service.store import artifact_stores, journal_heads
from service.store.session import Database
from service.store.tables import ErasedToken

_SECONDS = 5.0
_OF_ANOTHER = (
    "Is the disk mounted, and UNLEARN_ARTIFACTS_URL the same for every process? Else see `unlearn artifacts adopt`."
)
_MOST_BACKLOG = 10_000


def broker(settings: Settings) -> Iterator[Finding]:
    began = time.monotonic()
    try:
        config = celery_config(settings)
        options = config.get("broker_transport_options", {})
        with Connection(
            config["broker_url"], transport=config.get("broker_transport"), transport_options=options
        ) as connection:
            connection.ensure_connection(max_retries=1, timeout=_SECONDS)
            _round_trip(connection)
    except (OperationalError, OSError, TimeoutError, ValueError) as error:
        todo = (
            "Is it running, and are UNLEARN_BROKER_URL and its password right? Without it jobs start late, not never."
        )
        yield _refused("broker", error, f"does not answer ({type(error).__name__})", todo)
        return
    yield Finding.ok("broker", f"gave a message back in {time.monotonic() - began:.2f} s")


def _refused(part: str, error: BaseException, said: str, todo: str) -> Finding:
    """Return the fault of a place that refuses: a full disk is named as that, whatever else may be wrong."""
    if isinstance(lacking(error), StorageFull):
        return Finding.fault(part, "its disk is full", "Free or add space there; see the lines on disks.")
    return Finding.fault(part, said, todo)


def _round_trip(connection: Connection) -> None:
    # By the default exchange: one of its own would outlast the queue.
    name = f"doctor-{secrets.token_hex(8)}"
    queue = connection.SimpleQueue(Queue(name, Exchange(""), routing_key=name, durable=False, auto_delete=True))
    sent = secrets.token_hex(8)
    try:
        queue.put(sent)
        message = queue.get(block=True, timeout=_SECONDS)
        message.ack()
        if message.payload != sent:
            raise ValueError("another message came back")
    finally:
        queue.queue.delete()
        queue.close()


def artifacts(settings: Settings) -> Iterator[Finding]:
    try:
        store = ArtifactStore(settings.resolved_artifacts_url)
        store.probe()
        versioning = store.versioning()
    except (OSError, ImportError) as error:
        todo = "Is the place there, and may the service write, read and delete in it?"
        yield _refused("artifacts", error, f"cannot be used ({type(error).__name__})", todo)
        return
    yield Finding.ok("artifacts", f"{store.kind}: written, read and deleted")
    yield from _whose(settings, store)
    if versioning is not None:
        todo = "Purges delete each version; a bucket without versioning needs no such right. See docs/operations.md."
        yield Finding.warning("artifacts", f"the bucket keeps versions ({versioning})", todo)


def _whose(settings: Settings, store: ArtifactStore) -> Iterator[Finding]:
    """Compare the names that store and database bear; a database that is not there or not migrated has none."""
    if absent(settings):
        return
    database = Database.open(settings)
    try:
        with database.reading() as session:
            row = artifact_stores.own(session)
        found = store.identity()
    except WrongStore as error:
        yield Finding.fault("artifact store", str(error), _OF_ANOTHER)
        return
    except (SQLAlchemyError, OSError):
        return
    finally:
        database.dispose()
    own = row.store_id if row is not None and row.adopted_at is not None else None
    if own is None:
        yield Finding.ok("artifact store", "no process has taken one as this database's yet")
    elif found == own:
        yield Finding.ok("artifact store", "is this database's")
    else:
        said = "bears no name" if found is None else "bears another name"
        yield Finding.fault("artifact store", f"is not this database's: it {said}", _OF_ANOTHER)


def journal(settings: Settings) -> Iterator[Finding]:
    url = settings.resolved_erasure_journal_url
    if _beside_the_data(settings, url):
        todo = "Set UNLEARN_ERASURE_JOURNAL_URL to a place that is not lost with the database."
        yield Finding.warning("erasure journal", "lies in the data folder", todo)
    has_key = settings.master_key is not None or (settings.data_dir / "master.key").exists()
    try:
        # Without a master key nothing in it can be read, but whether it takes anything shows all the same.
        found = Journal(url, journal_key(settings.master_key_bytes) if has_key else b"")
        there = found.probe()
        said = "can be written" if there else "is not there yet, and can be made"
        if not has_key:
            yield Finding.ok("erasure journal", f"{said}; there is no master key yet to read it by")
            return
        if not there:
            yield Finding.ok("erasure journal", said)
        known, last = _known_head(settings), found.last()
        cut = found.is_cut(known, last) or (known is not None and last is None)
    except PreconditionFailed as error:
        yield Finding.fault("erasure journal", error.detail, "A restore could not replay it; make a new backup now.")
        return
    except (OSError, ImportError) as error:
        todo = "Is the place there, and may the service write in it? Erasures wait in the database until then."
        yield _refused("erasure journal", error, f"cannot be used ({type(error).__name__})", todo)
        return
    if cut:
        todo = "Who deletes there? The API writes it all anew with the next erasure; restores need what is gone."
        yield Finding.fault("erasure journal", "its newest segments are gone, or are others than were written", todo)
    if not absent(settings):
        yield from _backlog(settings, last.end if last else 0)


def _known_head(settings: Settings) -> Head | None:
    if absent(settings):
        return None
    database = Database.open(settings)
    try:
        with database.reading() as session:
            return journal_heads.known(session)
    except SQLAlchemyError:
        return None
    finally:
        database.dispose()


def _beside_the_data(settings: Settings, url: str) -> bool:
    return "://" not in url and Path(url).resolve().is_relative_to(settings.data_dir.resolve())


def _backlog(settings: Settings, end: int) -> Iterator[Finding]:
    database = Database.open(settings)
    try:
        with database.reading() as session:
            waits = session.scalar(select(func.count()).select_from(ErasedToken)) or 0
    except SQLAlchemyError:
        return
    finally:
        database.dispose()
    if waits > _MOST_BACKLOG:
        yield Finding.warning("erasure journal", f"{waits} erasures are not in it", "Is the API running?")
    else:
        yield Finding.ok("erasure journal", f"holds {end} log entries; {waits} erasures wait")
