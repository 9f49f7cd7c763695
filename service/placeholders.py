"""Secrets that are none: what stands in examples, and keys that nobody drew at random. Pure.

This finds what people leave in place, not what an attacker could guess: a weak secret that looks like none of these
passes.
"""

import re
from itertools import pairwise

# Of 32 random bytes fewer than 17 differ less than once in 10^9 keys.
LEAST_DISTINCT_BYTES, LEAST_DIGITS = 17, 12
_WORDS = frozenset((
    "admin", "changeit", "changeme", "default", "demo", "development", "dummy", "example", "foobar", "guest",
    "hunter2", "letmein", "master", "masterkey", "none", "null", "passphrase", "passw0rd", "password", "placeholder",
    "postgres", "postgresql", "production", "redis", "root", "secret", "secretkey", "test", "testing", "todo",
    "token", "topsecret", "unlearn", "unlearning", "user", "valkey", "welcome", "qwerty"
))  # fmt: skip
_ASKS_TO_BE_REPLACED = re.compile(
    r"<.*>|\$\{.*\}|\{\{.*\}\}|x{3,}|\*{3,}|\.{3,}"
    r"|.*(change|replace|fill)[-_ ]?(me|this|it|in).*|(your|insert|set)[-_ ].*"
)


def is_placeholder_key(key: bytes) -> bool:
    """Say whether the bytes are a pattern: one byte over and over, a short one repeated, counting up or down."""
    steps = {(after - before) % 256 for before, after in pairwise(key)}
    return len(set(key)) < LEAST_DISTINCT_BYTES or len(steps) == 1


def is_placeholder_password(password: str) -> bool:
    """Say whether the password is one of those that examples use."""
    text = password.strip().lower()
    bare = re.sub(r"[^a-z0-9]", "", text).rstrip("0123456789")
    short_number = text.isdigit() and len(text) < LEAST_DIGITS
    return not text or short_number or bool({text, bare} & _WORDS) or _ASKS_TO_BE_REPLACED.fullmatch(text) is not None
