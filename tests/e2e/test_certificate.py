"""The certificate of a real run: trained, erased, purged, fetched, and checked by the file that stands alone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.evidence import verify
from service.store import signing_keys
from tests.stack import Stack, running

HELD_OUT = "validation"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("certificate")) as found:
        found.register()
        found.train(epochs=4)
        yield found


@pytest.fixture(scope="module")
def done(stack: Stack) -> Any:
    assert stack.client.get("/v1/models/m/versions/1/weights").status_code == 200
    return stack.completed(stack.erase(stack.ids(30, skip=50), method_options={"epochs": 1})["id"])


@pytest.fixture(scope="module")
def folder(stack: Stack, done: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the verifier, the bundle, the key, the new weights and the report, and nothing else."""
    found, get = tmp_path_factory.mktemp("auditor"), stack.client.get
    path = f"/v1/deletion-requests/{done['id']}/certificate"

    def issued() -> bytes | None:
        answer = get(path)
        return answer.content if answer.status_code == 200 else None

    (found / "bundle.json").write_bytes(stack.until(issued))
    (found / "new.safetensors").write_bytes(get("/v1/models/m/versions/latest/weights").content)
    (found / "report.json").write_bytes(get(f"/v1/evaluations/{done['jobs'][0]['evaluation_id']}").content)
    with stack.database.reading() as session:
        (found / "key.txt").write_text(signing_keys.current(session, stack.settings).public_key.hex())
    shutil.copy(verify.__file__, found / "verify.py")
    return found


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "verify.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_certificate_of_a_real_run_is_verified_with_its_weights_and_report(folder: Path) -> None:
    given = ("--trusted-key", "key.txt", "--weights", "new.safetensors", "--report", "report.json")
    found = check(folder, "bundle.json", *given)
    assert (found.returncode, found.stderr) == (0, "")
    assert "m/2: the file is this version" in found.stdout
    assert check(folder, "bundle.json").returncode == verify.UNTRUSTED


def test_the_command_says_the_same(folder: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "verify", "bundle.json", "--trusted-key", "key.txt"]
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 0
    assert subprocess.run(command[:5], cwd=folder, capture_output=True).returncode == verify.UNTRUSTED


def test_one_changed_byte_of_weights_or_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("bundle.json", "new.safetensors"):
        raw = bytearray((folder / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (tmp_path / name).write_bytes(raw)
    for bundle, weights in (
        ("bundle.json", tmp_path / "new.safetensors"),
        (tmp_path / "bundle.json", "new.safetensors"),
    ):
        found = check(folder, str(bundle), "--trusted-key", "key.txt", "--weights", str(weights))
        assert (found.returncode, "REFUSED" in found.stderr) == (verify.REFUSED, True)


def test_the_certificate_lists_the_old_weights_as_purged_and_who_fetched_them(folder: Path) -> None:
    verdict = verify.verify((folder / "bundle.json").read_bytes())
    left = {each["name"]: each for each in verdict.certificate["residuals"]}
    assert left["model/m/version/1"]["state"] == "purged"
    assert {each["kind"] for each in left.values()} >= {"version", "cache", "source"}
    assert verdict.certificate["recipients"]["downloads"] == 1
    assert verdict.certificate["models"][0]["verification"]["results"]


def test_the_page_opens_and_the_old_weights_point_to_the_certificate(stack: Stack, done: Any, folder: Path) -> None:
    path = f"/v1/deletion-requests/{done['id']}/certificate"
    page = stack.client.get(path, headers={"Accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "What this does not prove" in page.text
    gone = stack.client.get("/v1/models/m/versions/1/weights")
    assert (gone.status_code, gone.json()["certificate"]) == (410, path)
    assert stack.client.get(f"/v1/deletion-requests/{done['id']}").json()["certificate_id"]


def test_samples_that_no_model_was_trained_on_have_a_certificate_too(stack: Stack, done: Any) -> None:
    request = stack.erase(stack.ids(3, split=HELD_OUT))
    answer = stack.until(
        lambda: (
            found
            if (found := stack.client.get(f"/v1/deletion-requests/{request['id']}/certificate")).is_success
            else None
        )
    )
    verdict = verify.verify(answer.content)
    assert verdict.certificate["models"] == []
    assert json.loads(answer.content)["media_type"] == verify.BUNDLE_TYPE
