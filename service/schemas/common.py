"""What several resources share: names, pages and cursors."""

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from service.errors import Fault, InvalidRequest

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
Limit = Annotated[int, Field(ge=1, le=1000)]
CHECK_BYTES = 6
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]", re.ASCII)
T = TypeVar("T")


def _whole(value: object) -> object:
    """Let 2 and 2.0 be integers, as JSON Schema does, but neither true nor a text."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]


def _is_written_out(value: object) -> object:
    """Refuse a number, in which seconds since 1970 would be seen."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and _DATE.match(value)):
        raise PydanticCustomError("datetime_type", "Input should be a moment such as 2026-01-31T12:00:00Z")
    return value


def _has_a_utc_time(moment: datetime) -> datetime:
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the moment lies outside the years 1 to 9999 in UTC") from None
    return moment


Moment = Annotated[AwareDatetime, BeforeValidator(_is_written_out), AfterValidator(_has_a_utc_time)]


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
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise _bad_cursor(pointer)
    return int(text)


def _bad_cursor(pointer: str) -> InvalidRequest:
    detail = "The cursor is not one this service gave; start again without it."
    return InvalidRequest(detail, code="invalid_cursor", faults=[Fault(pointer, "invalid_cursor")])
