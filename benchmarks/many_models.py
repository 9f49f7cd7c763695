"""A hundred models with a deletion request each, over two workers: how long it takes, and whether order is kept.

PostgreSQL, Valkey, the API and the workers are real; the networks are tiny and so is their dataset, so that the queue
is what is measured. Every request names one model and was received at another moment, in an order drawn at random.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from benchmarks.circumstances import circumstances
from benchmarks.load_stack import Served, serve, until
from service.store.tables import Attempt, Job

MODELS, WORKERS, SAMPLES = 100, 2, 400


def main() -> int:
    """Print the figures as JSON; return 1 if a job was claimed before one more urgent than the other worker's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=MODELS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = serve(Path(folder), workers=given.workers, num_models=given.models, num_samples=SAMPLES)
        with stack as served:
            figures = _measure(served, given.models)
    # Workers claim at the same time: each may be ahead of those that the others are just taking.
    missed = [] if figures["furthest_out_of_turn"] < given.workers else ["earliest due first"]
    told = {"models": given.models, "workers": given.workers, "targets_missed": missed}
    print(json.dumps({**figures, **told, "circumstances": circumstances("celery", "torch")}, indent=2))
    return 1 if missed else 0


def _measure(served: Served, count: int) -> dict[str, Any]:
    ages = list(range(count))
    random.Random(0).shuffle(ages)
    newest = datetime.now(UTC) - timedelta(hours=1)
    # Nobody works until all are asked: the workers would take what there is.
    started = time.monotonic()
    asked = [_ask(served, number, newest - timedelta(hours=3 * age)) for number, age in enumerate(ages)]
    taken_in = time.monotonic() - started
    served.go_on()
    started = time.monotonic()
    path = "/v1/deletion-requests/"
    for request_id in asked:
        until(lambda each=request_id: served.client.get(path + each).json()["status"] == "completed", 600)  # type: ignore[misc]
    took = time.monotonic() - started
    with served.database.reading() as session:
        jobs = select(Job.id, Job.due_at, Attempt.owner).join(Attempt, Attempt.job_id == Job.id)
        erasures = jobs.where(Job.kind == "erase", Job.due_at.is_not(None), Attempt.started_at >= newest)
        rows = session.execute(erasures.order_by(Attempt.started_at)).all()[-count:]
    turns = {row.id: turn for turn, row in enumerate(sorted(rows, key=lambda row: (row.due_at, row.id)))}
    return {
        "seconds": round(took, 1),
        "jobs_per_minute": round(60 * count / took, 1),
        "seconds_to_take_in": round(taken_in, 1),
        "jobs_by_worker": sorted(Counter(row.owner for row in rows).values()),
        "furthest_out_of_turn": max(abs(turns[row.id] - turn) for turn, row in enumerate(rows)),
    }


def _ask(served: Served, number: int, received_at: datetime) -> str:
    body = {
        "dataset": "data",
        "sample_ids": [f"train/{number + 1}"],
        "method": "finetune",
        "models": [f"m{number}"],
        "received_at": received_at.isoformat(),
    }
    found: str = served.client.post("/v1/deletion-requests", json=body).raise_for_status().json()["id"]
    return found


if __name__ == "__main__":
    raise SystemExit(main())
