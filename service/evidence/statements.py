"""The in-toto statements beside the certificate: SLSA provenance v1 and test-result v0.1. Pure.

Specifications: in-toto Attestation Framework v1 (Statement), SLSA v1.0 (Provenance), in-toto predicate test-result
v0.1. All three statements of a certificate have the same subjects: the files of the new versions, or, where no model
had been trained on the samples and there are none, the log entry that says that the request was completed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from service.evidence.facts import CertificateFacts, Json, ModelFacts, why_nothing_was_measured, written
from service.evidence.leaf import leaf_hash
from service.evidence.verify import PREDICATES, STATEMENT_TYPE

BUILD_TYPE = "urn:unlearning-service:erasure/v1"
BUILDER = "urn:unlearning-service:worker"
_TESTS = {"pass": "passedTests", "fail": "failedTests", "inconclusive": "warnedTests", "untestable": "warnedTests"}


def statement(part: str, facts: CertificateFacts, predicate: Mapping[str, Any]) -> Json:
    """Return the Statement v1 of one part: `certificate`, `provenance` or `test_result`."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects(facts),
        "predicateType": PREDICATES[part],
        "predicate": dict(predicate),
    }


def subjects(facts: CertificateFacts) -> list[Json]:
    """Return what the statements are about."""
    if facts.models:
        return [_resource(f"{each.model}/{each.version}", each.sha256) for each in facts.models]
    ended = facts.request.completed
    return [_resource(f"audit-entry/{ended.seq}", leaf_hash(ended.document()).hex())]


def provenance(facts: CertificateFacts) -> Json:
    """Return the SLSA predicate: what was asked, what ran with which parameters on which inputs, and where."""
    request = facts.request
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "request": request.id,
                "purpose": request.purpose,
                "method": request.method,
                "options": dict(request.options),
            },
            "internalParameters": {"jobs": [_run(each) for each in facts.models]},
            "resolvedDependencies": list(_inputs(facts)),
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"unlearning-service": facts.service_version}},
            "metadata": {
                "invocationId": request.id,
                "startedOn": written(request.started_at),
                "finishedOn": written(request.completed_at),
            },
            "byproducts": [_report(each) for each in facts.models],
        },
    }


def _run(model: ModelFacts) -> Json:
    report = model.report
    return {
        "job": model.job,
        "model": model.model,
        "method": report["method"],
        "parameters": dict(report["config"]),
        "seed": report["seed"],
        "environment": dict(report["environment"]),
    }


def _inputs(facts: CertificateFacts) -> Iterator[Json]:
    if facts.dataset.digest:
        yield _resource(f"dataset/{facts.dataset.name}", facts.dataset.digest)
    for model in facts.models:
        yield _resource(f"{model.model}/{model.parent_version}", model.parent_sha256)
        retrained = (model.report.get("inputs") or {}).get("retrained_sha256")
        if retrained:
            yield _resource(f"{model.model}/{model.version}/retrained", retrained)
        code = model.report["environment"].get("code_sha256")
        if code:
            yield _resource(f"code/{model.job}", code)


def test_result(facts: CertificateFacts) -> Json:
    """Return the test-result predicate: the gate's ruling on every bound. Nothing measured is a warning, not a pass."""
    found: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for model in facts.models:
        for name, verdict in _rulings(model):
            if verdict in _TESTS:
                found[_TESTS[verdict]].append(name)
    if (why := why_nothing_was_measured(facts)) is not None:
        found["warnedTests"].append(why)
    policies = [_resource(f"policy/{each.model}/{each.version}", each.policy_sha256) for each in facts.models]
    return {
        "result": _overall(facts, found),
        "configuration": [*policies, *(_report(each) for each in facts.models)],
        **found,
    }


def _rulings(model: ModelFacts) -> Iterator[tuple[str, str]]:
    """Yield each of the gate's rulings with its verdict; a bound that decides nothing is at most a warning."""
    gate, version = model.report["gate"], f"{model.model}/{model.version}"
    yield f"{version}: gate", {"not_evaluated": "inconclusive"}.get(gate["verdict"], gate["verdict"])
    for ruling in gate.get("bounds", []):
        split = f" ({ruling['split']})" if ruling.get("split") else ""
        verdict = "inconclusive" if ruling["verdict"] == "fail" and not ruling["required"] else ruling["verdict"]
        yield f"{version}: {ruling['metric']}{split}, {demand(ruling)}", verdict


def _overall(facts: CertificateFacts, found: Mapping[str, list[str]]) -> str:
    gates = {model.report["gate"]["verdict"] for model in facts.models}
    if "fail" in gates:
        return "FAILED"
    return "PASSED" if gates == {"pass"} and not found["warnedTests"] and not found["failedTests"] else "WARNED"


def demand(bound: Mapping[str, Any]) -> str:
    """Return what a bound demands, in words."""
    of = {"parent": " times the original's", "unseen": " times the unseen controls'"}.get(bound.get("of") or "", "")
    limits = []
    if bound.get("at_least") is not None:
        limits.append(f"at least {bound['at_least']}{of}")
    if bound.get("at_most") is not None:
        limits.append(f"at most {bound['at_most']}{of}")
    if bound.get("within") == "by_size":
        limits.append("near its ideal, within a band by the set's size")
    elif bound.get("within") is not None:
        limits.append(f"within {bound['within']} of its ideal")
    edge = "the figure itself" if bound.get("on") == "value" else "the interval's nearer edge"
    return f"{' and '.join(limits)}, by {edge}"


def _report(model: ModelFacts) -> Json:
    return _resource(f"evaluation/{model.evaluation}", model.report_sha256)


def _resource(name: str, sha256: str) -> Json:
    return {"name": name, "digest": {"sha256": sha256}}
