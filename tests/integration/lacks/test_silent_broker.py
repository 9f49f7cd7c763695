"""A broker that takes connections and says nothing delays one request, and no ring is lost by it."""

import base64
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import redis
from sqlalchemy import select

from service.broker import QUEUE
from service.store.tables import Job
from tests.servers import restartable_valkey
from tests.stack import Stack, running

ASKED = 5
# Far below the bell's timeout of five seconds each, on a machine that is busy.
MOST_SECONDS = 5.0


@contextmanager
def _silent(url: str) -> Iterator[None]:
    """Stop the server where it is, so that its kernel goes on to take connections and nobody answers."""
    port = urlsplit(url).port
    [pid] = {
        each.pid
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid
    }
    server = psutil.Process(pid)
    server.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send_signal(signal.SIGCONT)


def _register(stack: Stack, name: str) -> float:
    """Register a dataset, whose indexing is a job that is rung for; return the seconds that took."""
    begun = time.monotonic()
    stack.client.post("/v1/datasets", json={"name": name, "source": "sklearn:digits"}).raise_for_status()
    return time.monotonic() - begun


def _rung_for(url: str) -> set[str]:
    with redis.Redis.from_url(url) as client:
        queued = client.lrange(QUEUE, 0, -1)
    return {json.loads(base64.b64decode(json.loads(each)["body"]))[0][0] for each in queued}


def _wait_until_rung(stack: Stack) -> None:
    with stack.database.reading() as session:
        asked = set(session.scalars(select(Job.id)))
    stack.until(lambda: asked <= _rung_for(stack.settings.resolved_broker_url) or None, seconds=60)


def test_a_silent_broker_delays_one_request_alone_and_all_jobs_are_rung_for_when_it_speaks(
    tmp_path: Path,
) -> None:
    with restartable_valkey() as valkey, running(tmp_path, worker=False, broker_url=valkey.url) as stack:
        _register(stack, "first")
        assert len(_rung_for(valkey.url)) == 1
        with _silent(valkey.url):
            _register(stack, "waits")
            took = sum(_register(stack, f"d{number}") for number in range(ASKED))
            assert took < MOST_SECONDS, f"{took:.1f} s for {ASKED} requests"
        _wait_until_rung(stack)
        _register(stack, "last")
        _wait_until_rung(stack)
