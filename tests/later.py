"""Migrations of a later version of the service, for tests of what an upgrade does."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory

import migrations
from service import migrate
from service.store import schema
from service.store.schema import Chain

HEAD = schema.chain().head
VERSIONS = Path(migrations.__file__).parent / "versions"
FIRST, SECOND = f"{int(HEAD) + 1:04}", f"{int(HEAD) + 2:04}"


class Later:
    """Writes migrations into a folder, and lets the code of this process know them, or only those of today."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch, self._today = folder, monkeypatch, schema.chain()
        self._config = migrate.config

    def write(self, revision: str, upgrade: str, *, after: str = HEAD, says: str = "") -> None:
        head = f'revision, down_revision = "{revision}", "{after}"\n{says}\n'
        imports = "import sqlalchemy as sa\nfrom alembic import op\nfrom migrations import online\n"
        body = f"def upgrade():\n{textwrap.indent(textwrap.dedent(upgrade).strip(), '    ')}\n"
        (self._folder / f"{revision}_later.py").write_text(imports + head + body)

    def as_later_code(self) -> Chain:
        """Go on as the version that brings these migrations."""
        chain = schema.chain_of(ScriptDirectory.from_config(self.config("")))
        self._patch.setattr(migrate, "config", self.config)
        self._patch.setattr(schema, "chain", lambda: chain)
        return chain

    def as_todays_code(self) -> None:
        self._patch.setattr(migrate, "config", self._config)
        self._patch.setattr(schema, "chain", lambda: self._today)

    def config(self, database_url: str) -> Any:
        found = self._config(database_url)
        found.set_main_option("path_separator", "os")
        found.set_main_option("version_locations", f"{VERSIONS}:{self._folder}")
        return found
