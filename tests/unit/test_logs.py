"""No log line carries a sample ID, whatever was handed to the logger."""

import io
import json
import logging
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from service.logs import REDACTED, RISKY, WithoutMessages, configure, redact

SECRET = "patient-4711"


class Body(BaseModel):
    sample_ids: list[str]


def _line(**fields: Any) -> str:
    return json.dumps(redact(None, "info", {"event": "x", **fields}))


@pytest.mark.parametrize("name", [*RISKY, "unresolved_sample_ids", "Sample_ID", "request_body", "api_key"])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": x}, lambda x: [{"b": (x,)}]])
def test_nothing_passes_under_a_name_known_to_hold_ids(name: str, wrap: Any) -> None:
    assert SECRET not in _line(**{name: wrap(SECRET)})
    assert SECRET not in _line(context={"inner": {name: wrap(SECRET)}})


@pytest.mark.parametrize("value", [ValueError(SECRET), Body(sample_ids=[SECRET]), SECRET.encode(), object()])
def test_of_what_is_no_plain_value_the_type_alone_passes(value: Any) -> None:
    for line in (_line(found=value), _line(found=[value]), _line(found={"deep": value})):
        assert SECRET not in line
        assert type(value).__name__ in line


def test_what_lines_are_made_of_passes() -> None:
    fields = {"job_id": "job_1", "fence": 2, "attempts": 3, "error": "OSError", "trace": ["a.py:1 f"], "done": 0.5}
    line = dict(redact(None, "info", {"event": "attempt.lost", **fields, "nothing": None, "busy": True}))
    assert line == {"event": "attempt.lost", **fields, "nothing": None, "busy": True}


@given(st.recursive(st.just(SECRET), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner)))
def test_no_nesting_gets_through(value: Any) -> None:
    assert SECRET not in _line(sample_ids=value)


def test_configured_lines_are_redacted() -> None:
    stream = io.StringIO()
    before = structlog.get_config()
    try:
        configure("info", stream)
        structlog.get_logger().info("request.taken_in", sample_ids=[SECRET], dataset="d")
    finally:
        structlog.configure(**before)
    line = json.loads(stream.getvalue())
    assert (line["action"], line["sample_ids"], line["dataset"]) == ("request.taken_in", REDACTED, "d")


def test_a_librarys_traceback_shows_type_and_place_but_no_message() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(WithoutMessages("%(levelname)s %(message)s"))
    logger = logging.Logger("library")
    logger.addHandler(handler)
    try:
        raise ValueError(SECRET)
    except ValueError:
        logger.exception("it broke")
    assert SECRET not in stream.getvalue()
    assert "ValueError" in stream.getvalue()
    assert "test_logs.py" in stream.getvalue()
