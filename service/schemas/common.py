"""What several resources share: names, pages and cursors."""

import base64
import binascii
import hashlib
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from service.errors import Fault, InvalidRequest

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
Limit = Annotated[int, Field(ge=1, le=1000)]
CHECK_BYTES = 6
T = TypeVar("T")


def _has_a_utc_time(moment: datetime) -> datetime:
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the moment lies outside the years 1 to 9999 in UTC") from None
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_has_a_utc_time)]


class Body(BaseModel):
    """A request body: unknown fields are faults, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None = None


def encode_cursor(value: int | str) -> str:
    """Return an opaque cursor; it holds a row's key, never a sample ID, and a check that tells an altered one."""
    text = f"1:{value}".encode()
    return base64.urlsafe_b64encode(text + _check(text)).decode().rstrip("=")


def _check(text: bytes) -> bytes:
    return hashlib.sha256(b"cursor" + text).digest()[:CHECK_BYTES]


def decode_cursor(cursor: str | None, *, pointer: str = "/cursor") -> str | None:
    """Return what a cursor of ours holds. Raises InvalidRequest."""
    if cursor is None:
        return None
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        text = data[:-CHECK_BYTES].decode()
    except (binascii.Error, ValueError):
        text = ""
    # Written anew, so that no second spelling of the same bytes passes.
    if not text.startswith("1:") or "\x00" in text or encode_cursor(text[2:]) != cursor:
        raise _bad_cursor(pointer)
    return text[2:]


def decode_number(cursor: str | None, default: int, *, pointer: str = "/cursor") -> int:
    """Return the number a cursor of ours holds. Raises InvalidRequest."""
    text = decode_cursor(cursor, pointer=pointer)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 18:
        raise _bad_cursor(pointer)
    return int(text)


def _bad_cursor(pointer: str) -> InvalidRequest:
    detail = "The cursor is not one this service gave; start again without it."
    return InvalidRequest(detail, code="invalid_cursor", faults=[Fault(pointer, "invalid_cursor")])
