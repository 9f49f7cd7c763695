"""What every table builds on."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, MetaData, Table
from sqlalchemy.orm import DeclarativeBase

from service.store.types import UtcDateTime

Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, Json: JSON, list[str]: JSON, list[int]: JSON, list[Json]: JSON}  # noqa: RUF012


def table_of(entity: type[Base]) -> Table:
    """Return the table itself: statements on it skip what the mapper would add."""
    return Base.metadata.tables[entity.__tablename__]
