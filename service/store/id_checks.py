"""A daily quota on asking whether an id was erased: whoever may ask without end can list the erased."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.errors import TooManyRequests
from service.store.samples import dialect_of
from service.store.tables import IdCheck, table_of

_TABLE = table_of(IdCheck)


def charge(session: Session, principal_id: str, count: int, *, per_day: int) -> None:
    """Count ids against the key's quota of the UTC day. Raises TooManyRequests, and then nothing is counted."""
    day = datetime.now(UTC).date().isoformat()
    session.execute(delete(IdCheck).where(IdCheck.principal_id == principal_id, IdCheck.day < day))
    make = postgresql.insert if dialect_of(session) == "postgresql" else sqlite.insert
    first = make(_TABLE).values(principal_id=principal_id, day=day, count=count)
    counted = first.on_conflict_do_update(
        index_elements=["principal_id", "day"], set_={"count": _TABLE.c.count + count}
    )
    total = session.execute(counted.returning(_TABLE.c.count)).scalar_one()
    if total > per_day:
        left = max(per_day - (total - count), 0)
        detail = (
            f"This key may have {per_day} sample IDs looked up a day (UTC), receipts included; {left} are left today. "
            "Ask for fewer, or again tomorrow."
        )
        error = TooManyRequests(detail, retry_after=_until_tomorrow())
        error.code = "id_check_quota_exceeded"
        raise error


def _until_tomorrow() -> int:
    moment = datetime.now(UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return int((midnight - moment).total_seconds()) + 1
