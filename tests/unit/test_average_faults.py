"""An upload's header tells of an average that is missing, incomplete or of other weights: all faults at once."""

import pytest

from service.errors import MAX_FAULTS, InvalidRequest
from service.routes import average_faults
from service.weights_header import Tensors

WHOLE: Tensors = {
    "net.a": ("F32", (2, 3)),
    "net.b": ("F32", (3,)),
    "ema.a": ("F32", (2, 3)),
    "ema.b": ("F32", (3,)),
    "ema_updates": ("I64", ()),
}


def _refused(tensors: Tensors) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        average_faults.refuse(tensors, "g")
    assert refused.value.code == "average_missing"
    assert "'g'" in refused.value.detail
    return refused.value


def test_an_average_of_all_the_weights_with_its_counter_is_let_through() -> None:
    average_faults.refuse(WHOLE, "g")


@pytest.mark.parametrize(
    ("left_out", "added", "faults"),
    [
        (["ema_updates"], {}, {("tensor_missing", "ema_updates")}),
        (["ema.a"], {}, {("tensor_missing", "ema.a")}),
        (["ema.a", "ema.b"], {}, {("tensor_missing", "ema.a"), ("tensor_missing", "ema.b")}),
        (["ema.a", "ema_updates"], {}, {("tensor_missing", "ema.a"), ("tensor_missing", "ema_updates")}),
        ([], {"ema.a": ("F32", (3, 2))}, {("tensor_differs", "ema.a")}),
        ([], {"ema.b": ("F16", (3,))}, {("tensor_differs", "ema.b")}),
        ([], {"ema_updates": ("I32", ())}, {("tensor_differs", "ema_updates")}),
        ([], {"ema_updates": ("I64", (1,))}, {("tensor_differs", "ema_updates")}),
        (["net.b"], {}, {("tensor_unexpected", "ema.b")}),
        (["net.b"], {"ema.a": ("F16", (2, 3))}, {("tensor_unexpected", "ema.b"), ("tensor_differs", "ema.a")}),
    ],
)
def test_every_fault_of_an_average_is_listed(left_out: list[str], added: Tensors, faults: set[tuple[str, str]]) -> None:
    given = {name: kind for name, kind in {**WHOLE, **added}.items() if name not in left_out}
    found = _refused(given).faults
    assert {(fault.code, fault.value) for fault in found} == faults
    assert all(fault.detail for fault in found)


def test_a_fault_says_what_the_tensor_is_to_be() -> None:
    given = {**WHOLE, "ema.a": ("F32", (3, 2))}
    assert [fault.detail for fault in _refused(given).faults] == [
        "It is F32 [3, 2]; make it F32 [2, 3], as 'net.a' is."
    ]


def test_weights_of_names_that_no_generation_model_has_are_told_of_the_average() -> None:
    found = _refused({"conv_in.weight": ("F32", (3,))})
    assert "'net.…'" in found.detail
    assert [fault.value for fault in found.faults] == ["ema_updates"]


def test_faults_are_listed_up_to_a_bound_and_all_are_counted() -> None:
    given: Tensors = {f"net.{i}": ("F32", (1,)) for i in range(150)}
    refused = _refused({**given, "net.last": ("F32", (1,)), "ema.last": ("F32", (1,)), "ema_updates": ("I64", ())})
    assert len(refused.faults) == MAX_FAULTS
    assert refused.extra["errors_total"] == 150
    assert f"the first {MAX_FAULTS} of 150" in refused.detail


def test_no_long_name_is_echoed_whole() -> None:
    (fault,) = _refused({**WHOLE, "net." + "x" * 10_000: ("F32", (1,))}).faults
    assert len(str(fault.value)) + len(str(fault.detail)) < 300
