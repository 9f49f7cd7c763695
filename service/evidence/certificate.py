"""The predicate `unlearning-certificate/v1`: what was asked, done, measured and left, and what that does not prove.

An approximate method is never said to guarantee anything. `service.evidence.verify.PREDICATE_SCHEMA` is its schema.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.catalogue.methods.spec import APPROXIMATE
from service.evidence.facts import (
    CertificateFacts,
    DatasetFacts,
    Json,
    ModelFacts,
    Residual,
    SharedReport,
    why_nothing_was_measured,
    written,
)
from service.evidence.statements import demand
from service.evidence.verify import PARTS_SCHEME, canonical, sha256

REGULATION, ARTICLE = "Regulation (EU) 2016/679 (GDPR)", "17"
_EXACT = "The result is what training without the samples gives: they did not take part in any step that made it."
_PURPOSES = {
    "privacy": "Erasure of personal data: the samples are erased from the index, and every version that knew them is "
    "withdrawn.",
    "bias": "Removal of a learned bias, not an erasure: the samples stay in the dataset, and later training may read "
    "them.",
    "confusion": "Undoing of mislabelled data, not an erasure: the samples stay in the dataset, and later training may "
    "read them.",
}
_PARTIAL = (
    "The request was narrowed to some models. It says nothing of the others, which may know the samples, and the "
    "samples are not erased from the index."
)
GENERAL_LIMITS = (
    "Weights alone cannot prove a deletion. This shows which named algorithm the operator says ran on which committed "
    "inputs, and what named tests measured; it does not prove that the operator ran nothing else.",
    "Copies of a version, or of its outputs, that were made before its withdrawal are not covered; recipients can be "
    "told, not made to delete.",
    "The source that the dataset was read from is not edited by this service; whoever keeps it must erase there.",
    "Backups, snapshots and replicas of the database and of the artifact store, and blocks that a disk keeps after "
    "deletion, are outside of what was checked.",
    "Times are the operator's clock, and the date of receipt is the controller's word.",
    "One checkpoint does not show that everyone is shown the same log; compare it with checkpoints that others hold.",
)
_NO_LEDGER = "No ledger was kept yet of what held the samples when this request was worked on."
_SAYS_RECIPIENTS = "Downloads through this service of versions that held the samples, and notices of their withdrawal."


def predicate(facts: CertificateFacts, evidence: Mapping[str, str]) -> Json:
    """Return the predicate. ``evidence``: digests of the bundle's other parts."""
    counted = facts.recipients
    return {
        "id": facts.id,
        "issued_at": written(facts.issued_at),
        "request": _request(facts),
        "forget_set": {
            "num_samples": facts.request.num_samples,
            "commitment_root": facts.request.commitment_root,
            "not_found": facts.request.not_found,
            "already_erased": facts.request.already_erased,
            "outcomes": dict(facts.request.outcomes),
        },
        "dataset": _dataset(facts.dataset),
        "models": [_model(each, facts.service_version) for each in facts.models],
        "residuals": [_residual(each) for each in facts.residuals],
        "recipients": {
            "downloads": counted.downloads,
            "recipients": counted.recipients,
            "notices": counted.notices,
            "acknowledged": counted.acknowledged,
            "says": _SAYS_RECIPIENTS,
        },
        "evidence": dict(evidence),
        "does_not_prove": limits(facts),
    }


def limits(facts: CertificateFacts) -> list[str]:
    """Return what the certificate does not prove, the narrowest limits first, each once."""
    found: list[str] = []
    if facts.request.scope == "partial":
        found.append(_PARTIAL)
    if facts.request.purpose != "privacy":
        found.append(_PURPOSES[facts.request.purpose])
    if (why := why_nothing_was_measured(facts)) is not None:
        found.append(why)
    if facts.models and not facts.residuals:
        found.append(_NO_LEDGER)
    for model in facts.models:
        if model.approved_by:
            found.append(f"The gate did not pass {model.model}/{model.version}; {model.approved_by} approved it.")
        found.append(str(model.report["method_does_not_prove"]))
        found += model.report["does_not_prove"]
    return list(dict.fromkeys([*found, *GENERAL_LIMITS]))


def _request(facts: CertificateFacts) -> Json:
    request, why = facts.request, why_nothing_was_measured(facts)
    purpose, partial = _PURPOSES[request.purpose], None
    if request.scope == "partial":
        partial = _PARTIAL
        purpose = "Erasure of personal data." if request.purpose == "privacy" else purpose
    privacy = request.purpose == "privacy"
    return {
        "id": request.id,
        "purpose": request.purpose,
        "scope": request.scope,
        "models_named": request.models,
        "received_at": written(request.received_at),
        "due_at": written(request.due_at),
        "completed_at": written(request.completed_at),
        "overdue": request.due_at is not None and request.completed_at > request.due_at,
        "regulation": REGULATION if privacy else None,
        "article": ARTICLE if privacy else None,
        "says": " ".join(text for text in (purpose, partial, why) if text),
    }


def _dataset(dataset: DatasetFacts) -> Json:
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "root_before": dataset.root_before,
        "root_after": dataset.root_after,
        "samples_before": dataset.samples_before,
        "samples_after": dataset.samples_after,
    }


def _model(model: ModelFacts, service_version: str) -> Json:
    report = model.report
    inputs, gate = report.get("inputs") or {}, report["gate"]
    exact = report["guarantee"] == "exact"
    return {
        "model": model.model,
        # reports of before models had tasks name none
        **({"task": report["task"]} if report.get("task") else {}),
        "job": model.job,
        "result": {"version": model.version, "sha256": model.sha256, "log_index": model.published_entry},
        "parent": {"version": model.parent_version, "sha256": model.parent_sha256},
        "references": {
            "retrained_sha256": inputs.get("retrained_sha256"),
            "reference_models": report.get("references"),
        },
        "method": {
            "id": report["method"],
            "version": service_version,
            "kind": "exact" if exact else "approximate",
            "guarantee": "exact" if exact else "none",
            "means": _EXACT if exact else APPROXIMATE,
            "fidelity": report["fidelity"],
            "parameters_sha256": sha256(canonical(dict(report["config"]))),
            "deterministic": report["environment"].get("deterministic"),
        },
        "criteria": {"policy_sha256": model.policy_sha256, "log_index": model.criteria_entry},
        "verification": {
            "evaluation": model.evaluation,
            "report_sha256": model.report_sha256,
            "log_index": model.evaluation_entry,
            "gate": gate["verdict"],
            "sentence": gate["sentence"],
            "approved_by": model.approved_by,
            "results": [_result(each, gate.get("bounds", [])) for each in report["metrics"]],
            **_own(model.shared),
        },
        "reexecution": report.get("reexecution"),
    }


def _own(shared: SharedReport | None) -> Json:
    """Return what was measured on the request's own samples, with the proof, where others share the report."""
    if shared is None:
        return {}
    digest = {"common_sha256": shared.common_sha256, "requests": shared.requests, "root": shared.root}
    return {"parts": {"scheme": PARTS_SCHEME, **digest, "own": dict(shared.own)}}


def _result(metric: Mapping[str, Any], bounds: Sequence[Mapping[str, Any]]) -> Json:
    mine = [b for b in bounds if b["metric"] == metric["name"] and b.get("split") in (None, metric.get("split"))]
    return {
        "metric": metric["name"],
        "split": metric.get("split"),
        "value": metric["value"],
        "ci95": metric.get("ci95"),
        "n": metric["n"],
        "basis": metric["basis"],
        "direction": metric["direction"],
        "ideal": metric["ideal"],
        "measured": metric["verdict"],
        "bounds": [_bound(each) for each in mine],
    }


def _bound(bound: Mapping[str, Any]) -> Json:
    return {
        "demand": demand(bound),
        "limit": bound["limit"],
        "margin": bound["margin"],
        "required": bound["required"],
        "verdict": bound["verdict"],
        "sentence": bound["sentence"],
    }


def _residual(residual: Residual) -> Json:
    return {
        "kind": residual.kind,
        "name": residual.name,
        "sha256": residual.sha256,
        "state": residual.state,
        "done": residual.done,
        "at": written(residual.at),
        "log_index": residual.entry,
    }
