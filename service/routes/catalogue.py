"""/v1/methods and /v1/metrics: what can be asked for, what it needs, and what it does not prove."""

from dataclasses import fields
from typing import Any

from fastapi import APIRouter, Request

from service.catalogue.ladders import LADDERS_OF
from service.catalogue.methods import METHODS
from service.catalogue.metrics import METRICS
from service.catalogue.purposes import NO_MEANING
from service.deps import needs
from service.schemas.catalogue import LadderOut, MethodOut, MethodsOut, MetricOut

description = APIRouter(tags=["catalogue"])
router = APIRouter(prefix="/v1", tags=["catalogue"], dependencies=[needs("requests:read")])


@description.get("/openapi.json", include_in_schema=False, dependencies=[needs("requests:read")])
def openapi(request: Request) -> dict[str, Any]:
    """Return the OpenAPI description of every route."""
    found: dict[str, Any] = request.app.openapi()
    return found


@router.get("/methods", operation_id="list_methods")
def methods() -> MethodsOut:
    """Return every method, and the orders in which `auto` tries them where a policy names none of its own."""
    ladders = [
        LadderOut(
            task=task,
            purpose=purpose,
            scenario=scenario,
            methods=list(ladder.methods),
            options=ladder.options,
            because=ladder.because,
        )
        for task, by_purpose in LADDERS_OF.items()
        for purpose, by_scenario in by_purpose.items()
        if purpose not in NO_MEANING[task]
        for scenario, ladder in by_scenario.items()
    ]
    return MethodsOut(
        ladders=ladders,
        items=[
            MethodOut(
                id=spec.id,
                title=spec.title,
                paper=spec.paper,
                guarantee=spec.guarantee,
                fidelity=spec.fidelity,
                needs=sorted(spec.needs),
                uses=sorted(spec.uses),
                instead_of_retain=spec.instead_of_retain,
                needs_sharded_recipe=spec.needs_sharded_recipe,
                needs_class_condition=spec.needs_class_condition,
                for_purpose={purpose: dict(options) for purpose, options in spec.for_purpose.items()},
                for_task={task: dict(options) for task, options in spec.for_task.items()},
                purposes=sorted(spec.purposes),
                tasks=sorted(spec.tasks),
                not_for=dict(spec.not_for),
                summary=spec.summary,
                does_not_prove=spec.does_not_prove,
                parameters=spec.config.model_json_schema(),
            )
            for spec in METHODS.values()
        ],
    )


@router.get("/metrics", operation_id="list_metrics")
def metrics() -> dict[str, list[MetricOut]]:
    return {
        "items": [
            MetricOut(
                **{field.name: getattr(spec, field.name) for field in fields(spec)} | {"tasks": sorted(spec.tasks)}
            )
            for spec in METRICS.values()
        ]
    }
