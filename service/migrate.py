"""Brings a database to the newest schema, with the migrations that are installed beside the service."""

from pathlib import Path

from alembic import command
from alembic.config import Config

import migrations


def config(database_url: str) -> Config:
    """Return an Alembic configuration for the installed migrations."""
    found = Config()
    found.set_main_option("script_location", str(Path(migrations.__file__).parent))
    found.attributes["database_url"] = database_url
    return found


def upgrade(database_url: str) -> None:
    """Upgrade to head; does nothing when it is there already."""
    command.upgrade(config(database_url), "head")
