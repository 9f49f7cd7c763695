"""Label-free SSD: options and what it promises."""

from service.catalogue.methods.dampening import DampeningConfig
from service.catalogue.methods.spec import APPROXIMATE, MethodSpec
from service.catalogue.tasks import NEEDS_LOGITS, Task


class LfssdConfig(DampeningConfig):
    """Options of LFSSD. Its importance is on another scale than that of SSD, and so is an alpha that is named."""


LFSSD = MethodSpec(
    id="lfssd",
    title="Label-free selective synaptic dampening",
    paper="Foster et al., Loss-Free Machine Unlearning, ICLR 2024 (Tiny Papers), arXiv:2402.19308",
    guarantee="approximate",
    fidelity="paper",
    needs=frozenset({"forget", "forget_labels", "retain", "validation"}),
    needs_in_class_retain=False,
    purposes=frozenset({"privacy", "bias"}),
    uses=frozenset({"importance_output"}),
    instead_of_retain="importance_output",
    config=LfssdConfig,
    summary="As SSD, by how far each weight moves the size of the network's answers in place of its loss. That takes "
    "no label; only the choice among strengths, where alpha is left null, reads those of the forget set.",
    does_not_prove=APPROXIMATE + " A weight can matter to what is remembered and hardly move the size of the answers.",
    not_for={Task.GENERATION: NEEDS_LOGITS},
)
