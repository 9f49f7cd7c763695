"""A service on each database, to be lost and restored."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.restore.services import Case, services
from tests.servers import fresh_database


@pytest.fixture(params=["sqlite", "postgresql"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    if request.param == "sqlite":
        yield from services(tmp_path, "", "")
        return
    server = request.getfixturevalue("postgres_url")
    with fresh_database(server) as first, fresh_database(server) as second:
        yield from services(tmp_path, first, second)
