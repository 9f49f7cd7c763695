"""What a migration may do while the version before it serves: judged by the operations it asks Alembic for.

Nothing is executed: `recorded` collects the operations as they would go to PostgreSQL, where others use the tables
meanwhile. SQLite serves one host, whose processes are stopped for an upgrade.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import Mock, patch

from alembic.operations import Operations, ops
from alembic.operations.base import AbstractOperations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql

_SETTING = re.compile(r"\s*(SET|RESET)\s", re.IGNORECASE)
_WRITES = re.compile(r"\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+\"?(\w+)", re.IGNORECASE)
_ON_TABLE = re.compile(r"\s*CREATE\s+TRIGGER\s+\w+.*?\sON\s+(\w+)", re.IGNORECASE | re.DOTALL)
_FUNCTION = re.compile(r"\s*CREATE\s+FUNCTION\s", re.IGNORECASE)


def recorded(upgrade: Callable[[], None]) -> list[ops.MigrateOperation]:
    """Return the operations of an ``upgrade`` function, in order."""
    found: list[ops.MigrateOperation] = []
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": io.StringIO()}
    )
    bind = Mock(dialect=postgresql.dialect(), **{"scalar.return_value": "2s"})  # type: ignore[no-untyped-call]
    with (
        patch.object(AbstractOperations, "invoke", lambda _, operation: found.append(operation)),
        patch.object(Operations, "get_bind", lambda _: bind),
        Operations.context(context),
    ):
        upgrade()
    return found


def expand_faults(operations: Sequence[ops.MigrateOperation]) -> list[str]:
    """Return what the version before could not live with, or would have to wait for."""
    new = {each.table_name for each in operations if isinstance(each, ops.CreateTableOp)}
    made = {each.index_name for each in operations if isinstance(each, ops.CreateIndexOp)}
    return [fault for each in operations for fault in _faults(each, new=new, made=made)]


def contract_faults(module: Any, operations: Sequence[ops.MigrateOperation]) -> list[str]:
    """Return what is wrong with a step that takes something away."""
    adds = (ops.CreateTableOp, ops.AddColumnOp, ops.CreateIndexOp)
    faults = [f"{_named(each)}: a contract step adds nothing" for each in operations if isinstance(each, adds)]
    oldest = getattr(module, "oldest_code", "")
    if not re.fullmatch(r"\d{4}", oldest) or oldest >= module.revision:
        faults.append("`oldest_code` must name the head of an earlier release, which did not use any more what goes")
    return faults


def _faults(operation: ops.MigrateOperation, *, new: set[str], made: set[Any]) -> Iterator[str]:
    if getattr(operation, "table_name", None) in new:
        return
    match operation:
        case ops.CreateTableOp():
            return
        case ops.AddColumnOp():
            yield from _column_faults(operation.table_name, operation.column)
        case ops.CreateIndexOp():
            yield from _index_faults(operation)
        case ops.DropIndexOp():
            if operation.index_name not in made or not operation.kw.get("if_exists", operation.if_exists):
                yield f"{_named(operation)}: takes away what the version before may use"
        case ops.ExecuteSQLOp():
            yield from _statement_faults(str(operation.sqltext), new)
        case ops.BulkInsertOp():
            if isinstance(operation.table, Table) and operation.table.name not in new:
                yield f"{_named(operation)}: writes to a table that others use"
        case _:
            yield f"{_named(operation)}: changes or takes away what the version before may use"


def _column_faults(table: str, column: "Column[Any]") -> Iterator[str]:
    name = f"column {table}.{column.name}"
    if not column.nullable and column.server_default is None:
        yield f"{name}: is NOT NULL without a default, and the version before writes none"
    if column.unique or column.primary_key or column.foreign_keys:
        yield f"{name}: brings a constraint"


def _index_faults(operation: ops.CreateIndexOp) -> Iterator[str]:
    if operation.unique:
        yield f"{_named(operation)}: is unique, which the version before does not see to"
    if not operation.kw.get("postgresql_concurrently"):
        yield f"{_named(operation)}: keeps writers out while it is made; use migrations.online.create_index"


def _statement_faults(statement: str, new: set[str]) -> Iterator[str]:
    if _SETTING.match(statement) or _FUNCTION.match(statement):
        return
    target = _WRITES.match(statement) or _ON_TABLE.match(statement)
    if target is None or target[1] not in new:
        yield f"statement {' '.join(statement.split())[:60]!r}: touches what others use"


def _named(operation: ops.MigrateOperation) -> str:
    kind = type(operation).__name__.removesuffix("Op")
    names = [str(getattr(operation, name, "") or "") for name in ("table_name", "index_name", "column_name")]
    return " ".join([kind, *filter(None, names)])
