"""Fixtures of a migrated store, on SQLite and on PostgreSQL; ``tests/conftest.py`` loads them.

A module that needs other settings than the defaults overrides ``bench_settings``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.migrated import copy_sqlite, migrated_database
from workers.bench import Bench


@pytest.fixture(scope="module")
def migrated_postgres_url(postgres_url: str) -> Iterator[str]:
    """Return the URL of a PostgreSQL database at the newest schema that only the asking module uses."""
    with migrated_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a migrated PostgreSQL database of the module's; nothing stands for SQLite."""
    return str(request.getfixturevalue("migrated_postgres_url")) if request.param == "postgresql" else ""


@pytest.fixture(scope="module")
def bench_settings() -> dict[str, Any]:
    """Return settings of the module's bench beside its folder and database."""
    return {}


@pytest.fixture(scope="module")
def settings(store_url: str, bench_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return the settings of a migrated store that is the module's own."""
    found = Settings(data_dir=tmp_path_factory.mktemp("store"), database_url=store_url, **bench_settings)
    if not store_url:
        copy_sqlite(found.resolved_database_url)
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def own_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Return the settings of a migrated store that only the asking test uses, on each database."""
    if request.param == "postgresql":
        with migrated_database(request.getfixturevalue("postgres_url")) as url:
            yield Settings(data_dir=tmp_path, database_url=url)
        return
    found = Settings(data_dir=tmp_path)
    copy_sqlite(found.resolved_database_url)
    yield found


@pytest.fixture(scope="module")
def bench(settings: Settings) -> Iterator[Bench]:
    """Return a worker's bench at a migrated store of the module's own, on each database."""
    found = Bench.open(settings)
    yield found
    found.database.dispose()
