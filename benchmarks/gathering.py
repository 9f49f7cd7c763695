"""What it costs to settle many deletion requests that one erasure job works for: does the cost of each grow with them?

For each count a fresh store with one model. The requests, of three ids each, are taken in, join one job, and the job is
claimed and published as a worker does it, but nothing is trained or measured: the report is a fixed one, with a figure
for each request. Then what held the samples is purged and each request's certificate is made. Seconds and SQL
statements of each stage, on one machine.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, func, select

from benchmarks.circumstances import circumstances
from benchmarks.intake import _database_url
from service import certifying, migrate
from service.app import create_app
from service.deps import Parts
from service.settings import Settings
from service.store import intake, jobs, requests, versions
from service.store.tables import Certificate, DeletionRequest, Job
from tests import certificate_cases, factories
from workers import publish, sweeper
from workers.bench import Bench
from workers.order_parts import Prepared

COUNTS, IDS, MAX_GROWTH = (125, 250, 500, 1_000), 3, 2.0
SECONDS = {"unlearning": 1.0, "evaluation": 1.0}
Stages = dict[str, dict[str, float]]


def main() -> int:
    """Print the figures as JSON; return 1 if a request costs twice as much among the most as among the fewest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    given = parser.parse_args()
    found = {count: _measure(given.database, count) for count in given.counts}
    growth = _growth(found[min(found)], found[max(found)], times=max(found) / min(found))
    missed = [stage for stage, ratio in growth.items() if ratio > MAX_GROWTH]
    told = {"of_each_request_most_beside_fewest": growth, "targets_missed": missed, "database": given.database}
    print(json.dumps({"requests": found, **told, "circumstances": circumstances("sqlalchemy")}, indent=2))
    return 1 if missed else 0


def _growth(fewest: Stages, most: Stages, *, times: float) -> dict[str, float]:
    return {stage: round(most[stage]["seconds"] / fewest[stage]["seconds"] / times, 2) for stage in most}


def _measure(database: str, count: int) -> Stages:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(data_dir=folder, database_url=stack.enter_context(_database_url(database)))
        migrate.upgrade(settings.resolved_database_url)
        bench, parts = Bench.open(settings), create_app(settings).state.parts
        stack.callback(bench.database.dispose)
        stack.callback(parts.database.dispose)
        factories.dataset(bench, "d", train=2 * IDS * count, held_out=50)
        factories.model(bench, "m")
        factories.version(bench, "m")
        return _stages(bench, parts, count)


def _stages(bench: Bench, parts: Parts, count: int) -> Stages:
    stages: Stages = {}
    with _timed(bench, parts, stages, "intake"):
        _take_in(bench, parts, count)
    with _timed(bench, parts, stages, "claim"):
        claim = jobs.claim_next(bench.database, owner="benchmark", lease_seconds=3_600)
    if claim is None or _how_many(bench, Job) != 1:
        raise RuntimeError("the requests were to gather in one job")
    with _timed(bench, parts, stages, "publish"):
        _publish(bench, claim)
    with _timed(bench, parts, stages, "purge"):
        sweeper.sweep(bench, lambda _: None)
    with _timed(bench, parts, stages, "certificates"):
        while _how_many(bench, Certificate) < count:
            certifying.Issuer()(parts)
    completed = select(func.count(DeletionRequest.id)).where(DeletionRequest.status == "completed")
    with bench.database.reading() as session:
        size = session.scalar(select(func.avg(func.length(Certificate.bundle))))
        if session.scalar(completed) != count:
            raise RuntimeError("not every request is completed")
    stages["certificates"]["bytes_of_each"] = round(float(size or 0))
    return stages


@contextmanager
def _timed(bench: Bench, parts: Parts, stages: Stages, name: str) -> Iterator[None]:
    statements = 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    engines = (bench.database.engine, parts.database.engine)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", count)
    started = time.perf_counter()
    yield
    stages[name] = {"seconds": round(time.perf_counter() - started, 3), "statements": statements}
    for engine in engines:
        event.remove(engine, "before_cursor_execute", count)


def _take_in(bench: Bench, parts: Parts, count: int) -> None:
    for number in range(count):
        named = [f"train-{IDS * number + i}" for i in range(IDS)]
        with bench.database.writing() as session:
            intake.accept(session, factories.order("d", *named), parts.secrets)


def _publish(bench: Bench, claim: jobs.Claim) -> None:
    with bench.database.reading() as session:
        job = session.get_one(Job, claim.job_id)
        parent = versions.live(session, str(job.model_id))[-1]
        named = requests.sample_keys_of_job(session, job.id)
        figures = certificate_cases.figures([each.id for each in requests.of_job(session, job.id)])
        forgotten = [key for key, _ in versions.trained_on(session, parent, sorted(set().union(*named.values())))]
    path = bench.settings.data_dir / "weights"
    path.write_bytes(factories.safetensors(w=[1.0]))
    digest = bench.artifacts.put(path)
    prepared = Prepared(order={}, parent_id=parent.id, forget_keys=forgotten, excluded_keys=forgotten)
    with bench.database.writing() as session:
        jobs.hold_lease(session, claim).rung = "finetune"
        weights = digest, path.stat().st_size
        report = {**certificate_cases.report(method="finetune", per_request=figures), "seconds": SECONDS}
        publish.erased(session, claim, prepared, {"report": report}, weights, [], bench.suppression_key)


def _how_many(bench: Bench, table: Any) -> int:
    with bench.database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


if __name__ == "__main__":
    raise SystemExit(main())
