"""A store on each database, with the settings of these tests."""

from typing import Any

import pytest
from sqlalchemy import update

from service.store.tables import Job
from service.store.types import now
from tests import factories
from workers.bench import Bench


@pytest.fixture(scope="module")
def bench_settings() -> dict[str, Any]:
    return {"max_attempts": 3, "lease_seconds": 30}


@pytest.fixture
def name(bench: Bench, request: pytest.FixtureRequest) -> str:
    """A dataset with one trained model of the same name; whatever earlier tests left queued is out of the way."""
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    factories.model(bench, found, of=found)
    factories.version(bench, found)
    return found
