"""The README names everything there is: every method, metric, setting and route, in its tables."""

import json
import re
from pathlib import Path

import pytest

from service.app import create_app
from service.catalogue.architectures import ARCHITECTURES
from service.catalogue.ladders import GENERATION_LADDERS, LADDERS
from service.catalogue.methods import METHODS, Purpose
from service.catalogue.metrics import METRICS
from service.catalogue.policy import Policy
from service.catalogue.preparations import PREPARATIONS
from service.catalogue.sources import SOURCES
from service.catalogue.tasks import Task
from service.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GENERATION = (ROOT / "docs" / "generation.md").read_text()
# What stands in backticks at the start of a table's row.
LISTED = set(re.findall(r"^\| `([^`]+)`", README, re.MULTILINE))


def _routes(data_dir: Path) -> set[str]:
    paths = create_app(Settings(data_dir=data_dir)).openapi()["paths"]
    return {f"{verb.upper()} {path}" for path, operations in paths.items() for verb in operations}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_readme_lists_the_architecture_with_its_smallest_image_and_options(architecture: str) -> None:
    spec = ARCHITECTURES[architecture]
    options = ", ".join(f"`{name}`" for name in spec.options.model_fields)
    sizes = " and ".join(f"{size}×{size}" for size in spec.sizes or (spec.min_image_size,))
    assert f"| `{architecture}` | {sizes} | {options} | {spec.summary} |" in README


@pytest.mark.parametrize("source", SOURCES)
def test_the_readme_lists_the_source_with_its_fields(source: str) -> None:
    spec = SOURCES[source]
    fields = ", ".join(f"`{name}`" for name in sorted(spec.fields(), reverse=True)) or "—"
    assert f"| `{source}` | {fields} | {spec.summary} |" in README


@pytest.mark.parametrize("method", METHODS)
def test_the_readme_lists_the_method(method: str) -> None:
    assert method in LISTED


@pytest.mark.parametrize("metric", METRICS)
def test_the_readme_lists_the_metric(metric: str) -> None:
    assert metric in LISTED


def test_the_readme_states_what_no_method_and_no_metric_proves() -> None:
    limits = [spec.does_not_prove for spec in METHODS.values()] + [spec.does_not_prove for spec in METRICS.values()]
    assert [limit for limit in limits if limit not in README] == []


def test_the_readme_gives_each_method_its_guarantee() -> None:
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w+)` [^|]*\| (exact|approximate) \|", README, re.MULTILINE)}
    assert rows == {name: spec.guarantee for name, spec in METHODS.items()}


def test_the_readme_lists_every_setting_and_no_other() -> None:
    listed = {name for name in LISTED if name.startswith("UNLEARN_")}
    assert listed == {f"UNLEARN_{name.upper()}" for name in Settings.model_fields}


def test_the_readme_states_the_defaults() -> None:
    rows = dict(re.findall(r"^\| `UNLEARN_(\w+)` \| `([^`]*)` \|", README, re.MULTILINE))
    stated = {name: field.default for name, field in Settings.model_fields.items() if field.default not in ("", None)}
    assert rows == {name.upper(): str(default) for name, default in stated.items()}


def test_the_readme_lists_every_route_and_no_other(tmp_path: Path) -> None:
    listed = {name for name in LISTED if re.match(r"(GET|HEAD|POST|PUT|PATCH|DELETE) /", name)}
    assert listed == _routes(tmp_path)


@pytest.mark.parametrize("name", sorted(Policy.model_fields))
def test_the_readme_lists_the_policy_field_with_its_default(name: str) -> None:
    default = json.dumps(Policy().model_dump(mode="json")[name])
    assert f"| `{name}` | `{default}` | {Policy.model_fields[name].description} |" in README


@pytest.mark.parametrize("name", sorted(name for name, each in PREPARATIONS.items() if each.on_demand))
def test_the_readme_lists_the_preparation_with_what_it_holds_and_who_uses_it(name: str) -> None:
    users = ", ".join(f"`{method}`" for method, spec in sorted(METHODS.items()) if name in spec.uses)
    assert f"| `{name}` | {PREPARATIONS[name].holds} | {users} |" in README


@pytest.mark.parametrize("purpose", sorted(LADDERS))
def test_the_readme_lists_the_ladders_with_their_reasons(purpose: Purpose) -> None:
    for scenario, ladder in LADDERS[purpose].items():
        order = " → ".join(f"`{method}`" for method in ladder.methods) or "none"
        assert f"| {purpose} | {scenario} | {order} | {ladder.because} |" in README


def test_the_page_on_generation_lists_its_ladders_its_methods_and_why_the_others_are_refused() -> None:
    for scenario, ladder in GENERATION_LADDERS["privacy"].items():
        order = " → ".join(f"`{method}`" for method in ladder.methods)
        assert f"| privacy | {scenario} | {order} | {ladder.because} |" in GENERATION
    rows = [line for line in GENERATION.splitlines() if line.startswith("| `")]
    for name, spec in METHODS.items():
        (row,) = [line for line in rows if f"`{name}`" in line.split("|")[1]]
        assert Task.GENERATION in spec.tasks or row.endswith(f"| {spec.not_for[Task.GENERATION]} |")
