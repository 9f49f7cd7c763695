"""The OpenAPI document is OpenAPI 3.1 and tells of every problem code that stands in the service's code."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI

import service
from service import problem_codes
from service.app import create_app
from service.settings import Settings

FOLDER = Path(service.__file__).parent
# code -> why no operation answers with it
OF_NO_ROUTE = {
    "cache_not_found": "`unlearn caches lost` alone",
    "signing_key_not_new": "`unlearn signing-keys rotate` alone",
    "signing_key_not_found": "`unlearn signing-keys revoke` alone",
    "request_is_open": "`unlearn shred` alone",
    "migration_blocked": "`unlearn migrate` alone",
    "schema_unfit": "a process with it does not begin to serve",
    "erasure_journal_damaged": "`unlearn restore` alone",
    "erasure_journal_cut": "`unlearn replay` alone",
    "checkpoint_refused": "`unlearn replay` alone",
    "journal_damaged": "`unlearn restore` alone",
    "journal_has_a_gap": "`unlearn restore` alone",
    "journal_of_another_log": "`unlearn restore` alone",
    "backup_damaged": "`unlearn restore` alone",
    "folder_not_empty": "`unlearn backup` alone",
    "job_failed": "the worker's, kept in the job's `error`",
    "request_too_slow": "of a request whose operation is not known yet (docs/limits.md)",
    "method_not_allowed": "of a method that a path has no operation for",
    "http_error": "of a status that nothing here raises",
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("openapi")))


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _told(document: dict[str, Any]) -> set[str]:
    return {
        code
        for _, operation in _operations(document)
        for response in operation["responses"].values()
        for media in response.get("content", {}).values()
        for part in media.get("schema", {}).get("allOf", [])
        for code in part.get("properties", {}).get("code", {}).get("enum", [])
    }


def _codes(tree: ast.AST) -> Iterator[object]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (k.value.value for k in node.keywords if k.arg == "code" and isinstance(k.value, ast.Constant))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [getattr(target, "attr", getattr(target, "id", "")) for target in node.targets]
            if "code" in names:
                yield node.value.value


def test_every_problem_code_of_the_code_is_in_the_document_or_listed_with_a_reason(document: dict[str, Any]) -> None:
    written = {
        code
        for path in FOLDER.rglob("*.py")
        if "cli" not in path.name and path.name != "verify.py"
        for code in _codes(ast.parse(path.read_text()))
        if isinstance(code, str) and code
    }
    assert len(written) > 50
    assert written - _told(document) - OF_NO_ROUTE.keys() == set()
    assert not OF_NO_ROUTE.keys() & _told(document)


def test_the_table_speaks_of_operations_that_are_there(document: dict[str, Any]) -> None:
    there = {operation["operationId"] for _, operation in _operations(document)}
    assert set(problem_codes.OF) <= there


def test_every_answer_but_success_is_a_problem(document: dict[str, Any]) -> None:
    for path, operation in _operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and operation["operationId"] not in ("head_weights", "readyz"):
                assert set(response["content"]) == {"application/problem+json"}, (path, status)


def test_every_body_that_is_asked_for_or_given_has_a_schema_that_is_one(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    for name, schema in document["components"]["schemas"].items():
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            pytest.fail(f"{name}: {error.message}")


def test_operation_ids_are_names_of_methods_each_once(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in _operations(document)]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name == name.lower() for name in names)
