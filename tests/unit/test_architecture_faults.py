"""Images too small for a network are told beside other faults, but not where the option that decides was misread."""

from typing import Any

import pytest

from service.catalogue.architectures import ARCHITECTURES
from service.catalogue.tasks import Task
from service.routes import architecture_faults


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, True),
        ({"patch_size": 4}, True),
        ({"patch_size": 2}, False),
        ({"bogus": 1}, True),
        ({"depth": 99}, True),
        ({"patch_size": 2, "depth": 99}, False),
        ({"patch_size": 99}, False),
        ({"patch_size": 99, "depth": 99}, False),
    ],
)
def test_the_smallest_size_is_judged_by_what_decides_it(options: dict[str, Any], *, told: bool) -> None:
    found = architecture_faults.size_faults(ARCHITECTURES["small_vit"], options, (6, 7), source="npz")
    assert [fault.code for fault in found] == ["image_too_small"] * told


def test_a_network_of_few_sizes_is_judged_whatever_its_options() -> None:
    found = architecture_faults.size_faults(
        ARCHITECTURES["ddpm_unet"], {"width_factors": "wide"}, (28, 28), source="npz"
    )
    assert [fault.code for fault in found] == ["image_size_not_taken"]


@pytest.mark.parametrize(("source", "resized"), [("imagefolder", True), ("npz", False), ("sklearn:digits", False)])
def test_the_remedy_is_one_that_the_source_has(source: str, *, resized: bool) -> None:
    (fault,) = architecture_faults.size_faults(ARCHITECTURES["ddpm_unet"], {}, (28, 28), source=source)
    assert ("register the dataset anew with such a size" in str(fault.detail)) is resized
    assert (f"images from {source} are taken as they are" in str(fault.detail)) is not resized


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"width": 10, "heads": 3}, {"heads"}),
        ({"width": 10}, {"heads"}),
        ({"width": 7, "heads": 99}, {"width", "heads"}),
        ({"width": 7, "heads": 3}, {"width"}),
        ({"width": 12, "heads": 3, "depth": 0}, {"depth"}),
        ({"width": 10, "heads": 3, "depth": 0}, {"depth", "heads"}),
    ],
)
def test_options_that_do_not_fit_each_other_are_told_beside_other_faults(
    options: dict[str, Any], faults: set[str]
) -> None:
    found = architecture_faults.options_faults(ARCHITECTURES["small_vit"], options)
    assert {fault.pointer for fault in found} == {f"/architecture_options/{name}" for name in faults}


def test_every_option_that_decides_the_smallest_size_is_named() -> None:
    for spec in ARCHITECTURES.values():
        assert spec.options.model_fields.keys() & _read_by_size(spec.options) == spec.options.SIZED_BY, spec.id


def _read_by_size(options: Any) -> set[str]:
    looked_at: set[str] = set()

    class Watched(options):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            looked_at.add(name)
            return super().__getattribute__(name)

    assert Watched().min_image_size
    return looked_at


def test_a_task_of_another_architecture_is_told_with_those_that_have_it() -> None:
    assert architecture_faults.task_faults(ARCHITECTURES["small_cnn"], Task.CLASSIFICATION) == []
    (fault,) = architecture_faults.task_faults(ARCHITECTURES["small_cnn"], Task.GENERATION)
    assert "say `classification`, or choose of ddpm_unet, ddpm_unet_small." in str(fault.detail)
