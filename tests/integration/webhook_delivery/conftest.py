"""A store on each database, couriers, and a receiver."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from sqlalchemy import delete

from service.deps import Parts
from service.settings import Settings
from service.store.session import Database
from service.store.tables import WebhookEndpoint, WebhookEvent
from tests.integration.webhook_delivery.post import MASTER, Post
from tests.receiver import Receiver, receiving


@pytest.fixture(scope="module")
def database(settings: Settings) -> Iterator[Database]:
    found = Database.open(settings)
    yield found
    found.dispose()


@pytest.fixture
def post(database: Database, tmp_path: Path) -> Iterator[Post]:
    settings = Settings(
        data_dir=tmp_path,
        master_key=MASTER,
        webhook_allowed_hosts="127.0.0.1",
        webhook_retry_seconds="0.05,0.05",
        webhook_timeout_seconds=1,
        webhook_workers=4,
    )
    found = Post(parts=Parts(settings=settings, database=database, artifacts=Mock(), bell=Mock(), secrets=Mock()))
    yield found
    for courier in found.couriers:
        courier.stop()
    with database.writing() as session:
        session.execute(delete(WebhookEndpoint))
        session.execute(delete(WebhookEvent))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found
