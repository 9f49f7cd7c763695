"""The artifact store as a process of the service opens it: one that takes in and deletes only where it belongs.

A worker whose folder is not shared, or not mounted, finds nothing there, and would call that proof of deletion; one at
another installation's store would sweep all of it as orphans. So store and database carry the same name, drawn once:
the store in a small object, the database in a row.
"""

import time
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.artifacts import IDENTITY, ArtifactStore
from service.errors import Conflict, WrongStore
from service.store import artifact_stores
from service.store.artifact_stores import Vouching
from service.store.session import Database
from service.store.types import new_id, now

_ASK_AGAIN_SECONDS = 5.0
_WHAT_TO_DO = (
    "Nothing is stored or deleted there. Is the disk mounted, and is UNLEARN_ARTIFACTS_URL (or UNLEARN_DATA_DIR) the "
    f"same for every process? A store that was moved brings its {IDENTITY} along; if this is the right one all the "
    "same, run `unlearn artifacts adopt`."
)
log = structlog.get_logger()


class OwnArtifacts(ArtifactStore):
    """The store that belongs to a database. What `put` and the deleting methods find elsewhere is WrongStore."""

    def __init__(self, url: str, database: Database) -> None:
        super().__init__(url)
        self._database = database
        self._own: str | None = None
        self._told: tuple[float, str | None] | None = None

    def confirm(self) -> None:
        """Raise WrongStore unless this is the database's store; an elsewhere one is asked once per process.

        The first store that a database meets becomes its own: `_take`. Not to be called within a transaction. Raises
        OSError, SQLAlchemyError.
        """
        if self._own is None:
            with self._database.reading() as session:
                row = artifact_stores.own(session)
            if row is None or row.adopted_at is None:
                self._take()
        elif not self._local:
            return
        self._recheck()

    def adopt(self, *, reason: str, despite_missing: bool = False) -> dict[str, Any]:
        """Make this the database's store because a person says so; return what the log is told. Raises Conflict.

        Refused where weights in circulation are missing, unless that is said too: another store lacks them all.
        """
        with self._database.reading() as session:
            expected = artifact_stores.vouching(session).expected
            row = artifact_stores.own(session)
        lacking = sum(self.size(sha256) is None for sha256 in expected)
        if lacking and not despite_missing:
            raise Conflict(
                f"{lacking} of {len(expected)} weights in circulation that were looked for are not in this store. If "
                "it is the right one and they are lost, say --despite-missing."
            )
        if not (expected or despite_missing) and self.identity() not in (None, row and row.store_id):
            raise Conflict(
                "The store bears another name, and this database has no weights by which to know it. If no other "
                "database uses it, whose bytes would be deleted, say --despite-missing."
            )
        self.identify(row.store_id if row is not None else new_id("ast"))
        found = self.identity()
        if found is None:
            raise Conflict("The store does not give back the name that it was given.")
        told = {"reason": reason, "looked_for": len(expected), "missing": lacking}
        with self._database.writing() as session:
            artifact_stores.adopt(session, found, told=told)
        self._own = found
        return {"store_id": found, **told}

    def why_wrong(self) -> str | None:
        """Return what to tell of a store that is not the database's; None too where that cannot be found out."""
        if self._told is not None and not self._local and time.monotonic() - self._told[0] < _ASK_AGAIN_SECONDS:
            return self._told[1]
        found = None
        try:
            self.confirm()
            self._recheck()
        except WrongStore as error:
            found = str(error)
        except (OSError, SQLAlchemyError):
            return None
        self._told = time.monotonic(), found
        return found

    def put(self, source: Path, *, sha256: str | None = None) -> str:
        self.confirm()
        return super().put(source, sha256=sha256)

    def purge(self, digest: str) -> bool:
        self._recheck()
        return super().purge(digest)

    def older_than(self, seconds: float) -> list[str]:
        self._recheck()
        return super().older_than(seconds)

    def remove_parts(self, seconds: float) -> int:
        self._recheck()
        return super().remove_parts(seconds)

    def _recheck(self) -> None:
        """Ask the store for its name. Raises WrongStore, OSError, SQLAlchemyError."""
        found = self.identity()
        if found is not None and found == self._own:
            return
        # The database may have been told of another one since.
        with self._database.reading() as session:
            row = artifact_stores.own(session)
        self._own = row.store_id if row is not None and row.adopted_at is not None else None
        if self._own is None:
            raise WrongStore(f"This database has taken no artifact store as its own yet. {_WHAT_TO_DO}")
        if found != self._own:
            self._own = None
            bears = "bears no name" if found is None else "bears another name"
            raise WrongStore(f"This is not the artifact store of this database: it {bears}. {_WHAT_TO_DO}")

    def _take(self) -> None:
        """Make this the database's store, if nothing speaks against it.

        The name is proposed in a transaction of its own: a process that dies before the second one leaves a store
        whose name the database knows.
        """
        with self._database.reading() as session:
            refusal = self._refusal(artifact_stores.vouching(session))
        with self._database.writing() as session:
            artifact_stores.propose(session)
        with self._database.writing() as session:
            row = artifact_stores.hold(session)
            if row.adopted_at is not None:
                return  # another process was faster
            found = self.identity()
            if found is None:
                if refusal is not None:
                    raise WrongStore(refusal)
                self.identify(row.store_id)
                found = self.identity()
            if found != row.store_id:
                raise WrongStore(f"The artifact store belongs to another database. {_WHAT_TO_DO}")
            row.adopted_at = now()
        log.info("artifacts.taken", store_id=row.store_id)

    def _refusal(self, vouching: Vouching) -> str | None:
        """Return why a store without a name cannot be taken without being asked; None where it can."""
        lacking = sum(self.size(sha256) is None for sha256 in vouching.expected)
        if lacking:
            return (
                f"The artifact store lacks {lacking} of {len(vouching.expected)} weights in circulation that were "
                f"looked for, so it may be another one. {_WHAT_TO_DO}"
            )
        if vouching.expected or any(self.size(sha256) is not None for sha256 in vouching.possible):
            return None
        if vouching.possible:
            return f"The artifact store holds nothing of what this database names. {_WHAT_TO_DO}"
        if self.holds_bytes():
            return f"The artifact store holds bytes, and this database names none of them. {_WHAT_TO_DO}"
        return None
