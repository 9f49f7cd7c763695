"""The parts of a report that hold figures: metrics, curves, the gate's rulings. Described here, made by the worker."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.catalogue.bounds import Bound
from service.catalogue.metrics import Basis, Direction

Interval = tuple[float, float]
Split = Literal["retain", "forget", "unseen", "test"]


class MetricOut(BaseModel):
    """One measured figure."""

    name: str = Field(description="Id of the metric; GET /v1/metrics gives formula, source and what it does not prove.")
    split: Split | None = Field(None, description="For metrics that have one. unseen: the controls drawn for the set.")
    value: float | None = Field(description="Null when there is no figure.")
    ci95: Interval | None = Field(None, description="95 % interval; absent where there is none.")
    n: int = Field(ge=0, description="Samples it was measured on; a side, where two sets are compared.")
    direction: Direction = Field(description="target: the nearer to `ideal`, from either side, the better.")
    ideal: float | None = Field(description="Where the figure is best; null where more has no end.")
    basis: Basis = Field(description="What it was compared with.")
    threshold: float | None = Field(None, description="The limit within the measurement itself, such as a loss.")
    verdict: Literal["measured", "inconclusive", "not_applicable", "lower_bound", "upper_bound"] = Field(
        description="Whether the figure means what it should. Whether it is good enough is the gate's business."
    )
    censored: bool | None = Field(None, description="True: a cap was reached, and `value` is a bound.")
    seconds: float = Field(ge=0, description="Of the computation that yielded it, shared by all figures of a family.")
    extra: dict[str, Any] | None = Field(None, description="What belongs to this metric alone.")


class RequestFigureOut(BaseModel):
    """The membership attack on one request's samples alone: a pooled figure can hide one."""

    request: str
    n: int = Field(ge=0)
    auc: float | None = Field(alias="mia_threshold.phi.auc", description="Null of a generation model.")
    loss_auc: float | None = Field(None, alias="mia_threshold.loss.auc", description="Of a generation model alone.")
    ci95: Interval | None
    salt: str | None = Field(None, description="Random: the figure's hash tells nothing to whom it is not shown.")


class ShownFigureOut(BaseModel):
    """Where the one figure shown stands in the tree over all requests' figures."""

    index: int = Field(ge=0)
    proof: list[str] = Field(description="The path to the root (RFC 6962), nearest the figure first, in hex.")


class PartsOut(BaseModel):
    """How the digest in the log is made of the report's common part and the figures of the requests that share it."""

    scheme: str
    requests: int = Field(ge=0, description="How many requests share the report.")
    root: str = Field(description="Of the tree over their figures (RFC 6962), in hex.")
    shown: ShownFigureOut | None = Field(None, description="Only where the figure of one request alone is shown.")


class LeakOut(BaseModel):
    """One measurement on the parent, which did see the samples."""

    name: str
    value: float | None
    ci95: Interval | None
    n: int = Field(ge=0)
    noticed: bool = Field(description="False: it would not have noticed a leak, so a good figure later shows little.")


class PlantedLeakOut(LeakOut):
    """The power check: do the membership attack and relearning tell members where there certainly are some?"""

    relearning: LeakOut


class ControlsOut(BaseModel):
    """How many unseen controls there were for the forget set."""

    forget: int = Field(ge=0)
    audit: int = Field(ge=0, description="Samples in the audit pool, from which controls are drawn.")
    matched: int = Field(ge=0, description="Pairs of equal label the attacks compare.")
    relearning: int = Field(ge=0, description="Samples a side that relearning used.")
    attack: int = Field(
        ge=0,
        description="Controls of the threshold attack and of those with reference models: the "
        "pairs' and, as far as the audit pool has them, further ones in whole rounds of the same labels.",
    )
    unmatched_per_class: dict[str, int] = Field(description="Forget samples left out for want of a control.")


class CurveOut(BaseModel):
    """One relearning run, thinned; steps whose loss was not finite are left out."""

    step: list[float]
    loss: list[float] = Field(description="Mean loss on the set before the step, nats.")
    accuracy: list[float] = Field(description="Empty of a generation model.")


class ModelCurvesOut(BaseModel):
    """One model's runs, one per seed on either set."""

    forget: list[CurveOut]
    unseen: list[CurveOut]


class CurvesOut(BaseModel):
    """Relearning. An empty object when there was no control to relearn beside."""

    target_loss: float | None = Field(None, description="Nats; both sets chase it.")
    target_accuracy: float | None = None
    rate: float | None = Field(None, description="Constant learning rate.")
    rate_calibrated: bool | None = Field(None, description="False: no rate reached the target within half the cap.")
    max_steps: int | None = Field(None, description="The cap.")
    parent: ModelCurvesOut | None = None
    unlearned: ModelCurvesOut | None = None
    retrained: ModelCurvesOut | None = None


class GenerationCurvesOut(CurvesOut):
    """The same, with the curves of the second optimiser beside."""

    adam: CurvesOut | None = Field(None, description="Of a generation model: the others are under SGD.")


class ClassifierOut(BaseModel):
    """The classifier that says what drawn images show."""

    architecture: str
    trained_on: int = Field(ge=0, description="Real images.")
    pools: list[str] = Field(description="From which they come; no version was trained on any.")
    accuracy: float | None = Field(description="Share of real images of the audit pool recognised.")
    ci95: Interval | None
    n: int = Field(ge=0)
    per_class: dict[str, float] = Field(description="The same by class.")


class DrawnOut(BaseModel):
    """What was drawn for one side."""

    classes: list[int]
    images: int = Field(ge=0)


class SamplingOut(BaseModel):
    """How images were drawn, of every model alike."""

    sampler: Literal["ddim"]
    steps: int = Field(ge=1)
    guidance: float
    forget: DrawnOut = Field(description="Classes of which nothing is left.")
    retain: DrawnOut


class RulingOut(Bound):
    """One bound of the policy, with its verdict."""

    model_config = ConfigDict(extra="ignore")

    verdict: Literal["pass", "fail", "inconclusive", "untestable", "not_applicable"] = Field(
        description="untestable: no figure could tell at this size. not_applicable: the bound has no meaning here."
    )
    sentence: str
    value: float | None
    ci95: Interval | None
    n: int = Field(ge=0)
    limit: float | None = Field(description="What the figure was held against.")
    margin: float | None = Field(description="Half-width of the band, for bounds that are one.")


class GateOut(BaseModel):
    """Whether the bounds that were frozen before the work are kept."""

    verdict: Literal["pass", "fail", "inconclusive", "not_evaluated"]
    sentence: str
    bounds: list[RulingOut] = Field([], description="Every bound with its verdict; only what is required decides.")
    breaker: bool | None = Field(None, description="True: test accuracy was lost beyond doubt.")
    disclosed: bool | None = Field(None, description="True: passed although a required bound could not be tested.")
    guarantee: Literal["exact", "approximate"] | None = Field(
        None, description="exact: passed on the method's guarantee, whatever was measured."
    )
    rule: str | None = Field(None, description="Why this method was the one to try.")
    small_sets: Literal["exact", "gather", "disclose"] | None = Field(
        None, description="What the policy does with sets too small to test."
    )
