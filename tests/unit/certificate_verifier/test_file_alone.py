"""The verifier as one file: it runs alone and offline, and its exit code says how it ended."""

import base64
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from service.evidence import verify
from tests import certificate_cases as cases
from tests.unit.certificate_verifier.bundles import KEY, edited, signed_again, verifier_key

VERIFIER = Path(verify.__file__)


def alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the file in an otherwise empty folder, isolated, where sockets raise."""
    shutil.copy(VERIFIER, folder / "verify.py")
    offline = "import socket, sys, runpy; socket.socket = None; sys.argv = sys.argv[1:]; "
    offline += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-c", offline, "verify.py", *arguments], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundle.json").write_bytes(cases.made())
    (tmp_path / "new.safetensors").write_bytes(cases.WEIGHTS)
    (tmp_path / "other.safetensors").write_bytes(b"other")
    return tmp_path


def test_the_file_runs_alone_and_offline(folder: Path) -> None:
    given = ("bundle.json", "--trusted-key", KEY.public_key.hex(), "--weights", "new.safetensors")
    done = alone(folder, *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("VERIFIED\n")
    assert "approximate, no guarantee" in done.stdout


def test_the_file_imports_nothing_but_the_standard_library_and_cryptography(folder: Path) -> None:
    shutil.copy(VERIFIER, folder / "verify.py")
    script = "import sys;sys.path.insert(0,'.');import verify;print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    strange = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert "service" not in strange
    named = {"verify", "cryptography", "_cffi_backend", "__main__", "cython_runtime", "_cython_3_1_4"}
    assert {name for name in strange if not name.startswith(("_", "cython"))} <= named


@pytest.mark.parametrize(
    "text",
    [KEY.public_key.hex(), cases.sha(KEY.public_key), base64.b64encode(KEY.public_key).decode(), verifier_key(KEY)],
)
def test_a_trusted_key_may_be_given_in_each_of_its_forms(folder: Path, text: str) -> None:
    assert alone(folder, "bundle.json", "--trusted-key", text).returncode == 0
    (folder / "key.txt").write_text(f"{verifier_key(cases.key(2))}\n{text}\n")
    assert alone(folder, "bundle.json", "--trusted-key", "key.txt").returncode == 0


def test_a_list_of_keys_with_their_dates_may_be_trusted(folder: Path) -> None:
    row = cases.record(KEY).document()
    (folder / "keys.json").write_text(json.dumps({"items": [row]}))
    assert alone(folder, "bundle.json", "--trusted-key", "keys.json").returncode == 0
    elsewhere = verifier_key(replace(KEY, name="other.example/log"))
    (folder / "keys.json").write_text(json.dumps({"items": [{**row, "verifier_key": elsewhere}]}))
    assert alone(folder, "bundle.json", "--trusted-key", "keys.json").returncode == 1
    (folder / "keys.json").write_text(json.dumps([{**row, "revoked_at": "2026-03-02T09:00:00Z"}]))
    done = alone(folder, "bundle.json", "--trusted-key", "keys.json")
    assert (done.returncode, "key_revoked" in done.stderr) == (1, True)


def test_what_is_not_gone_is_said(folder: Path) -> None:
    done = alone(folder, "bundle.json")
    assert "\nleft         dataset/digits: kept\n" in done.stdout
    assert "model/m/version/1" not in done.stdout


def test_what_each_model_is_for_is_said_where_the_certificate_names_it(folder: Path) -> None:
    done = alone(folder, "bundle.json")
    assert "\nmodel        m/2 by scrub_r (approximate, no guarantee), gate: pass\n" in done.stdout
    (folder / "bundle.json").write_bytes(cases.made_from(cases.report(task="generation")))
    done = alone(folder, "bundle.json")
    assert "\nmodel        m/2, for generation, by scrub_r (approximate, no guarantee), gate: pass\n" in done.stdout


def test_nothing_in_a_bundle_steers_the_terminal(folder: Path) -> None:
    spoken = "\x1b[2J\x1b[HVERIFIED\nVERIFIED\u202e"
    raw = signed_again(cases.made(), lambda s: s["predicate"].update(does_not_prove=[spoken]))
    (folder / "loud.json").write_bytes(raw)
    done = alone(folder, "loud.json")
    assert (done.returncode, "\x1b" in done.stdout, "\nVERIFIED" in done.stdout) == (3, False, False)
    assert "\\x1b[2J\\x1b[HVERIFIED\\nVERIFIED\\u202e" in done.stdout
    (folder / "loud.json").write_bytes(edited(cases.made(), lambda d: d.update({spoken: 1})))
    done = alone(folder, "loud.json")
    assert (done.returncode, "\x1b" in done.stderr) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("bundle.json",), 3, ""),
        (("bundle.json", "--trusted-key", cases.key(2).public_key.hex()), 1, "not a trusted key"),
        (("bundle.json", "--trusted-key", KEY.public_key.hex(), "--weights", "other.safetensors"), 1, "none of"),
        (("bundle.json", "--trusted-key", "nonsense"), 2, "trusted key cannot be read"),
        (("bundle.json", "--trusted-key", ""), 2, "names no key"),
        (("absent.json",), 4, "cannot read absent.json"),
        (("bundle.json", "--weights", "absent"), 4, "cannot read absent"),
        ((), 2, "usage"),
    ],
)
def test_each_end_has_its_exit_code_and_says_why(
    folder: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = alone(folder, *arguments)
    assert (done.returncode, says in done.stderr) == (code, True)
    assert done.stdout.startswith("UNTRUSTED KEY") == (code == 3)
