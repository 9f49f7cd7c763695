"""docs/webhooks.md lists every event with its scope, and its verification example verifies."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.catalogue.webhook_events import EVENTS
from service.webhooks import signatures

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()


def test_the_page_lists_every_event_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_0-9]+)` \| `([a-z:]+)` \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(each.name, each.scope, each.summary) for each in EVENTS.values()]


def _example() -> Any:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "def verify" in block]
    found: dict[str, Any] = {}
    exec(code, found)
    return found["verify"]


@pytest.mark.parametrize("age", [0, 250])
def test_the_example_accepts_what_is_signed(age: int) -> None:
    secret, body = signatures.new_secret(), b'{"type":"webhook.ping"}'
    moment = datetime.fromtimestamp(time.time() - age, UTC)
    old_too = [signatures.new_secret(), secret]
    headers = signatures.headers(old_too, message_id="evt_1", moment=moment, body=body)
    assert _example()(secret, headers, body)


def test_the_example_refuses_what_is_altered_old_or_another_secrets() -> None:
    verify, secret, body = _example(), signatures.new_secret(), b"{}"
    now = datetime.now(UTC)
    headers = signatures.headers([secret], message_id="evt_1", moment=now, body=body)
    assert not verify(secret, headers, b"{ }")
    assert not verify(secret, {**headers, "webhook-id": "evt_2"}, body)
    assert not verify(signatures.new_secret(), headers, body)
    old = datetime.fromtimestamp(time.time() - 400, UTC)
    assert not verify(secret, signatures.headers([secret], message_id="evt_1", moment=old, body=body), body)
