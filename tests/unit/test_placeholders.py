"""What examples and habits leave in place of a secret is not taken for one in production."""

import hashlib
import os
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from service.placeholders import is_placeholder_key, is_placeholder_password
from service.settings import Settings

PRODUCTION: dict[str, Any] = {
    "environment": "production",
    "database_url": "postgresql+psycopg://unlearn:q7Vd2mKx@db/unlearn",
    "broker_url": "redis://:w4Tz9pLc@cache:6379/0",
    "master_key": hashlib.sha256(b"drawn once").hexdigest(),
    "signing_key": hashlib.sha256(b"drawn twice").hexdigest(),
}


@pytest.mark.parametrize(
    "key",
    ["00" * 32, "ff" * 32, "ab" * 32, "deadbeef" * 8, "0123456789abcdef" * 4, bytes(range(32)).hex(),
     bytes(range(64, 32, -1)).hex(), bytes(range(0, 96, 3)).hex(), b"changeme".hex() * 4],
)  # fmt: skip
@pytest.mark.parametrize("name", ["master_key", "signing_key"])
def test_production_refuses_a_key_that_is_a_pattern(key: str, name: str) -> None:
    with pytest.raises(ValidationError, match=rf"UNLEARN_{name.upper()}.*openssl rand -hex 32") as refusal:
        Settings(**{**PRODUCTION, name: key})
    assert key not in str(refusal.value)


def test_no_key_drawn_at_random_is_taken_for_a_pattern() -> None:
    assert not any(is_placeholder_key(os.urandom(32)) for _ in range(20_000))


@pytest.mark.parametrize(
    "password",
    ["changeme", "Change-Me!", "password", "Password123", "postgres", "unlearn", "your-password", "<password>",
     "${POSTGRES_PASSWORD}", "xxxxx", "123456", "replace_this", "secret", "insert-password-here"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "url"),
    [("database_url", "postgresql+psycopg://unlearn:{}@db/unlearn"), ("broker_url", "redis://:{}@cache:6379/0")],
)
def test_production_refuses_a_password_of_an_example_and_does_not_show_it(password: str, name: str, url: str) -> None:
    with pytest.raises(ValidationError, match=f"UNLEARN_{name.upper()}.*placeholder") as refusal:
        Settings(**{**PRODUCTION, name: url.format(quote(password, safe=""))})
    assert "@" not in str(refusal.value)


@pytest.mark.parametrize("password", ["q7Vd2mKx", "4f1c9a77e0b25d3386aa1b0c", "839201746523", "correct horse battery"])
def test_other_passwords_pass(password: str) -> None:
    assert not is_placeholder_password(password)


def test_a_database_that_asks_for_no_password_passes() -> None:
    Settings(**{**PRODUCTION, "database_url": "postgresql+psycopg://unlearn@db/unlearn"})


def test_development_takes_what_it_is_given() -> None:
    Settings(**{**PRODUCTION, "environment": "development", "master_key": "00" * 32})
