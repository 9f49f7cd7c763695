"""Why a deletion request is on hold: any number of causes at once, each put on and lifted by itself.

``request.error`` is the first cause, with all of them under ``causes``. Only when the last is lifted does the request
go on: who lifts one says nothing of the others.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from service.errors import Fault
from service.lifecycle import JOB_STUCK, RequestStatus
from service.store import requests
from service.store.requests import APPROVAL_NEEDED, CANNOT_BE_WORKED_ON, cause, causes
from service.store.tables import DeletionRequest

_APPROVE = (
    "The request names more of these models' training samples than may be erased without a second person. Somebody has "
    "to approve it, by POST …/approve; until then no model is worked on. Its due date stands. It can be cancelled."
)
_WHAT_TO_DO = (
    "These models cannot be worked on the way the request asks. Send a new request for the same samples with a method "
    "they can take, or delete the model; this request goes on once none of their versions knows the samples. "
    "As long as no work has started it can be cancelled."
)


def hold(session: Session, request: DeletionRequest, code: str, detail: str, **facts: Any) -> None:
    """Put the request on hold for a cause, in place of an earlier one of the same code."""
    others = [each for each in causes(request) if each["code"] != code]
    _write(request, [*others, {"code": code, "detail": detail, **facts}])
    if request.status not in (RequestStatus.FAILED, RequestStatus.ON_HOLD):
        requests.move(session, request, RequestStatus.ON_HOLD, reason=code)


def lift(session: Session, request: DeletionRequest, code: str) -> bool:
    """Lift one cause; say whether nothing holds the request any more, which is then on its way again."""
    left = [each for each in causes(request) if each["code"] != code]
    _write(request, left)
    stuck = any(job.status in JOB_STUCK for job, _ in requests.jobs(session, [request.id])[request.id])
    if left or stuck or request.status != RequestStatus.ON_HOLD:
        return False
    requests.move(session, request, RequestStatus.IN_PROGRESS if request.started_at else RequestStatus.ACCEPTED)
    return True


def _write(request: DeletionRequest, found: list[dict[str, Any]]) -> None:
    request.error = {**found[0], "causes": found} if found else None


def await_approval(session: Session, request: DeletionRequest, reasons: dict[str, list[str]]) -> None:
    """Put the request on hold until somebody approves it. ``reasons`` by model."""
    models = (cause(request, APPROVAL_NEEDED) or {}).get("models", {})
    hold(session, request, APPROVAL_NEEDED, _APPROVE, models={**models, **reasons})


def cannot_be_worked_on(session: Session, request: DeletionRequest, model: str, faults: Sequence[Fault]) -> None:
    """Put the request on hold: what it asks for cannot be done to a version that has come into being."""
    models = (cause(request, CANNOT_BE_WORKED_ON) or {}).get("models", {})
    reasons = [fault.detail or fault.code for fault in faults]
    hold(session, request, CANNOT_BE_WORKED_ON, _WHAT_TO_DO, models={**models, model: reasons})


def can_be_worked_on(session: Session, request: DeletionRequest, model: str) -> bool:
    """Lift the hold on the model's account, and the request's if there is no other; say whether there was one."""
    models = dict((cause(request, CANNOT_BE_WORKED_ON) or {}).get("models", {}))
    if models.pop(model, None) is None:
        return False
    if models:
        hold(session, request, CANNOT_BE_WORKED_ON, _WHAT_TO_DO, models=models)
    else:
        lift(session, request, CANNOT_BE_WORKED_ON)
    return True
