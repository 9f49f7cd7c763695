"""What the audit log costs at a million entries beside ten thousand, on PostgreSQL.

Two databases on one server, filled in bulk, are measured in turn, so that a slow moment of the machine meets both.
*Appends*: transactions of one entry with two links, one after the other; after each hundred the tree takes them in and
a checkpoint is signed. *Page*: 100 entries of one model of twenty and one action of two, from a random place on,
through the store. *Since*: 100 entries from a random moment on. *Proof*: the inclusion path of a random entry. The
server runs as the tests run it: no fsync.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg import Connection
from sqlalchemy import text

from benchmarks.circumstances import circumstances
from service import migrate
from service.evidence.leaf import entry_bytes, payload_bytes
from service.evidence.merkle import hash_leaf
from service.settings import Settings
from service.store import audit, audit_tree, checkpoints
from service.store.session import Database

SIZES = (10_000, 1_000_000)
MAX_RATIO = 2.0
MODELS, ACTIONS = 20, 2
ROUNDS, APPENDS, SIGN_EVERY, ASKED = 7, 400, 100, 60
ASKED_FOR = ("page", "since", "proof")
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Log:
    settings: Settings
    database: Database
    size: int


def main() -> int:
    """Print the figures as JSON; return 1 if a million entries cost more than twice what ten thousand do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES)
    given = parser.parse_args()
    from tests.servers import postgres_server

    with ExitStack() as stack:
        server = stack.enter_context(postgres_server())
        filled: dict[int, dict[str, float]] = {}
        logs = [_filled(stack, server, size, filled) for size in given.sizes]
        found = _measure(logs, given.rounds)
    small, large = (found[size] for size in given.sizes)
    ratios = {
        "append": round(small["appends_per_second"] / large["appends_per_second"], 2),
        **{name: round(large[f"{name}_ms"] / small[f"{name}_ms"], 2) for name in ASKED_FOR},
    }
    missed = [name for name, ratio in ratios.items() if ratio > MAX_RATIO]
    whole = {
        "at": {size: {**filled[size], **figures} for size, figures in found.items()},
        "times_as_costly": ratios,
        "targets_missed": missed,
        "rounds": given.rounds,
        "circumstances": circumstances("sqlalchemy", "psycopg", "cryptography"),
    }
    print(json.dumps(whole, indent=2))
    return 1 if missed else 0


def _filled(stack: ExitStack, server: str, size: int, seconds: dict[int, dict[str, float]]) -> Log:
    """Return a log with this many entries, whose tree covers them and is signed."""
    from tests.servers import fresh_database

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    settings = Settings(data_dir=folder, database_url=stack.enter_context(fresh_database(server)))
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    stack.callback(database.dispose)
    with database.writing() as session:
        driver: Any = session.connection().connection.driver_connection
        _copy(driver, size)
        session.execute(text("UPDATE audit_head SET size = :size, time = ''"), {"size": size})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE audit_entries"))
        connection.execute(text("VACUUM ANALYZE audit_links"))
    started = time.perf_counter()
    checkpoints.fresh(database, settings)
    seconds[size] = {"seconds_to_build_the_tree_once": round(time.perf_counter() - started, 2)}
    return Log(settings=settings, database=database, size=size)


def _copy(connection: Connection[Any], size: int) -> None:
    with connection.cursor() as cursor:
        columns = "seq, time, actor, action, subject, payload, leaf_hash"
        with cursor.copy(f"COPY audit_entries ({columns}) FROM STDIN") as copy:
            for row in _rows(size):
                copy.write_row(row)
        with cursor.copy("COPY audit_links (kind, ref, seq) FROM STDIN") as copy:
            for seq in range(size):
                for kind, ref in _links(seq).items():
                    copy.write_row((kind, ref, seq))


def _links(seq: int) -> dict[str, str]:
    return {"model": f"m{seq % MODELS}", "request": f"req_{seq // 8:024x}"}


def _rows(size: int) -> Iterator[tuple[Any, ...]]:
    for seq in range(size):
        payload = payload_bytes({"job": f"job_{seq:024x}", "count": seq % 100, "sha256": f"{seq:064x}"})
        fields: dict[str, Any] = {
            "seq": seq,
            "time": audit.moment(START + timedelta(seconds=seq)),
            "actor": f"key_{seq % 7}",
            "action": f"job.action_{seq // MODELS % ACTIONS}",
            "subject": f"job/job_{seq:024x}",
        }
        leaf = hash_leaf(entry_bytes(**fields, payload=payload)).hex()
        yield (*fields.values(), payload.decode(), leaf)


def _measure(logs: list[Log], rounds: int) -> dict[int, dict[str, float]]:
    draw = random.Random(0)
    rates: dict[int, list[float]] = {log.size: [] for log in logs}
    times: dict[int, dict[str, list[float]]] = {log.size: {name: [] for name in ASKED_FOR} for log in logs}
    for turn in range(rounds + 1):
        for log in logs if turn % 2 else reversed(logs):
            rate = _append(log)
            asked = {
                "page": _times(ASKED, lambda log=log: _page(log, draw)),  # type: ignore[misc]
                "since": _times(ASKED, lambda log=log: _since(log, draw)),  # type: ignore[misc]
                "proof": _times(ASKED, lambda log=log: _proof(log, draw)),  # type: ignore[misc]
            }
            if turn:  # the first turn warms up
                rates[log.size].append(rate)
                for name, found in asked.items():
                    times[log.size][name] += found
    return {
        size: {
            "appends_per_second": round(statistics.median(rates[size]), 1),
            "appends_per_second_least": round(min(rates[size]), 1),
            "appends_per_second_most": round(max(rates[size]), 1),
            **{f"{name}_ms": round(1000 * statistics.median(found), 3) for name, found in times[size].items()},
        }
        for size in rates
    }


def _append(log: Log) -> float:
    """Return entries per second, the tree and its checkpoints included."""
    started = time.perf_counter()
    for i in range(APPENDS):
        with log.database.writing() as session:
            audit.record(
                session,
                f"job.action_{i % ACTIONS}",
                subject=f"job/{i}",
                payload={"job": f"job_{i:024x}", "count": i, "sha256": "0" * 64},
                links=_links(i),
            )
        if (i + 1) % SIGN_EVERY == 0:
            checkpoints.fresh(log.database, log.settings)
    return APPENDS / (time.perf_counter() - started)


def _times(count: int, run: Callable[[], None]) -> list[float]:
    found: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return found


def _page(log: Log, draw: random.Random) -> None:
    links, action = {"model": f"m{draw.randrange(MODELS)}"}, f"job.action_{draw.randrange(ACTIONS)}"
    with log.database.reading() as session:
        found = audit.find(session, after=draw.randrange(log.size // 2), actions=[action], links=links, limit=100)
    if len(found) < 100:
        raise RuntimeError(f"a page has {len(found)} entries: it would not be the same work at both sizes")


def _since(log: Log, draw: random.Random) -> None:
    since = audit.moment(START + timedelta(seconds=draw.randrange(log.size)))
    with log.database.reading() as session:
        audit.find(session, since=since, limit=100)


def _proof(log: Log, draw: random.Random) -> None:
    with log.database.reading() as session:
        audit_tree.inclusion(session, draw.randrange(log.size), log.size)


if __name__ == "__main__":
    raise SystemExit(main())
