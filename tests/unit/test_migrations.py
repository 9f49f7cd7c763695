"""The migrations keep their promise: each but a contract step leaves the version before it able to serve."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from alembic import op
from alembic.script import Script

from migrations import online
from service.store import schema
from tests.migration_rules import contract_faults, expand_faults, recorded

# Before it nothing was promised; docs/upgrade.md says which of those need a stop.
LAST_WITHOUT_PROMISE = "0019"
UPGRADE = (Path(__file__).parents[2] / "docs" / "upgrade.md").read_text()
STEPS = [schema.scripts().get_revision(each) for each in schema.chain().revisions]


def _promised(step: Script) -> bool:
    return step.revision > LAST_WITHOUT_PROMISE


@pytest.mark.parametrize("step", [each for each in STEPS if _promised(each)], ids=lambda each: str(each.revision))
def test_a_migration_is_either_additive_or_a_contract_step(step: Script) -> None:
    operations = recorded(step.module.upgrade)
    if getattr(step.module, "contract", False):
        assert contract_faults(step.module, operations) == []
    else:
        assert expand_faults(operations) == []


def test_the_migrations_are_one_chain_of_numbers() -> None:
    revisions = list(schema.chain().revisions)
    assert revisions == sorted(revisions)
    assert all(re.fullmatch(r"\d{4}", each) for each in revisions)


@pytest.mark.parametrize("step", [each for each in STEPS[1:] if not _promised(each)], ids=lambda each: each.revision)
def test_the_document_says_what_each_early_migration_does_to_others(step: Script) -> None:
    row = re.search(rf"^\| {step.revision} \| (.+?) \| (yes|no) \|", UPGRADE, re.MULTILINE)
    assert row is not None, f"docs/upgrade.md has no row for {step.revision}"
    assert row[2] == ("no" if expand_faults(recorded(step.module.upgrade)) else "yes"), step.revision


def _with_nothing() -> None:
    pass


def _not_null() -> None:
    op.add_column("jobs", sa.Column("x", sa.Integer(), nullable=False))


def _unique_column() -> None:
    op.add_column("jobs", sa.Column("x", sa.Integer(), unique=True))


def _reference() -> None:
    op.add_column("jobs", sa.Column("x", sa.String(40), sa.ForeignKey("models.id")))


def _drop_column() -> None:
    op.drop_column("jobs", "phase")


def _drop_in_batch() -> None:
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("phase")


def _rename_column() -> None:
    op.alter_column("jobs", "phase", new_column_name="stage")


def _retype() -> None:
    op.alter_column("jobs", "phase", type_=sa.Text())


def _demand() -> None:
    op.alter_column("jobs", "phase", nullable=False)


def _rename_table() -> None:
    op.rename_table("jobs", "works")


def _drop_table() -> None:
    op.drop_table("jobs")


def _drop_index() -> None:
    op.drop_index("ix_jobs_status_due_at", "jobs")


def _index() -> None:
    op.create_index("ix_jobs_seed", "jobs", ["seed"])


def _unique_index() -> None:
    online.create_index("uq_jobs_seed", "jobs", ["seed"], unique=True)


def _constraint() -> None:
    op.create_check_constraint("ck_jobs_seed", "jobs", "seed > 0")


def _raw() -> None:
    op.execute("ALTER TABLE jobs DROP COLUMN phase")


def _raw_hidden() -> None:
    op.execute(sa.text("  drop INDEX ix_jobs_status_due_at"))


def _rewrite() -> None:
    op.execute("UPDATE jobs SET phase = NULL")


def _trigger() -> None:
    op.execute("CREATE TRIGGER jobs_no_delete BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION audit_refuse()")


@pytest.mark.parametrize(
    "upgrade",
    [
        _not_null, _unique_column, _reference, _drop_column, _drop_in_batch, _rename_column, _retype, _demand,
        _rename_table, _drop_table, _drop_index, _index, _unique_index, _constraint, _raw, _raw_hidden, _rewrite,
        _trigger,
    ],
)  # fmt: skip
def test_what_the_version_before_cannot_live_with_is_found(upgrade: Callable[[], None]) -> None:
    assert len(expand_faults(recorded(upgrade))) == 1


def _additive() -> None:
    op.create_table("notes", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("of", sa.String(40)))
    op.create_index("ix_notes_of", "notes", ["of"], unique=True)
    op.execute("INSERT INTO notes (id) VALUES (1)")
    op.execute("CREATE TRIGGER notes_no_delete BEFORE DELETE ON notes FOR EACH ROW EXECUTE FUNCTION audit_refuse()")
    op.add_column("jobs", sa.Column("note", sa.Text()))
    op.add_column("jobs", sa.Column("weight", sa.Integer(), nullable=False, server_default="0"))
    online.create_index("ix_jobs_weight", "jobs", ["weight"])


@pytest.mark.parametrize("upgrade", [_with_nothing, _additive])
def test_what_only_adds_is_let_through(upgrade: Callable[[], None]) -> None:
    assert expand_faults(recorded(upgrade)) == []


@pytest.mark.parametrize("oldest", ["", "0030", "0031", "next"])
def test_a_contract_step_names_the_earlier_code_that_can_live_with_it(oldest: str) -> None:
    module = SimpleNamespace(revision="0030", contract=True, oldest_code=oldest)
    assert len(contract_faults(module, recorded(_drop_column))) == 1


def test_a_contract_step_adds_nothing_of_its_own() -> None:
    module = SimpleNamespace(revision="0030", contract=True, oldest_code="0029")
    assert contract_faults(module, recorded(_drop_column)) == []
    assert len(contract_faults(module, recorded(_additive))) == 5
