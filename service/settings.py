"""One frozen Settings object, read from the environment (prefix ``UNLEARN_``) and passed in; nothing at import."""

import os
import re
import secrets
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from limits import parse
from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import atomic_files, setting_forms
from service.placeholders import is_placeholder_key, is_placeholder_password

KEY_BYTES = 32
MOST_WAIT_SECONDS = 30 * 86_400
_REDIS = ("redis://", "rediss://")
_DRAWN = "drawn at random (openssl rand -hex 32), not a pattern"
_NO_PLACEHOLDER = "with a password of its own, not a placeholder"


def _a_rate(value: str) -> str:
    if value:
        try:
            parse(value)
        except ValueError:
            raise ValueError("a rate is written like 600/minute or 10/second") from None
    return value


RateLimit = Annotated[str, AfterValidator(_a_rate)]
_Place = Annotated[str, AfterValidator(setting_forms.folder_url)]


class Settings(BaseSettings):
    """Everything an operator can set. Defaults run the embedded service in ``./var``."""

    model_config = SettingsConfigDict(
        env_prefix="UNLEARN_", frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False
    )

    environment: Literal["development", "production"] = Field(
        "development", description="`production` refuses SQLite, the file broker, generated keys and placeholders."
    )
    data_dir: Path = Field(Path("var"), description="Folder for the database, artifacts, caches and the key.")
    database_url: Annotated[str, AfterValidator(setting_forms.database_url)] = Field(
        "", description="SQLAlchemy URL; empty: SQLite in the data folder."
    )
    broker_url: Annotated[str, AfterValidator(setting_forms.broker_url)] = Field(
        "", description="Celery broker URL; empty: files in the data folder."
    )
    artifacts_url: _Place = Field("", description="fsspec URL of the artifact store; empty: in the data folder.")
    erasure_journal_url: _Place = Field(
        "", description="fsspec URL of the erasure journal, best elsewhere; empty: `erasures` in the data folder."
    )
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
    inception_weights: Path | None = Field(
        None,
        description="safetensors file of Inception's weights on the worker, by which FID is taken; empty: it is not.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the worker's child process.")
    lease_seconds: float = Field(30.0, gt=0, description="How long a silent worker keeps a job, seconds.")
    sweep_seconds: float = Field(5.0, gt=0, description="How often each worker looks for lost work, seconds.")
    max_attempts: int = Field(5, ge=1, description="Claims after which a job that never ends is `poisoned`.")
    outage_patience_seconds: float = Field(
        600.0, ge=0, description="How long a worker keeps a result while the database is away or full, seconds."
    )
    storage_retry_seconds: float = Field(
        60.0, gt=0, description="First wait of a job that the storage refused, seconds; each next is four times it."
    )
    max_clock_skew_seconds: float = Field(
        5.0, gt=0, description="A worker whose clock differs more from the database's takes no job, seconds."
    )
    job_time_limit_seconds: float = Field(86_400.0, gt=0, description="A child past this is killed, seconds.")
    checkpoint_seconds: float = Field(
        30.0, ge=0, description="Seconds of a long training between its checkpoints; 0: one after each epoch."
    )
    worker_drain_seconds: float = Field(
        30.0, ge=0, description="Seconds a worker that is asked to end gives its training to reach a checkpoint."
    )
    child_niceness: int = Field(
        5, ge=0, le=19, description="How far the work gives way to other processes of the machine; 0: not at all."
    )
    child_idle_seconds: float = Field(300.0, gt=0, description="A warm child unused this long is released, seconds.")
    max_body_bytes: int = Field(16 * 2**20, gt=0, description="Largest JSON body, bytes.")
    max_weights_bytes: int = Field(4 * 2**30, gt=0, description="Largest uploaded weights file, bytes.")
    max_sample_ids: int = Field(100_000, gt=0, description="Most sample IDs one request may name.")
    request_key_days: int = Field(
        1096, ge=1, description="Days after a request's end for which receipts can be given; then its key is shredded."
    )
    id_checks_per_day: int = Field(
        100_000, gt=0, description="Sample IDs a key may have looked up a day, by suppression checks and receipts."
    )
    scrub_seconds: float = Field(
        60.0, ge=0, description="Seconds after which the database's files are rid of what was erased."
    )
    time_zone: str = Field("UTC", description="The controller's time zone; due dates end at its midnight.")
    rate_limit_storage: str = Field(
        "", description="Where uses are counted: `memory://` or a Redis URL; empty: the broker's Redis, else memory."
    )
    rate_limit_reads: RateLimit = Field("30000/minute", description="Reads by one key; empty: no limit.")
    rate_limit_writes: RateLimit = Field("6000/minute", description="Writes by one key but those below.")
    rate_limit_deletion_requests: RateLimit = Field("12000/minute", description="Deletion requests and previews.")
    rate_limit_suppression_checks: RateLimit = Field("600/minute", description="Suppression checks by one key.")
    rate_limit_downloads: RateLimit = Field("600/minute", description="Downloads of weights by one key.")
    rate_limit_failed_authentication: RateLimit = Field("300/minute", description="Failures from one address.")
    quota_requests_per_day: int = Field(0, ge=0, description="Deletion requests of one key in 24 hours; 0: any.")
    quota_sample_ids_per_day: int = Field(0, ge=0, description="Sample IDs one key may name in 24 hours; 0: any.")
    approval_above_share: float = Field(
        0.75, gt=0, le=1, description="Requests for more of a model's training set wait for approval; 1: none does."
    )
    four_eyes: Literal["off", "requests", "all"] = Field(
        "requests", description="Who made a request may not approve it, nor, with `all`, a held job of it; `off`: may."
    )
    webhook_allowed_hosts: str = Field(
        "", description="Hosts and networks webhooks may reach although not public, comma-separated; over http too."
    )
    webhook_timeout_seconds: float = Field(
        15.0, gt=0, le=120, description="Longest one webhook call may take, seconds."
    )
    webhook_retry_seconds: str = Field(
        "5,300,1800,7200,18000,36000,50400,72000,86400",
        description="Waits between attempts of a webhook delivery, seconds; after the last it is dead.",
    )
    webhook_workers: int = Field(8, ge=1, le=64, description="Webhook endpoints called at the same time.")
    webhook_retention_days: float = Field(30.0, gt=0, description="Webhook events older than this are deleted, days.")
    drain_seconds: float = Field(
        1.0, ge=0, le=300, description="How long an API asked to end says so by `/readyz` before it stops accepting."
    )
    shutdown_seconds: float = Field(
        20.0, ge=1, le=3600, description="How long requests in flight may take once the API accepts no more, seconds."
    )
    max_connections: int = Field(800, ge=10, description="Connections one API process answers; beyond it is 503.")
    max_streams: int = Field(200, ge=1, description="Streams of events one API process holds open; beyond it is 503.")
    stream_seconds: float = Field(3600.0, gt=0, description="A stream of events ends after this; resume it, seconds.")
    head_seconds: float = Field(20.0, gt=0, description="Longest a request's head may take to come, seconds.")
    body_seconds: float = Field(30.0, gt=0, description="Longest wait for a body, beside its bytes' time, seconds.")
    body_bytes_per_second: int = Field(8192, gt=0, description="Slowest a body may come, bytes a second.")
    unread_seconds: float = Field(60.0, gt=0, description="A client that reads nothing so long is cut off, seconds.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line logged.")
    fault_points: Path | None = Field(
        None, description="Folder of a test that holds or fails the service at named steps; `production` refuses it."
    )

    @field_validator("four_eyes", mode="before")
    @classmethod
    def _on_or_off(cls, value: object) -> object:
        """Take what operators write for a switch: on means everywhere."""
        switch = str(value).lower()
        return {"true": "all", "1": "all", "on": "all", "false": "off", "0": "off"}.get(switch, switch)

    @field_validator("rate_limit_storage")
    @classmethod
    def _memory_or_redis(cls, value: str) -> str:
        if value and not value.startswith(("memory://", *_REDIS)):
            raise ValueError("the rate limits are counted in memory:// or in a redis:// URL")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, OSError):
            raise ValueError("no such time zone in the IANA database") from None
        return value

    @field_validator("signing_key", "signing_key_file", "inception_weights", "fault_points", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None

    @field_validator("webhook_retry_seconds")
    @classmethod
    def _waits(cls, value: str) -> str:
        if not all(0 <= float(part) <= MOST_WAIT_SECONDS for part in value.split(",")):
            raise ValueError("each wait is between 0 seconds and 30 days")
        return value

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
                ("no UNLEARN_FAULT_POINTS", self.fault_points is not None),
                (f"an UNLEARN_MASTER_KEY {_DRAWN}", _is_pattern(self.master_key)),
                (f"an UNLEARN_SIGNING_KEY {_DRAWN}", _is_pattern(self.signing_key)),
                (f"an UNLEARN_DATABASE_URL {_NO_PLACEHOLDER}", _holds_placeholder(self.database_url)),
                (f"an UNLEARN_BROKER_URL {_NO_PLACEHOLDER}", _holds_placeholder(self.broker_url)),
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
    def resolved_rate_limit_storage(self) -> str:
        shared = self.resolved_broker_url if self.resolved_broker_url.startswith(_REDIS) else "memory://"
        return self.rate_limit_storage or shared

    @property
    def resolved_artifacts_url(self) -> str:
        return self.artifacts_url or str((self.data_dir / "artifacts").resolve())

    @property
    def resolved_erasure_journal_url(self) -> str:
        return self.erasure_journal_url or str((self.data_dir / "erasures").resolve())

    @property
    def webhook_waits(self) -> tuple[float, ...]:
        """The seconds between attempts of a webhook delivery."""
        return tuple(float(part) for part in self.webhook_retry_seconds.split(","))

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


def _is_pattern(key: SecretStr | None) -> bool:
    text = key.get_secret_value() if key is not None else ""
    return bool(re.fullmatch(r"([0-9a-fA-F]{2})+", text)) and is_placeholder_key(bytes.fromhex(text))


def _holds_placeholder(url: str) -> bool:
    password = urlsplit(url).password
    return password is not None and is_placeholder_password(unquote(password))


def key_file(path: Path) -> bytes:
    """Return the 32-byte key in a file (mode 0600, hex), making one if there is none."""
    if path.exists():  # whole, since it was named last; on a full disk no other could be made to find that out
        return bytes.fromhex(path.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written whole under a private name, then named: two processes starting together agree on one key.
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES))
        with suppress(FileExistsError):
            atomic_files.name_once(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return bytes.fromhex(path.read_text())
