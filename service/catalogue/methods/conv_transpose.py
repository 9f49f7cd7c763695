"""Convolution transpose: options and what it promises."""

from pydantic import Field

from service.catalogue.methods.finetune import FinetuneConfig
from service.catalogue.methods.spec import APPROXIMATE, MethodSpec
from service.catalogue.tasks import NOT_CARRIED_OVER, Task


class ConvTransposeConfig(FinetuneConfig):
    """Options of the fine-tuning that follows the transposition."""

    epochs: int = Field(3, ge=1, le=1000, description="Passes over the retain set.")


CONV_TRANSPOSE = MethodSpec(
    id="conv_transpose",
    title="Convolution transpose, then fine-tuning",
    paper="CT in Cadet et al., Deep Unlearn: Benchmarking Machine Unlearning, 2024, arXiv:2410.01276",
    guarantee="approximate",
    fidelity="reconstruction",
    needs=frozenset({"retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias"}),
    config=ConvTransposeConfig,
    summary="Every convolution's kernels are mirrored at their diagonal, then the net is trained on the retain set "
    "alone. Ours: which kernels, the rate and the update rule. A net without square kernels is refused.",
    does_not_prove=APPROXIMATE + " The transposition can be undone: what the fine-tuning leaves alone is still there.",
    not_for={Task.GENERATION: NOT_CARRIED_OVER},
)
