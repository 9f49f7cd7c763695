"""What decides over an erasure's method: the ladder of the policy it is held to, and what there is to work with."""

from typing import Any, cast

from sqlalchemy.orm import Session

from service.catalogue.ladders import ladder_of, scenario_of
from service.catalogue.methods import Purpose
from service.catalogue.policy import frozen, tests_membership
from service.catalogue.tasks import Task
from service.store import preparations, samples, task_fit
from service.store.tables import Job, Model, Version
from service.store.types import now
from workers.ladder import Situation


def of(
    session: Session, job: Job, parent: Version, *, forget_count: int, labels: tuple[set[int], set[int]]
) -> Situation:
    """Return the job's situation. ``labels``: of the forget set, and of what is left beside it."""
    model, policy = session.get_one(Model, job.model_id), held_to(session, job)
    # what was frozen before there was a choice had the data; data that has gone since is gone all the same
    has_retain = "gone" not in (policy.get("retain_data"), model.policy.get("retain_data"))
    ladder = ladder_of(policy, scenario_of(forgotten=labels[0], kept=labels[1], has_retain=has_retain))
    return Situation(
        requested=str(job.method),
        ladder=ladder.methods,
        options=ladder.options,
        purpose=str(job.purpose),
        task=Task(model.task),
        no_other_class=task_fit.why_no_other_class(session, model),
        small_sets=policy["small_sets"],
        # An approval whose candidate is out of date begins anew.
        tried=() if job.approved_by else tuple(x["method"] for x in job.rungs if not x.get("before_retry")),
        forget_count=forget_count,
        retraining_seconds=parent.training_seconds,
        retraining_budget_seconds=policy["retraining_budget_seconds"],
        seconds_left=(job.due_at - now()).total_seconds() if job.due_at else None,
        surest_within_seconds=policy["surest_within_hours"] * 3600,
        tests_membership=tests_membership(policy),
        has_recipe=model.recipe is not None,
        has_retain=has_retain,
        has_selection=samples.any_left_in(session, job.dataset_id, "selection"),
        prepared=preparations.names_of(session, parent.id),
        sharded=bool((model.recipe or {}).get("sisa")),
    )


def held_to(session: Session, job: Job) -> dict[str, Any]:
    """Return the policy that was frozen when the job was queued."""
    if job.policy is not None:
        return job.policy
    model = session.get_one(Model, job.model_id)
    return frozen(model.policy, cast("Purpose", job.purpose), Task(model.task))
