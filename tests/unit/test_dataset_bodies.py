"""The body that registers a dataset: each source takes its own fields, and all faults are listed at once."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from service.catalogue.sources import SOURCES, Source
from service.schemas.datasets import DatasetIn
from workers.data import READERS


def _faults(**body: Any) -> set[str]:
    with pytest.raises(ValidationError) as refused:
        DatasetIn.model_validate({"name": "d", **body})
    return {".".join(map(str, fault["loc"])) for fault in refused.value.errors()}


def test_every_source_has_a_reader() -> None:
    assert READERS.keys() == SOURCES.keys() == set(get_args(Source))
    assert all(spec.id == name for name, spec in SOURCES.items())


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_needs_its_location_and_refuses_what_is_for_others(name: str) -> None:
    spec = SOURCES[name]
    body = {"name": "d", "source": name} | ({spec.location: "/x"} if spec.location else {})
    assert DatasetIn.model_validate(body).source == name
    foreign = {"root": "/x", "path": "/x", "decode": {}}
    unfit = {field: value for field, value in foreign.items() if field not in spec.fields()}
    missing = {spec.location} if spec.location else set()
    assert _faults(source=name, **unfit) == unfit.keys() | missing


def test_all_faults_are_listed_at_once() -> None:
    found = _faults(
        name="no name", source="imagefolder", path="/x", decode={"size": [0, 2000], "mode": "cmyk"}, extra=1
    )
    assert found == {"name", "root", "path", "decode.size.0", "decode.size.1", "decode.mode", "extra"}


def test_an_unknown_source_is_one_fault() -> None:
    assert _faults(source="pickle", root="/x", path="/y") == {"source"}
