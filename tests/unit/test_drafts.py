"""A body that does not fit its schema is read as far as it does, and is described as what it should be."""

from typing import Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from service.schemas.drafts import Draft, readable_part


class Inner(BaseModel):
    a: int = 1
    b: int = Field(2, ge=0)


class Outer(BaseModel):
    name: str
    inner: Inner = Inner()


DRAFT: TypeAdapter[Draft[Outer]] = TypeAdapter(Draft[Outer])


def test_a_body_that_fits_is_read() -> None:
    found = DRAFT.validate_python({"name": "x", "inner": {"b": 3}})
    assert found.read == Outer(name="x", inner=Inner(b=3))
    assert found.faults == ()
    assert found.sure("name") == "x"


def test_a_body_that_does_not_fit_is_kept_with_every_fault() -> None:
    found = DRAFT.validate_python({"name": 3, "inner": {"a": "x", "b": -1}})
    assert found.read is None
    assert {fault.pointer for fault in found.faults} == {"/name", "/inner/a", "/inner/b"}
    assert found.given["inner"] == {"a": "x", "b": -1}


@pytest.mark.parametrize(("given", "name"), [({"name": 3}, None), ({}, None), ({"name": "x", "inner": {"b": -1}}, "x")])
def test_only_a_field_without_a_fault_is_sure(given: dict[str, Any], name: str | None) -> None:
    found = DRAFT.validate_python(given)
    assert (found.sure("name"), found.sure("inner")) == (name, None)


def test_what_is_no_object_is_refused_at_once() -> None:
    with pytest.raises(ValidationError):
        DRAFT.validate_python([1])


def test_it_is_described_as_the_model() -> None:
    assert DRAFT.json_schema() == Outer.model_json_schema()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"a": 5, "b": 6}, Inner(a=5, b=6)),
        ({"a": 5, "b": -1}, Inner(a=5)),
        ({"a": "x", "b": -1}, Inner()),
    ],
)
def test_the_part_without_faults_is_read(given: dict[str, Any], read: Inner) -> None:
    assert readable_part(Inner, given) == read


def test_what_lacks_a_field_makes_nothing() -> None:
    assert readable_part(Outer, {"inner": {"a": "x"}}) is None
