"""Asking, deciding and looking what came of it."""

import json
from typing import Any

import httpx
from sqlalchemy import select, update

from service.store import (
    audit,
    jobs,
)
from service.store.jobs import Claim
from service.store.tables import DeletionRequest, Job, Sample
from tests.stack import Stack

URL = "/v1/deletion-requests"


NOTE = "The person's counsel asked us to wait."


def ask(served: Stack, name: str, *named: str, **body: Any) -> Any:
    ids = [f"{name}-{sample}" for sample in named or ["train-0"]]
    answer = served.client.post(URL, json={"dataset": name, "sample_ids": ids, "method": "finetune", **body})
    return answer.raise_for_status().json()


def decide(served: Stack, request: Any, what: str, **body: Any) -> httpx.Response:
    return served.client.post(f"{URL}/{request['id']}/{what}", json=body or None)


def read(served: Stack, request: Any) -> Any:
    return served.client.get(f"{URL}/{request['id']}").raise_for_status().json()


def refused(answer: httpx.Response, status: int, code: str) -> Any:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def faults_of(answer: httpx.Response) -> set[tuple[str, str]]:
    return {(fault["pointer"], fault["code"]) for fault in refused(answer, 422, "invalid_request")["errors"]}


def claim_next(served: Stack) -> Claim | None:
    return jobs.claim_next(served.database, owner="w", lease_seconds=60)


def change(served: Stack, request: Any, **values: Any) -> None:
    with served.database.writing() as session:
        session.execute(update(DeletionRequest).where(DeletionRequest.id == request["id"]).values(**values))


def log_of(served: Stack, request: Any, action: str) -> list[Any]:
    with served.database.reading() as session:
        found = audit.find(session, links={"request": request["id"]}, actions=[action], limit=100)
    return [json.loads(entry.payload) for entry in found]


def read_job(served: Stack, job_id: str) -> Job:
    with served.database.reading() as session:
        return session.get_one(Job, job_id)


def sample_state(served: Stack, sample_id: str) -> str | None:
    with served.database.reading() as session:
        return session.scalar(select(Sample.state).where(Sample.sample_id == sample_id))
