"""Which segment of the erasure journal a database knows as the newest, whoever writes in the same instant."""

import threading

import pytest
from sqlalchemy import delete, func, select

from service.erasure_journal import Head
from service.store import journal_heads
from service.store.tables import JournalHead
from workers.bench import Bench


@pytest.fixture(autouse=True)
def _nothing_known(bench: Bench) -> None:
    with bench.database.writing() as session:
        session.execute(delete(JournalHead))


def _head(number: int, *, journal: str = "jnl_1") -> Head:
    return Head(journal=journal, number=number, mac=f"{number:064x}")


def _move(bench: Bench, head: Head, *, back: bool = False) -> None:
    with bench.database.writing() as session:
        journal_heads.move(session, head, back=back)


def _known(bench: Bench) -> Head | None:
    with bench.database.reading() as session:
        assert (session.scalar(select(func.count()).select_from(JournalHead)) or 0) <= 1
        return journal_heads.known(session)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_of_two_that_write_first_the_newer_segment_is_known(bench: Bench, first: int, second: int) -> None:
    other = threading.Thread(target=_move, args=(bench, _head(second)))
    with bench.database.writing() as session:
        journal_heads.move(session, _head(first))
        session.flush()
        other.start()
        other.join(0.5)  # it waits for this one: at its first statement on SQLite, at the row on PostgreSQL
        assert other.is_alive()
    other.join(60)
    assert _known(bench) == _head(2)


def test_a_segment_of_another_journal_and_one_further_back_are_known_only_where_asked_for(bench: Bench) -> None:
    _move(bench, _head(3))
    _move(bench, _head(2))
    assert _known(bench) == _head(3)
    _move(bench, _head(2), back=True)
    assert _known(bench) == _head(2)
    _move(bench, _head(1, journal="jnl_2"))
    assert _known(bench) == _head(1, journal="jnl_2")
