"""l1-sparse fine-tuning: options and what it promises."""

from pydantic import Field

from service.catalogue.methods.finetune import FinetuneConfig
from service.catalogue.methods.spec import APPROXIMATE, MethodSpec
from service.catalogue.tasks import NOT_CARRIED_OVER, Task


class L1SparseConfig(FinetuneConfig):
    """Options of fine-tuning with a penalty on the weights' absolute values."""

    alpha: float = Field(
        5e-4, ge=0, le=1, description="Weight of the l1 norm at the first step; it falls linearly to 0 over the run."
    )


L1_SPARSE = MethodSpec(
    id="l1_sparse",
    title="l1-sparse fine-tuning",
    paper="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv:2304.04934",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias", "confusion"}),
    config=L1SparseConfig,
    summary="Training goes on with the cross-entropy on the retain set and a penalty on the l1 norm of all weights "
    "that falls to 0: weights that only the forget set needed shrink away.",
    does_not_prove=APPROXIMATE + " Few short epochs shrink little, and the forget set then stays relearnable at once.",
    not_for={Task.GENERATION: NOT_CARRIED_OVER},
)
