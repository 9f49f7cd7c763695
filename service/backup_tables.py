"""The tables of PostgreSQL in a backup: copied in one snapshot by COPY, and put back in one transaction."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, inspect, select, text

from service import migrate
from service.backup_files import chunks, write_private
from service.errors import Conflict
from service.store.session import make_engine
from service.store.tables import Base, Restore, table_of

FACTS, COLUMNS = "facts.json", "columns.json"


def copy(url: str, tables: Path, facts_of: Callable[[Connection], Any]) -> list[Path]:
    """Write each table into a file, and what ``facts_of`` finds in the same snapshot; return the files."""
    tables.mkdir(mode=0o700)
    engine = make_engine(url)
    try:
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            facts = facts_of(connection)
            raw: Any = connection.connection.dbapi_connection
            for table in Base.metadata.sorted_tables:
                columns = ", ".join(f'"{column.name}"' for column in table.columns)
                statement = f'COPY "{table.name}" ({columns}) TO STDOUT'
                path = tables / f"{table.name}.copy"
                with raw.cursor() as cursor, path.open("wb") as file, cursor.copy(statement) as rows:
                    for data in rows:
                        file.write(data)
    finally:
        engine.dispose()
    columns_of = {table.name: [column.name for column in table.columns] for table in Base.metadata.sorted_tables}
    write_private(tables / FACTS, json.dumps(facts).encode())
    write_private(tables / COLUMNS, json.dumps(columns_of).encode())
    for path in tables.iterdir():
        path.chmod(0o600)
    return sorted(tables.iterdir())


def refuse_tables(connection: Connection) -> None:
    """Raise Conflict where a database is not empty."""
    if inspect(connection).get_table_names():
        raise Conflict("The database has tables already; a backup is restored into an empty one.")


def put(url: str, tables: Path, *, revision: str, restore: Restore) -> None:
    """Fill an empty database with what `copy` wrote, and say that a replay is due. Raises Conflict."""
    columns_of = json.loads((tables / COLUMNS).read_text())
    engine = make_engine(url)
    try:
        # One transaction, the schema's too: a process that looks meanwhile finds no database, and not an empty one, by
        # which every artifact would be an orphan; and none finds the rows without the word that a replay is due.
        with migrate.turn(url, engine), engine.begin() as connection:
            refuse_tables(connection)
            migrate.build(connection, revision)
            # Of an earlier release some are not there yet.
            there = [table for table in Base.metadata.sorted_tables if table.name in columns_of]
            for table in reversed(there):  # some migrations make a row
                if connection.scalar(select(func.count()).select_from(table)):
                    connection.execute(table.delete())
            raw: Any = connection.connection.dbapi_connection
            for table in there:
                _load(raw, table.name, columns_of[table.name], tables)
            for table in there:
                _advance_sequence(connection, table.name, [column.name for column in table.primary_key])
            connection.execute(table_of(Restore).insert(), [_row(restore)])
    finally:
        engine.dispose()


def _load(raw: Any, table: str, columns: list[str], tables: Path) -> None:
    names = ", ".join(f'"{column}"' for column in columns)
    statement, path = f'COPY "{table}" ({names}) FROM STDIN', tables / f"{table}.copy"
    with raw.cursor() as cursor, path.open("rb") as file, cursor.copy(statement) as rows:
        for data in chunks(file):
            rows.write(data)


def _advance_sequence(connection: Connection, table: str, key: list[str]) -> None:
    for column in key:
        sequence = connection.scalar(text("SELECT pg_get_serial_sequence(:t, :c)"), {"t": table, "c": column})
        if sequence:
            newest = f'(SELECT coalesce(max("{column}"), 0) + 1 FROM "{table}")'  # noqa: S608 - our own names
            connection.execute(text(f"SELECT setval(:s, {newest}, false)"), {"s": sequence})


def _row(restore: Restore) -> dict[str, Any]:
    return {column.name: getattr(restore, column.name) for column in table_of(Restore).columns}
