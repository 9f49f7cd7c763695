"""Fixtures of the real servers; ``tests/conftest.py`` loads them."""

from collections.abc import Iterator

import pytest

from tests.servers import fresh_database, postgres_server, valkey_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Return the SQLAlchemy URL of the session's PostgreSQL server."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="module")
def postgres_database_url(postgres_url: str) -> Iterator[str]:
    """Return the URL of an empty database that only the asking module uses."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """Return the URL of the session's Valkey server."""
    with valkey_server() as url:
        yield url
