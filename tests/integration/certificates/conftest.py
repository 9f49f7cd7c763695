"""A store on each database, with an application over it."""

from collections.abc import Iterator

import pytest
from sqlalchemy import update

from service.app import create_app
from service.store.tables import Job
from service.store.types import now
from tests import factories
from tests.integration.certificates.place import Place
from workers.bench import Bench


@pytest.fixture(scope="module")
def place(bench: Bench) -> Iterator[Place]:
    app = create_app(bench.settings)
    yield Place(bench=bench, app=app)
    app.state.parts.database.dispose()


@pytest.fixture
def name(place: Place, request: pytest.FixtureRequest) -> str:
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with place.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(place.bench, found)
    return found
