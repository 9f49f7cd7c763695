"""A command's standard output is its result; what it logs is JSON on standard error, as the service's is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import service.cli
from service.settings import Settings


def _ran(data_dir: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *words],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "UNLEARN_DATA_DIR": str(data_dir), **env},
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_backup_prints_its_result_alone_and_logs_on_standard_error(tmp_path: Path) -> None:
    made = _ran(tmp_path / "data", "keys", "create", "k", "--scope", "admin")
    assert len(made.stdout.split()) == 1
    found = _ran(tmp_path / "data", "backup", str(tmp_path / "copy"))
    [result] = found.stdout.splitlines()
    assert result.startswith("backed up ")
    lines = [json.loads(line) for line in found.stderr.splitlines() if line.startswith("{")]
    assert "erasures.journaled" in [line["action"] for line in lines]
    assert not [line for line in found.stderr.splitlines() if "erasures.journaled" in line and line[0] != "{"]


def test_the_level_asked_for_holds_for_commands(tmp_path: Path) -> None:
    _ran(tmp_path / "data", "keys", "create", "k", "--scope", "admin")
    found = _ran(tmp_path / "data", "backup", str(tmp_path / "copy"), UNLEARN_LOG_LEVEL="error")
    assert "erasures.journaled" not in found.stderr + found.stdout


@pytest.mark.parametrize(("asked", "level"), [("", "info"), ("loud", "info"), ("warning", "warning")])
def test_a_level_that_is_none_keeps_no_command_from_running(
    monkeypatch: pytest.MonkeyPatch, asked: str, level: str
) -> None:
    monkeypatch.setenv("UNLEARN_LOG_LEVEL", asked)
    assert service.cli._log_level() == level
    assert Settings.model_fields["log_level"].default == "info"
