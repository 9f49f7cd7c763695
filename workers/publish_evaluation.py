"""Stores the report of an attempt, in the transaction that ends it."""

from typing import Any

from sqlalchemy.orm import Session

from service.catalogue.report_schema import REPORT_SCHEMA
from service.evidence import report_parts
from service.store import audit, evaluations, events, plots, requests
from service.store.tables import Dataset, Evaluation, Job, Model, Version
from service.store.types import new_id
from workers.order_parts import Prepared


def record_evaluation(
    session: Session, job: Job, prepared: Prepared, result: dict[str, Any], *, sha256: str | None = None
) -> Evaluation:
    """Store the report of an attempt, whatever its verdict, and add the attempt to the job's rungs."""
    evaluation_id, report = new_id("evl"), result["report"]
    gate = report["gate"]
    rung = {
        "method": job.rung,
        "verdict": gate["verdict"],
        "sentence": gate["sentence"],
        "evaluation_id": evaluation_id,
        "seconds": report["seconds"]["unlearning"] + report["seconds"]["evaluation"],
    }
    job.rungs = [*job.rungs, rung]
    whole = {
        "schema": REPORT_SCHEMA,
        **report,
        "rungs": job.rungs,
        "policy_digest": job.policy_digest,
        "inputs": _inputs(session, job, prepared, sha256),
    }
    cut = report_parts.cut(whole)
    row = evaluations.add(session, evaluation_id, job.id, cut)
    plots.save(session, row.id, result.get("plots", {}))
    job.evaluation_id = row.id
    model = session.get_one(Model, job.model_id)
    payload = {
        "job": job.id,
        "method": job.rung,
        "gate": gate["verdict"],
        "metrics": len(report.get("metrics", [])),
        "policy_digest": job.policy_digest,
        "report_sha256": cut.sha256,
    }
    linked = [request.id for request in requests.of_job(session, job.id)]
    links = {"job": job.id, "model": model.name, "request": linked}
    audit.record(session, "evaluation.recorded", subject=f"evaluation/{row.id}", payload=payload, links=links)
    told = {"job": job.id, "evaluation_id": row.id, "method": job.rung, "gate": gate["verdict"]}
    events.emit(session, "evaluation", told, job_id=job.id)
    return row


def _inputs(session: Session, job: Job, prepared: Prepared, sha256: str | None) -> dict[str, Any]:
    order = prepared.order or {}
    counts = {name: len(order.get(name, [])) for name in ("train", "selection", "audit", "test")}
    return {
        "dataset_digest": session.get_one(Dataset, job.dataset_id).digest,
        "parent_sha256": session.get_one(Version, prepared.parent_id).sha256,
        "weights_sha256": sha256,
        "retrained_sha256": order["retrained"]["sha256"] if "retrained" in order else None,
        "counts": {**counts, "forget": len(prepared.forget_keys)},
    }
