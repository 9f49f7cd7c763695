"""Databases at the newest schema for tests: copies of one that the migrations built once per process.

Tests of the migrations themselves run ``service.migrate``; all others only need what comes out of it.
"""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sqlalchemy import make_url

from service import migrate
from tests.servers import create_database, drop_database

_TEMPLATE = "template_of_tests"


@contextmanager
def migrated_database(server_url: str) -> Iterator[str]:
    """Yield the URL of a database of PostgreSQL whose name nobody else has; drop it afterwards."""
    name = f"test_{secrets.token_hex(8)}"
    url = create_database(server_url, name, template=_postgres_template(server_url))
    try:
        yield url
    finally:
        drop_database(server_url, name)


def bring_to_head(url: str) -> None:
    """Migrate a database; a file of SQLite that is not there yet becomes a copy of a migrated one."""
    if make_url(url).get_backend_name() == "sqlite" and not Path(str(make_url(url).database)).exists():
        copy_sqlite(url)
    else:
        migrate.upgrade(url)


def copy_sqlite(url: str) -> None:
    """Put a migrated database where the URL of SQLite points."""
    place = Path(str(make_url(url).database))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(_sqlite_template())


@cache
def _sqlite_template() -> bytes:
    folder = Path(tempfile.mkdtemp(prefix="unlearn-template-"))
    try:
        migrate.upgrade(f"sqlite:///{folder / 'template.db'}")
        if len(left := [path.name for path in folder.glob("template.db-*")]) > 0:
            raise RuntimeError(f"the migrated file is not whole without {left}")
        return (folder / "template.db").read_bytes()
    finally:
        shutil.rmtree(folder)


@cache
def _postgres_template(server_url: str) -> str:
    # A server that several processes share has one template of each.
    name = f"{_TEMPLATE}_{secrets.token_hex(8)}"
    migrate.upgrade(create_database(server_url, name))
    return name
