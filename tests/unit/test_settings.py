"""Settings: defaults run the embedded service; production must be spelt out; secrets are not echoed."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service import setting_forms
from service.settings import Settings

KEY = hashlib.sha256(b"drawn once").hexdigest()
PRODUCTION: dict[str, Any] = {
    "environment": "production",
    "database_url": "postgresql+psycopg://u@h/d",
    "broker_url": "redis://h",
    "master_key": KEY,
    "signing_key": hashlib.sha256(b"drawn twice").hexdigest(),
}


def test_everything_lies_in_the_data_folder_by_default(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/unlearn.db"
    assert settings.resolved_broker_url.startswith("filesystem")
    assert settings.resolved_artifacts_url == str(tmp_path / "artifacts")
    assert settings.roots == []


def test_production_accepts_what_is_spelt_out() -> None:
    assert Settings(**PRODUCTION).master_key_bytes == bytes.fromhex(KEY)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("database_url", "DATABASE_URL"),
        ("broker_url", "BROKER_URL"),
        ("master_key", "MASTER_KEY"),
        ("signing_key", "SIGNING_KEY"),
    ],
)
def test_production_names_what_it_lacks(missing: str, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Settings(**{name: value for name, value in PRODUCTION.items() if name != missing})


def test_production_refuses_sqlite() -> None:
    with pytest.raises(ValidationError, match="DATABASE_URL"):
        Settings(**{**PRODUCTION, "database_url": "sqlite:///x.db"})


@pytest.mark.parametrize("key", ["ab" * 31, "ab" * 33, "zz" * 32])
def test_a_wrong_master_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(master_key=key)
    assert key[:10] not in str(refusal.value)


def test_the_master_key_is_not_in_the_settings_text() -> None:
    assert KEY not in repr(Settings(**PRODUCTION))


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    first, second = Settings(data_dir=tmp_path / "new"), Settings(data_dir=tmp_path / "new")
    assert first.master_key_bytes == second.master_key_bytes
    assert len(first.master_key_bytes) == 32
    (path,) = (tmp_path / "new").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Settings(data_dir=tmp_path / "other").master_key_bytes != first.master_key_bytes


def test_one_signing_key_is_named_at_most_and_an_empty_one_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="not both"):
        Settings(signing_key="cd" * 32, signing_key_file=tmp_path)
    assert Settings(signing_key="", signing_key_file="").signing_key_file is None


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb"])
def test_the_logs_origin_is_one_word(origin: str) -> None:
    with pytest.raises(ValidationError, match="origin"):
        Settings(log_origin=origin)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc/passwd", "Europe"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValidationError, match="time_zone"):
        Settings(time_zone=zone)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lease_seconds", 0), ("max_attempts", 0), ("max_body_bytes", -1), ("device", "tpu"), ("log_level", "loud")],
)
def test_values_out_of_bounds_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_allowed_roots_are_split_and_their_links_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    roots = Settings(allowed_roots=os.pathsep.join([str(tmp_path / "link"), "", str(tmp_path)])).roots
    assert roots == [tmp_path / "real", tmp_path]


def test_the_environment_is_read_under_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_MAX_SAMPLE_IDS", "7")
    monkeypatch.setenv("MAX_SAMPLE_IDS", "8")
    assert Settings().max_sample_ids == 7


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().max_attempts = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "form"),
    [
        ("database_url", "postgres://u:hunter2@h/x", "postgresql\\+psycopg://"),
        ("database_url", "mysql://u:hunter2@h/x", "postgresql\\+psycopg://"),
        ("database_url", "/folder/hunter2.db", "sqlite:///"),
        ("database_url", "postgresql://u:hunter2@h:port/x", "postgresql\\+psycopg://"),
        ("broker_url", "kafka://hunter2", "redis://"),
        ("artifacts_url", "foo://hunter2", "s3://"),
        ("erasure_journal_url", "foo://hunter2", "s3://"),
        ("lease_seconds", "inf", "finite"),
    ],
)
def test_what_the_service_cannot_use_is_refused_with_the_form_it_takes(name: str, value: str, form: str) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ValidationError, match=form) as refusal:
        Settings(**given)
    assert setting_forms.faults_of(refusal.value)[0].startswith(f"UNLEARN_{name.upper()}: ")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("url", ["s3://bucket/x", "file:///x", "memory://x", "/x", "relative"])
def test_places_that_fsspec_knows_are_taken(url: str) -> None:
    assert Settings(artifacts_url=url).resolved_artifacts_url == url
