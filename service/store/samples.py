"""Samples of a dataset: indexing, pages, and finding the ones a request names."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    ColumnElement,
    Select,
    TableValuedAlias,
    Update,
    any_,
    bindparam,
    column,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.types import BigInteger, String

from service.evidence.commitments import suppression_token
from service.lifecycle import SampleState
from service.store import traces
from service.store.tables import ErasedToken, Sample, Suppression, table_of

INSERT_CHUNK = 5_000


class SampleRow(NamedTuple):
    """What resolving one named id found: a tuple, since there may be 100,000 of them."""

    id: int
    sample_id: str
    pool: str
    label: int
    state: str


def one_of(session: Session, column: InstrumentedAttribute[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Return ``column IN values`` as one bound parameter, so that 100,000 values need no 100,000 placeholders."""
    if session.get_bind().dialect.name == "sqlite":
        listed = func.json_each(bindparam(None, json.dumps(list(values)), type_=String)).table_valued("value")
        return column.in_(select(listed.c.value))
    kind = String if isinstance(column.type, String) else BigInteger
    return column == any_(bindparam(None, list(values), type_=ARRAY(kind)))


def among(dialect: str, compared: Any, kind: type[String | BigInteger], *, name: str = "listed") -> ColumnElement[bool]:
    """Return ``compared IN :listed`` for a statement that is built once; run it with ``listed=packed(...)``.

    Building a statement costs several times what running it does, which intake would pay at every call.
    """
    if dialect == "sqlite":
        return cast("ColumnElement[bool]", compared.in_(select(listing(dialect, kind, name=name).c.value)))
    return cast("ColumnElement[bool]", compared == any_(bindparam(name, type_=ARRAY(kind))))


def listing(dialect: str, kind: type[String | BigInteger], *, name: str = "listed") -> TableValuedAlias:
    """Return the values of ``:listed`` as a table with one column, ``value``."""
    if dialect == "sqlite":
        return func.json_each(bindparam(name, type_=String)).table_valued(column("value", kind))
    return func.unnest(bindparam(name, type_=ARRAY(kind))).table_valued(column("value", kind)).render_derived()


def dialect_of(session: Session) -> str:
    return session.get_bind().dialect.name


def packed(session: Session, values: Sequence[Any]) -> Any:
    """Return the values as the one parameter that `among` takes."""
    return json.dumps(list(values)) if dialect_of(session) == "sqlite" else list(values)


@cache
def _resolving(dialect: str) -> Select[int, str, str, int, str]:
    column = table_of(Sample).c
    return select(column.id, column.sample_id, column.pool, column.label, column.state).where(
        column.dataset_id == bindparam("dataset"), among(dialect, column.sample_id, String)
    )


@cache
def _setting_state(dialect: str) -> Update:
    table = table_of(Sample)
    return update(table).where(among(dialect, table.c.id, BigInteger)).values(state=bindparam("new_state"))


def insert_many(session: Session, rows: Iterable[dict[str, Any]]) -> None:
    """Insert sample rows; the caller keeps chunks near INSERT_CHUNK so that no write lock lasts long."""
    session.execute(insert(Sample), list(rows))


def take_statistics(session: Session) -> None:
    """Tell PostgreSQL's planner of rows just inserted; autovacuum does after minutes of reading whole datasets."""
    if dialect_of(session) == "postgresql":
        session.execute(text("ANALYZE samples"))


def resolve(session: Session, dataset_id: str, sample_ids: Sequence[str]) -> dict[str, SampleRow]:
    """Return the rows of the ids that are in the dataset and not erased."""
    rows = session.execute(
        _resolving(dialect_of(session)), {"dataset": dataset_id, "listed": packed(session, sample_ids)}
    )
    # An erased row has no id, so all of these have one.
    return {row[1]: SampleRow._make(row) for row in rows}


def labels(session: Session, keys: Sequence[int]) -> set[int]:
    return set(session.scalars(select(Sample.label).where(one_of(session, Sample.id, keys)).distinct()))


def of_train_pool(session: Session, keys: Sequence[int]) -> list[int]:
    """Return those of the samples that a model may have been trained on."""
    return list(session.scalars(select(Sample.id).where(one_of(session, Sample.id, keys), Sample.pool == "train")))


def suppressed(
    session: Session, key: bytes, dataset_id: str, sample_ids: Sequence[str], *, since: datetime | None = None
) -> set[str]:
    """Return those of the ids that were erased from the dataset. ``key`` from `suppression_key`."""
    tokens = {suppression_token(key, dataset_id, sample_id): sample_id for sample_id in sample_ids}
    found: set[str] = set()
    remaining = list(tokens)
    for start in range(0, len(remaining), 1_000):
        chunk = remaining[start : start + 1_000]
        query = select(Suppression.token).where(Suppression.dataset_id == dataset_id, Suppression.token.in_(chunk))
        hits = session.scalars(query.where(Suppression.created_at >= since) if since else query)
        found |= {tokens[bytes(token)] for token in hits}
    return found


def page(
    session: Session, dataset_id: str, *, split: str | None, label: int | None, after: int, limit: int
) -> list[Sample]:
    """Return samples that are neither erased nor vanished, in key order after ``after``."""
    query = select(Sample).where(Sample.dataset_id == dataset_id, Sample.id > after, Sample.sample_id.is_not(None))
    query = query.where(Sample.state != SampleState.VANISHED)
    if split is not None:
        query = query.where(Sample.split == split)
    if label is not None:
        query = query.where(Sample.label == label)
    return list(session.scalars(query.order_by(Sample.id).limit(limit)))


def count_by_split(session: Session, dataset_id: str) -> dict[str, int]:
    rows = session.execute(
        select(Sample.split, func.count())
        .where(Sample.dataset_id == dataset_id, Sample.state.not_in((SampleState.ERASED, SampleState.VANISHED)))
        .group_by(Sample.split)
    )
    return {row[0]: row[1] for row in rows}


def positions(session: Session, dataset_id: str) -> dict[str, list[int]]:
    """Return the positions of every pool's live samples, in order; pending and erased ones are in no pool."""
    pools: dict[str, list[int]] = {}
    rows = session.execute(
        select(Sample.pool, Sample.position)
        .where(Sample.dataset_id == dataset_id, Sample.state == SampleState.LIVE)
        .order_by(Sample.position)
    )
    for pool, position in rows:
        pools.setdefault(pool, []).append(position)
    return pools


def any_left_in(session: Session, dataset_id: str, pool: str) -> bool:
    """Say whether a live sample is left in the pool."""
    query = select(Sample.id).where(
        Sample.dataset_id == dataset_id, Sample.pool == pool, Sample.state == SampleState.LIVE
    )
    return session.scalar(query.limit(1)) is not None


def set_state(session: Session, ids: Sequence[int], state: SampleState) -> None:
    session.execute(_setting_state(dialect_of(session)), {"new_state": state, "listed": packed(session, ids)})


def forget_ids(session: Session, key: bytes, dataset_id: str, ids: Sequence[int]) -> None:
    """Erase the ids themselves: leave a suppression token, drop the text. ``key`` from `suppression_key`."""
    rows = session.execute(
        select(Sample.sample_id).where(one_of(session, Sample.id, ids), Sample.sample_id.is_not(None))
    )
    tokens = [{"dataset_id": dataset_id, "token": suppression_token(key, dataset_id, row.sample_id)} for row in rows]
    if tokens:
        session.execute(insert(Suppression), tokens)
        # Sorted, so that the journal's order does not tell the samples'.
        session.execute(insert(ErasedToken), sorted(tokens, key=lambda row: bytes(row["token"])))  # type: ignore[arg-type]
        traces.note(session, "samples")
    session.execute(
        update(Sample).where(one_of(session, Sample.id, ids)).values(state=SampleState.ERASED, sample_id=None)
    )
