"""Do the settings fit together, and are they fit for production?"""

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from service import weights_header
from service.doctor.finding import Finding
from service.errors import InvalidRequest
from service.settings import Settings

_PART = "settings"
# What `unlearn serve` tells its worker.
_OF_NO_SETTING = frozenset({"UNLEARN_EXIT_WITH_PARENT"})


def look(settings: Settings) -> Iterator[Finding]:
    found = [*_misfits(settings), *_unknown(map(str.upper, os.environ)), *_misplaced(settings)]
    yield from found
    if not found:
        yield Finding.ok(_PART, f"fit together ({settings.environment})")


def _is_safetensors(path: Path) -> bool:
    try:
        weights_header.check(path)
    except (InvalidRequest, OSError):
        return False
    return True


def _misfits(settings: Settings) -> Iterator[Finding]:
    postgresql = settings.resolved_database_url.startswith("postgresql")
    if settings.environment != "production":
        todo = "In production set UNLEARN_ENVIRONMENT=production, which refuses what is only fit for a trial."
        yield Finding.warning(_PART, "the environment is development", todo)
    if settings.fault_points is not None:
        yield Finding.fault(_PART, "UNLEARN_FAULT_POINTS is set", "Unset it: it is for tests, and holds the service.")
    if postgresql and settings.resolved_broker_url.startswith("filesystem"):
        todo = "Set UNLEARN_BROKER_URL to a Redis or Valkey that API and workers reach."
        yield Finding.warning(_PART, "PostgreSQL, but the broker is a folder of this machine", todo)
    if settings.sweep_seconds > settings.lease_seconds:
        todo = "Make UNLEARN_SWEEP_SECONDS at most a third of UNLEARN_LEASE_SECONDS, or lost work waits."
        yield Finding.warning(_PART, "workers sweep less often than a lease ends", todo)
    if settings.lease_seconds < 2:
        todo = "Leases under 2 seconds are lost on a busy machine; 30 is the default."
        yield Finding.warning(_PART, f"a lease is {settings.lease_seconds:g} s", todo)
    if "memory" in settings.resolved_rate_limit_storage and settings.environment == "production":
        todo = "With several API processes set UNLEARN_RATE_LIMIT_STORAGE to a Redis URL."
        yield Finding.warning(_PART, "rates are counted in each API process by itself", todo)


def _unknown(names: Iterable[str]) -> Iterator[Finding]:
    """Tell of variables that set nothing: most are misspelt, and the default stands without a word."""
    known = {f"UNLEARN_{name.upper()}" for name in Settings.model_fields} | _OF_NO_SETTING
    for name in sorted(set(names) - known):
        if name.startswith("UNLEARN_") and not name.startswith("UNLEARN_TEST_"):
            near = difflib.get_close_matches(name, known, n=1)
            todo = f"Is {near[0]} meant?" if near else "See the README's table of settings."
            yield Finding.warning(_PART, f"{name} is no setting, and sets nothing", todo)


def _misplaced(settings: Settings) -> Iterator[Finding]:
    if settings.inception_weights is not None and not _is_safetensors(settings.inception_weights):
        todo = "On a worker's machine put the file there (docs/generation-evaluation.md), or FID is not measured."
        yield Finding.warning(_PART, "UNLEARN_INCEPTION_WEIGHTS names no safetensors file here", todo)
    if not settings.roots:
        yield Finding.warning(
            _PART, "UNLEARN_ALLOWED_ROOTS is empty", "Name the folders data sets lie in, or only built-in ones work."
        )
    for root in settings.roots:
        if not root.is_dir():
            yield Finding.fault(
                _PART, f"the allowed root {root} is no folder here", "Mount it, or correct UNLEARN_ALLOWED_ROOTS."
            )
