"""The report of an evaluation as a JSON Schema. The worker makes reports; the API serves them as they are stored.

The schema is open: a field that it does not name may be added under the same version.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.catalogue.report_schema import REPORT_SCHEMA
from service.catalogue.tasks import Task
from service.schemas.report_figures import (
    ClassifierOut,
    ControlsOut,
    GateOut,
    GenerationCurvesOut,
    MetricOut,
    PartsOut,
    PlantedLeakOut,
    RequestFigureOut,
    SamplingOut,
)
from service.schemas.report_reexecution import SHA256, ReexecutionOut

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class SecondsOut(BaseModel):
    """Wall time, in seconds."""

    unlearning: float = Field(ge=0)
    evaluation: float = Field(ge=0)
    training: float | None = Field(description="Of the original, where the service trained it.")
    share_of_training: float | None = Field(description="unlearning / training.")
    reexecution: float | None = Field(None, description="Of doing the unlearning a second time; null: it was not.")


class ResumedOut(BaseModel):
    """How often the training went on from a checkpoint, in another process."""

    times: int = Field(ge=0)
    from_epochs: list[int] = Field(description="How many epochs were done each time.")


class EnvironmentOut(BaseModel):
    """What a repetition would need to match."""

    python: str
    platform: str
    torch: str
    torchvision: str
    device: str
    device_name: str
    cuda: str | None
    threads: int
    cpu_count: int | None
    deterministic: bool
    code_sha256: str | None = Field(
        None, pattern=SHA256, description="Of the source files of the workers and the catalogue."
    )


class InputsOut(BaseModel):
    """What went in and what came out, by digest."""

    dataset_digest: str | None = Field(None, pattern=SHA256, description="Of ids, images and labels as indexed.")
    parent_sha256: str | None = Field(None, pattern=SHA256, description="Of the weights the work started from.")
    weights_sha256: str | None = Field(None, pattern=SHA256, description="Of the weights that were evaluated.")
    retrained_sha256: str | None = Field(
        None, pattern=SHA256, description="Of the weights of the retrained version, where there was one."
    )
    counts: dict[str, int] = Field({}, description="Samples by set.")


class AccumulationOut(BaseModel):
    """Batches that did not fit into memory were split, and the gradients of their parts added up.

    Networks with batch norm took its statistics from each part, so that their weights differ from those of whole
    batches by more than rounding.
    """

    micro_batch_size: int | None = Field(description="Most samples in one pass with gradients; null: whole batches.")
    halvings: int = Field(ge=0, description="How often that was halved.")
    evaluation_batch_size: int | None = Field(description="Most samples in one pass without; null: as planned.")
    evaluation_halvings: int = Field(ge=0, description="How often that was halved.")


class RungOut(BaseModel):
    """One method tried for this job, this one included; a bar that several may try at is easier to pass."""

    method: str
    verdict: str = Field(description="The gate's, or how the attempt ended without one.")
    evaluation_id: str | None = None
    seconds: float | None = None


class EarlierForgetSetOut(BaseModel):
    """A forget set of an earlier version, attacked again on this one."""

    evaluation_id: str | None = Field(None, description="Of the evaluation when it was forgotten.")
    num_samples: int = Field(ge=0)
    state: Literal["audited", "data_gone"] = Field(description="data_gone: its audit retention is over.")
    metrics: list[MetricOut] = []


class ReportOut(BaseModel):
    """What was done, what was measured, with which intervals and against what."""

    schema_: str = Field(REPORT_SCHEMA, alias="schema", json_schema_extra={"const": REPORT_SCHEMA})
    task: Task | None = Field(None, description="What the model is for; null: a report from before it was said.")
    method: str = Field(description="Id of the unlearning method; GET /v1/methods describes it.")
    guarantee: Literal["exact", "approximate"]
    fidelity: str = Field(description="How the implementation relates to its paper.")
    method_does_not_prove: str
    config: dict[str, Any] = Field(description="The method's configuration, defaults written out.")
    seed: int
    history: list[dict[str, Any]] = Field(description="One entry per epoch, as the method records it.")
    selection: dict[str, Any] = Field(description="Which epoch was taken, and by which rule.")
    guard: str = Field(description="completed, or the guard that ended the run early.")
    metrics: list[MetricOut] = Field(description="Of the unlearned model.")
    parent_metrics: list[MetricOut] = Field(description="The same measurements of the parent.")
    retrained_metrics: list[MetricOut] | None = Field(
        None,
        description="The same measurements of a version trained on exactly the retain set, with which `metrics` then "
        "compare. Null: none was in circulation, or the method is a retraining itself.",
    )
    per_request: list[RequestFigureOut] = Field(description="Only where several requests share the work.")
    parts: PartsOut | None = Field(None, description="Only where several requests share the work.")
    curves: GenerationCurvesOut
    planted_leak: PlantedLeakOut
    controls: ControlsOut
    does_not_prove: list[str] = Field(description="Limits of everything above, one sentence each.")
    durations: dict[str, float] = Field(description="Seconds by phase of the evaluation.")
    gate: GateOut
    environment: EnvironmentOut
    seconds: SecondsOut
    inputs: InputsOut | None = None
    policy_digest: str | None = Field(
        None, pattern=SHA256, description="Of the policy as frozen at acceptance; the audit log has had it since."
    )
    rungs: list[RungOut] = Field([], description="Every method tried for the job so far, in order.")
    earlier_forget_sets: list[EarlierForgetSetOut] = []
    ranks: list[float | None] | None = Field(
        None,
        description="Sorted share of controls that look at least as trained-on, for each forgotten sample; only where "
        "they are too few to test together.",
    )
    resumed: ResumedOut | None = Field(None, description="Null: a report from before trainings could go on.")
    reexecution: ReexecutionOut | None = Field(
        None, description="Null: this attempt came to nothing that could be published."
    )
    accumulation: AccumulationOut | None = Field(
        None, description="How batches were split because memory ran out; null: every batch fitted."
    )
    classifier: ClassifierOut | None = Field(None, description="Of a generation model, where it could be trained.")
    sampling: SamplingOut | None = Field(None, description="Of a generation model.")
    references: int | None = Field(None, description="How many reference models the attacks compared with.")


class EvaluationOut(ReportOut):
    """A report as it is served: with its place, and where its plots are."""

    id: str
    job_id: str
    created_at: datetime
    plots: dict[str, str] = Field(description="Path of each plot (SVG) by its name; empty when none was drawn.")


def evaluation_schema() -> dict[str, Any]:
    """Return the JSON Schema of an evaluation as it is served."""
    return {"$schema": DIALECT, "$id": REPORT_SCHEMA, **EvaluationOut.model_json_schema()}
