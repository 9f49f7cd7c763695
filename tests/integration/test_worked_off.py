"""What came while others were worked off is not deleted with them, on both databases."""

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from service import journaling
from service.erasure_journal import Journal, Segment, journal_key
from service.settings import Settings
from service.store import traces
from service.store.session import Database
from service.store.tables import Base, ErasedToken, FileTrace

MASTER = os.urandom(32).hex()


@pytest.fixture(scope="module")
def bench_settings() -> dict[str, Any]:
    return {"master_key": SecretStr(MASTER)}


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    found = Database.open(settings)
    with found.writing() as session:
        session.execute(delete(ErasedToken))
        session.execute(delete(FileTrace))
    yield found
    found.dispose()


def _erase(session: Session) -> bytes:
    token = secrets.token_bytes(32)
    session.execute(insert(ErasedToken).values(dataset_id="dts_1", token=token))
    return token


def _trace(session: Session) -> None:
    traces.note(session, "samples")


def _journaled(settings: Settings) -> set[str]:
    journal = Journal(settings.resolved_erasure_journal_url, journal_key(settings.master_key_bytes))
    return {token for segment in journal.whole() for _, token in segment.tokens}


def _while_appending(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    append = Journal.append
    acts = [act]

    def appending(journal: Journal, segment: Segment) -> Segment:
        written = append(journal, segment)
        if acts:
            acts.pop()()
        return written

    monkeypatch.setattr(Journal, "append", appending)


@pytest.mark.parametrize(("table", "add"), [(ErasedToken, _erase), (FileTrace, _trace)])
def test_no_number_is_given_twice(database: Database, table: type[Base], add: Callable[[Session], Any]) -> None:
    numbers = []
    for _ in range(2):
        with database.writing() as session:
            add(session)
            numbers.append(int(session.scalar(select(func.max(table.id))) or 0))  # type: ignore[attr-defined]
            session.execute(delete(table))
    assert numbers[0] < numbers[1]


def test_an_erasure_after_another_process_worked_off_the_same_reaches_the_journal(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.writing() as session:
        _erase(session)
    late: list[bytes] = []

    def another_process() -> None:
        with database.writing() as session:
            session.execute(delete(ErasedToken))
        with database.writing() as session:
            late.append(_erase(session))

    _while_appending(monkeypatch, another_process)
    journaling.write(database, settings)
    assert late[0].hex() in _journaled(settings)


# SQLite has one writer at a time: none is slower than one that came later.
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_an_erasure_whose_transaction_was_slower_reaches_the_journal(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Session(database.engine)
    late = _erase(slow)
    with database.writing() as session:
        _erase(session)
    _while_appending(monkeypatch, slow.commit)
    journaling.write(database, settings)
    slow.close()
    assert late.hex() in _journaled(settings)


def test_a_trace_that_comes_while_the_files_are_scrubbed_is_scrubbed_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.writing() as session:
        _trace(session)

    def vacuum(_: object) -> bool:
        with database.writing() as session:
            session.execute(delete(FileTrace))
        with database.writing() as session:
            _trace(session)
        return True

    monkeypatch.setattr(traces, "_vacuum", vacuum)
    assert traces.scrub(database)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(FileTrace)) == 1
