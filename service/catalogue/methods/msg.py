"""Masked small gradients: options and what it promises."""

from pydantic import Field

from service.catalogue.methods.finetune import FinetuneConfig
from service.catalogue.methods.spec import APPROXIMATE, MethodSpec
from service.catalogue.tasks import NOT_CARRIED_OVER, Task


class MsgConfig(FinetuneConfig):
    """Options of masked small gradients."""

    share: float = Field(0.3, gt=0, le=1, description="Share of each convolution's weights that is initialised anew.")
    damping: float = Field(0.1, ge=0, le=1, description="Factor on the gradient of a convolution's other weights.")
    lr: float = Field(0.001, gt=0, le=1, description="Learning rate, constant.")
    epochs: int = Field(5, ge=1, le=1000, description="Passes over the retain set.")


MSG = MethodSpec(
    id="msg",
    title="Masked small gradients",
    paper="MSG in Cadet et al., Deep Unlearn: Benchmarking Machine Unlearning, 2024, arXiv:2410.01276",
    guarantee="approximate",
    fidelity="reconstruction",
    needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias"}),
    config=MsgConfig,
    summary="The share of each convolution on which the retain and the forget gradient differ least starts anew; then "
    "the net is trained on the retain set, the convolutions' other weights slowly. Ours: where the new values come "
    "from, and that layers other than convolutions train in full. A net without convolutions is refused.",
    does_not_prove=APPROXIMATE + " Most weights start from the original's values and are moved little.",
    not_for={Task.GENERATION: NOT_CARRIED_OVER},
)
