"""Brings a database to the newest schema, with the migrations that are installed beside the service."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, make_url, text

import migrations

# Any number that no other user of the database takes.
_LOCK = 7_214_006


def config(database_url: str) -> Config:
    """Return an Alembic configuration for the installed migrations."""
    found = Config()
    found.set_main_option("script_location", str(Path(migrations.__file__).parent))
    found.attributes["database_url"] = database_url
    return found


def upgrade(database_url: str) -> None:
    """Upgrade to head; does nothing when it is there already. Two that start together take turns."""
    with _turn(database_url):
        command.upgrade(config(database_url), "head")


@contextmanager
def _turn(database_url: str) -> Iterator[None]:
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        with Path(f"{url.database}.migrating").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
        yield
    engine.dispose()
