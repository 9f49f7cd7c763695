"""Which problem codes each operation answers with, by status; the OpenAPI document is written from this table.

What every operation of a kind can answer stands once, by what it takes: a key, a body, a parameter of its path.
"""

from collections.abc import Iterable, Mapping

from service.lifecycle import JobStatus, RequestStatus, VersionState

Codes = Mapping[int, tuple[str, ...]]

EVERY: Codes = {
    400: ("bad_request",),
    500: ("internal_error",),
    503: ("unavailable", "database_unavailable", "storage_unavailable", "restore_replay_pending"),
    507: ("storage_full",),
}
WITH_A_KEY: Codes = {401: ("unauthenticated",), 403: ("forbidden",), 429: ("rate_limited",)}
WITH_A_BODY: Codes = {
    400: ("malformed_json",), 408: ("body_too_slow",), 413: ("body_too_large",), 422: ("invalid_request",),
}  # fmt: skip
WITH_A_PARAMETER: Codes = {422: ("invalid_request",)}
WITH_A_CURSOR: Codes = {422: ("invalid_cursor",)}
# A value with a slash in it names another route, or none.
IN_THE_PATH: Codes = {404: ("not_found",)}
BY_PATH: Mapping[str, Codes] = {
    "/v1/datasets/{name}": {404: ("dataset_not_found",)},
    "/v1/models/{name}": {404: ("model_not_found",)},
    "/versions/{number}": {404: ("version_not_found",)},
    "{request_id}": {404: ("deletion_request_not_found",)},
    "{job_id}": {404: ("job_not_found",)},
    "{evaluation_id}": {404: ("evaluation_not_found",)},
    "{webhook_id}": {404: ("webhook_not_found",)},
    "{delivery_id}": {404: ("delivery_not_found",)},
    "{key_id}": {404: ("key_not_found",)},
    "{withdrawal_id}": {404: ("withdrawal_not_found",)},
}


def _in(what: str, states: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{what}_is_{state}" for state in states)


_REQUEST_STATES = _in("deletion_request", RequestStatus)
_JOB_STATES = _in("job", JobStatus)
_VERSION_STATES = _in("model_version", VersionState)
_SIGNING = ("signing_key_unusable", "log_origin_changed", "log_damaged")
_NOT_SERVED: Codes = {
    403: ("version_quarantined",),
    404: ("artifact_missing",),
    409: ("version_validating", "version_rejected"),
    410: ("version_retired", "version_lost"),
    416: ("range_not_satisfiable",),
    422: ("artifact_corrupt",),
}
_INTAKE: Codes = {
    403: ("quota_exceeded",),
    404: ("dataset_not_found",),
    409: ("dataset_not_ready", "retain_data_gone", "conflict"),
    422: ("unresolved_sample_ids", "idempotency_key_reused"),
    429: ("quota_exceeded",),
}
_NO_CERTIFICATE: Codes = {409: ("no_certificate", "certificate_not_ready")}
_ID_CHECKS: Codes = {429: ("id_check_quota_exceeded",)}

OF: Mapping[str, Codes] = {
    "register_dataset": {409: ("already_exists",), 422: ("path_not_allowed", "path_not_found")},
    "reindex_dataset": {409: ("dataset_not_ready", "conflict")},
    "list_samples": {409: ("dataset_not_ready",)},
    "check_suppressions": _ID_CHECKS,
    "register_model": {404: ("dataset_not_found",), 409: ("already_exists", "dataset_not_ready")},
    "prepare_audit": {409: ("model_has_no_recipe", "no_references_for_task", "retain_data_gone", "dataset_not_ready")},
    "create_version": {
        409: ("no_recipe", "retain_data_gone", "digest_retired", "dataset_not_ready"),
        415: ("unsupported_media_type",),
        422: ("not_safetensors", "truncated", "digest_mismatch", "invalid_digest", "average_missing"),
        503: ("artifact_store_wrong",),
    },
    "prepare_version": {409: ("version_not_active", "requests_open", "retain_data_gone", *_VERSION_STATES)},
    "download_weights": {**_NOT_SERVED, 503: ("artifact_store_unavailable",)},
    "head_weights": _NOT_SERVED,
    "list_deletion_requests": {404: ("dataset_not_found",)},
    "create_deletion_request": _INTAKE,
    "preview_deletion_request": _INTAKE,
    "cancel_deletion_request": {409: ("work_has_started", *_REQUEST_STATES, *_JOB_STATES)},
    "approve_deletion_request": {
        403: ("requester_may_not_approve",),
        409: ("approval_not_needed", *_REQUEST_STATES, *_JOB_STATES),
    },
    "extend_deletion_request": {
        409: ("no_due_date", "due_date_passed", "extension_beyond_three_months", *_REQUEST_STATES),
    },
    "deny_deletion_request": {409: ("work_cannot_be_undone", *_REQUEST_STATES, *_JOB_STATES)},
    "hold_deletion_request": {409: ("already_on_hold", *_REQUEST_STATES, *_JOB_STATES)},
    "release_deletion_request": {409: ("not_on_hold_by_a_person", *_REQUEST_STATES, *_JOB_STATES)},
    "follow_deletion_request": {503: ("too_many_streams",)},
    "create_receipts": {
        **_ID_CHECKS,
        410: ("request_key_shredded", "commitments_not_kept"),
        503: ("request_key_unreadable",),
    },
    "check_receipt": {
        422: (
            "receipt_altered", "receipt_of_another_request", "receipt_of_another_root", "commitment_not_opened",
            "not_in_the_root", "not_a_receipt",
        ),
    },
    "approve_job": {403: ("requester_may_not_approve",), 409: ("nothing_to_approve", *_JOB_STATES)},
    "retry_job": {409: ("version_rejected", *_JOB_STATES)},
    "get_evaluation": {404: ("deletion_request_not_found",), 409: ("report_not_in_parts",)},
    "get_evaluation_plot": {404: ("plot_not_found",)},
    "rotate_api_key": {409: ("key_revoked", "key_expired")},
    "create_webhook": {409: ("too_many_webhooks",)},
    "test_webhook": {409: ("webhook_disabled",)},
    "replay_webhook_delivery": {409: ("webhook_disabled",)},
    "replay_webhook": {409: ("webhook_disabled",)},
    "get_certificate": _NO_CERTIFICATE,
    "get_certificate_page": _NO_CERTIFICATE,
    "get_audit_checkpoint": {503: _SIGNING},
    "get_audit_entry_bundle": {404: ("tile_not_found",), 422: ("invalid_tile_path",)},
    "get_audit_tile": {404: ("tile_not_found",), 422: ("invalid_tile_path",)},
    "get_audit_entry_proof": {404: ("beyond_checkpoint", "checkpoint_not_found"), 503: _SIGNING},
    "get_audit_consistency": {
        404: ("beyond_checkpoint", "no_such_proof", "checkpoint_not_found"), 503: _SIGNING,
    },
}  # fmt: skip


def of_operation(
    operation_id: str, path: str, *, key: bool, body: bool, parameters: frozenset[str] | set[str]
) -> dict[int, list[str]]:
    """Return the codes by status of an operation that takes these."""
    kinds = [EVERY, OF.get(operation_id, {})]
    kinds += [WITH_A_KEY] if key else []
    kinds += [WITH_A_BODY] if body else []
    kinds += [WITH_A_PARAMETER] if parameters else []
    kinds += [WITH_A_CURSOR] if parameters & {"cursor", "after"} else []
    kinds += [IN_THE_PATH] if "{" in path else []
    kinds += [codes for part, codes in BY_PATH.items() if part in path]
    found: dict[int, list[str]] = {}
    for codes in kinds:
        for status, names in codes.items():
            found.setdefault(status, []).extend(name for name in names if name not in found.get(status, ()))
    return found
