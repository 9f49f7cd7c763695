"""Every error becomes an RFC 9457 document that holds what the client needs, and never more than it may."""

import inspect
import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from service import errors, problems
from service.errors import MAX_FAULTS, Fault, InvalidRequest, ServiceError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ServiceError)]


def _document(error: ServiceError) -> Any:
    answer = problems.response(error)
    assert answer.headers["content-type"] == "application/problem+json"
    document = json.loads(bytes(answer.body))
    assert document["status"] == answer.status_code
    return document


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_is_a_whole_problem_document(kind: type[ServiceError]) -> None:
    document = _document(kind("What happened."))
    assert set(document) >= {"type", "title", "status", "code", "detail"}
    assert document["type"].endswith(document["code"])
    if kind not in (ServiceError, errors.JobFailed, errors.Unavailable, errors.Outage, errors.StorageFull):
        assert 400 <= document["status"] < 500


def test_codes_of_different_errors_differ() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)


def test_faults_are_bounded_and_their_number_told() -> None:
    document = _document(InvalidRequest("Wrong.", faults=[Fault(f"/{i}", "x") for i in range(250)]))
    assert len(document["errors"]) == MAX_FAULTS
    assert document["errors_total"] == 250
    assert "errors_total" not in _document(InvalidRequest("Wrong.", faults=[Fault("/a", "x")]))


def test_half_a_surrogate_pair_in_a_value_can_be_sent_back() -> None:
    document = _document(InvalidRequest("Wrong.", faults=[Fault("/\ud800", "x", "\udfff")]))
    assert document["errors"][0] == {"pointer": "/\ud800", "code": "x", "value": "\udfff"}


def test_an_unauthenticated_answer_says_how_to_authenticate() -> None:
    assert problems.response(errors.Unauthenticated("Who?")).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("location", "pointer"),
    [(("body", "sample_ids", 3), "/sample_ids/3"), (("query", "a/b", "c~d"), "/query/a~1b/c~0d"), (("body",), "")],
)
def test_pointers_follow_rfc_6901(location: tuple[Any, ...], pointer: str) -> None:
    assert problems.pointer(location) == pointer


class _Body(BaseModel):
    number: int
    items: list[int]


def test_pydantics_errors_are_all_told_and_long_input_is_cut() -> None:
    with pytest.raises(ValidationError) as refusal:
        _Body.model_validate({"number": "x" * 5000, "items": ["no"] * 300})
    faults = problems.validation_faults(refusal.value.errors())
    assert len(faults) == 301
    assert (faults[0].pointer, faults[0].value) == ("/number", "x" * 100)
    assert _document(InvalidRequest("Wrong.", faults=faults))["errors_total"] == 301


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_are_sent_as_text(value: float) -> None:
    (fault,) = problems.validation_faults([{"loc": ("body", "lr"), "type": "less_than", "input": value, "msg": "m"}])
    assert _document(InvalidRequest("Wrong.", faults=[fault]))["errors"][0]["value"] == str(value)


def test_only_where_waiting_helps_is_it_told_for_how_long() -> None:
    assert problems.response(errors.TooManyRequests("Later.", retry_after=7)).headers["Retry-After"] == "7"
    assert "Retry-After" not in problems.response(errors.TooManyRequests("Later.")).headers
