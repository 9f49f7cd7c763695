"""One service on each database for all of the folder."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import update

from service.store.tables import Job
from service.store.types import now
from tests import factories
from tests.migrated import migrated_database
from tests.stack import Stack, running


@pytest.fixture(scope="package", params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {"time_zone": "Europe/Berlin"}
    with ExitStack() as stack:
        if request.param == "postgresql":
            server = request.getfixturevalue("postgres_url")
            settings["database_url"] = stack.enter_context(migrated_database(server))
        folder = tmp_path_factory.mktemp("decisions")
        yield stack.enter_context(running(folder, worker=False, **settings))


@pytest.fixture
def name(served: Stack, request: pytest.FixtureRequest) -> str:
    """A dataset with one trained model of the same name; whatever earlier tests left queued is out of the way."""
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with served.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(served, found)
    factories.model(served, found, of=found)
    factories.version(served, found)
    return found
