"""How the demo talks to the service: every answer is checked, and what is awaited has a limit."""

import time
from collections.abc import Callable
from typing import Any

import httpx

STEP_SECONDS = 900


class StepFailed(Exception):
    """A step of the demo did not do what it says."""


def poll(client: httpx.Client, path: str, done: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the document at `path` once it is `done`. Raises StepFailed."""
    end = time.monotonic() + STEP_SECONDS
    while time.monotonic() < end:
        document = document_of(client.get(path))
        if done(document):
            return document
        time.sleep(0.2)
    raise StepFailed(f"{path} did not get there within {STEP_SECONDS} s")


def document_of(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    """Return the answer's JSON. Raises StepFailed for another status."""
    expect(answer.status_code == status, f"{answer.request.method} {answer.request.url.path}: {answer.text[:500]}")
    document: dict[str, Any] = answer.json()
    return document


def expect(holds: object, complaint: str) -> None:
    """Raise StepFailed unless it holds."""
    if not holds:
        raise StepFailed(complaint)
