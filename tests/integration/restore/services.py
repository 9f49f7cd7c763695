"""A service that is lost, and the place where it is restored."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from service import backup_cli, journaling, migrate
from service.erasure_journal import Journal, journal_key
from service.evidence.commitments import suppression_key
from service.evidence.key_wrapping import wrapping_key
from service.settings import Settings
from service.store import (
    intake,
)
from service.store.intake import Secrets
from service.store.session import Database
from service.store.tables import (
    Model,
)
from tests import factories

SECRETS = {"master_key": os.urandom(32).hex(), "signing_key": os.urandom(32).hex()}


@dataclass
class Service:
    settings: Settings
    database: Database

    @property
    def secrets(self) -> Secrets:
        master = self.settings.master_key_bytes
        return Secrets(suppression=suppression_key(master), wrapping=wrapping_key(master), time_zone="UTC")

    def erase(self, *named: str) -> str:
        with self.database.writing() as session:
            return intake.accept(session, factories.order("d", *named), self.secrets).request.id

    def journal(self) -> Journal:
        return Journal(self.settings.resolved_erasure_journal_url, journal_key(self.settings.master_key_bytes))


@dataclass
class Case:
    """A service with a dataset and a model, and an empty place to restore it to."""

    root: Path
    first: Service
    second: Settings

    def back_up(self) -> Path:
        backup_cli.make(self.first.settings, self.root / "backup", prune=False)
        return self.root / "backup"

    def lose_and_restore(self) -> Service:
        journaling.write(self.first.database, self.first.settings)
        self.first.database.dispose()
        shutil.rmtree(self.first.settings.data_dir)
        backup_cli.restore(self.second, self.root / "backup")
        return Service(self.second, Database.open(self.second))


def services(root: Path, first: str, second: str) -> Iterator[Case]:
    common: dict[str, Any] = {**SECRETS, "erasure_journal_url": str(root / "journal")}
    settings = Settings(data_dir=root / "first", database_url=first, **common)
    settings.data_dir.mkdir()
    migrate.upgrade(settings.resolved_database_url)
    service = Service(settings, Database.open(settings))
    factories.dataset(service)
    factories.model(service)
    factories.version(service)
    (root / "second").mkdir()
    yield Case(root, service, Settings(data_dir=root / "second", database_url=second, **common))
    service.database.dispose()


def version_dataset(session: Any) -> str:
    return str(session.scalars(select(Model.dataset_id)).one())
