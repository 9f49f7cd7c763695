"""One frozen Settings object, read from the environment (prefix ``UNLEARN_``) and passed in; nothing at import."""

import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

KEY_BYTES = 32


class Settings(BaseSettings):
    """Everything an operator can set. Defaults run the embedded service in ``./var``."""

    model_config = SettingsConfigDict(env_prefix="UNLEARN_", frozen=True, extra="ignore", hide_input_in_errors=True)

    environment: Literal["development", "production"] = Field(
        "development", description="`production` refuses SQLite, the file broker and generated keys."
    )
    data_dir: Path = Field(Path("var"), description="Folder for the database, artifacts, caches and the key.")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in the data folder.")
    broker_url: str = Field("", description="Celery broker URL; empty: files in the data folder.")
    artifacts_url: str = Field("", description="fsspec URL of the artifact store; empty: in the data folder.")
    allowed_roots: str = Field("", description="Folders datasets may be read from, joined by the path separator.")
    master_key: SecretStr | None = Field(
        None,
        description=(
            "64 hex characters; keys the suppression list and wraps request keys. Empty: made once in the data folder."
        ),
    )
    signing_key: SecretStr | None = Field(
        None, description="Ed25519 key that signs checkpoints and certificates: PEM, or 64 hex characters (the seed)."
    )
    signing_key_file: Path | None = Field(
        None, description="File of mode 0600 with the signing key. Without either, one is made in the data folder."
    )
    log_origin: str = Field(
        "unlearning-service.local/v1/audit",
        description="Name of the audit log in its checkpoints: a URL without its scheme. It never changes.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the worker's child process.")
    lease_seconds: float = Field(30.0, gt=0, description="How long a silent worker keeps a job, seconds.")
    sweep_seconds: float = Field(5.0, gt=0, description="How often each worker looks for lost work, seconds.")
    max_attempts: int = Field(5, ge=1, description="Claims after which a job that never ends is `poisoned`.")
    job_time_limit_seconds: float = Field(86_400.0, gt=0, description="A child past this is killed, seconds.")
    child_idle_seconds: float = Field(300.0, gt=0, description="A warm child unused this long is released, seconds.")
    max_body_bytes: int = Field(16 * 2**20, gt=0, description="Largest JSON body, bytes.")
    max_weights_bytes: int = Field(4 * 2**30, gt=0, description="Largest uploaded weights file, bytes.")
    max_sample_ids: int = Field(100_000, gt=0, description="Most sample IDs one request may name.")
    request_key_days: int = Field(
        1096, ge=1, description="Days after a request's end for which receipts can be given; then its key is shredded."
    )
    scrub_seconds: float = Field(
        60.0, ge=0, description="Seconds after which the database's files are rid of what was erased."
    )
    time_zone: str = Field("UTC", description="The controller's time zone; due dates end at its midnight.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line logged.")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, OSError):
            raise ValueError("no such time zone in the IANA database") from None
        return value

    @field_validator("signing_key", "signing_key_file", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @field_validator("master_key")
    @classmethod
    def _key_of_32_bytes(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if len(bytes.fromhex(value.get_secret_value())) != KEY_BYTES:
            raise ValueError("the master key is 64 hexadecimal characters (32 bytes)")
        return value

    @field_validator("log_origin")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if not value or not value.isprintable() or "+" in value or any(c.isspace() for c in value):
            raise ValueError("the log's origin has no white space and no plus sign")
        return value

    @model_validator(mode="after")
    def _one_signing_key(self) -> Self:
        if self.signing_key is not None and self.signing_key_file is not None:
            raise ValueError("set UNLEARN_SIGNING_KEY or UNLEARN_SIGNING_KEY_FILE, not both")
        return self

    @model_validator(mode="after")
    def _production_is_explicit(self) -> Self:
        if self.environment != "production":
            return self
        faults = [
            name
            for name, missing in (
                ("UNLEARN_DATABASE_URL (PostgreSQL)", not self.database_url.startswith("postgresql")),
                ("UNLEARN_BROKER_URL (Redis or RabbitMQ)", self.resolved_broker_url.startswith("filesystem")),
                ("UNLEARN_MASTER_KEY", self.master_key is None),
                ("UNLEARN_SIGNING_KEY or UNLEARN_SIGNING_KEY_FILE", not (self.signing_key or self.signing_key_file)),
            )
            if missing
        ]
        if faults:
            raise ValueError("production needs " + ", ".join(faults))
        return self

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'unlearn.db').resolve()}"

    @property
    def resolved_broker_url(self) -> str:
        return self.broker_url or "filesystem://localhost"

    @property
    def resolved_artifacts_url(self) -> str:
        return self.artifacts_url or str((self.data_dir / "artifacts").resolve())

    @property
    def roots(self) -> list[Path]:
        """The folders datasets may be read from, resolved; symbolic links are followed before any check."""
        return [Path(part).resolve() for part in self.allowed_roots.split(os.pathsep) if part]

    @cached_property
    def master_key_bytes(self) -> bytes:
        """Return the 32-byte master key, making one (mode 0600) on first use in development."""
        if self.master_key is not None:
            return bytes.fromhex(self.master_key.get_secret_value())
        return key_file(self.data_dir / "master.key")


def key_file(path: Path) -> bytes:
    """Return the 32-byte key in a file (mode 0600, hex), making one if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written whole under a private name, then linked: two processes starting together agree on one key.
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(KEY_BYTES))
    try:
        os.link(scratch, path)
    except FileExistsError:
        pass
    finally:
        scratch.unlink()
    return bytes.fromhex(path.read_text())
