"""Label-free SSD (LFSSD): Foster, Schoepf and Brintrup, Loss-Free Machine Unlearning, ICLR 2024 (Tiny Papers),
arXiv:2402.19308.

f: logits.  Omega: how far the output's squared norm moves with each weight, over all data and over the forget set.

    Omega_i = (1/N) sum over n of | d ||f(x_n)||_2^2 / d theta_i |

The weights are dampened by Omega in the place of F as dampening.py says. Sizes, not squares as in SSD: a strength
that suits the one is none for the other.
No label enters Omega. Labels of the forget set only choose among the strengths tried; with `alpha` named there is one,
and no label has a part in the model.
On a small net it forgot a class at no cost and left a random subset as known as before, where the images are like
those that stay (tests/unit/science/test_lfssd.py).
"""

from torch import nn

from service.catalogue.methods import LfssdConfig
from workers.unlearning.dampening import dampened
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits


def lfssd(model: nn.Module, splits: UnlearningSplits, config: LfssdConfig, *, around: Surroundings) -> UnlearningResult:
    """Dampen a copy by the importance of the output's norm; return the strength chosen. Raises UnlearningError."""
    return dampened(model, splits, config, around, score="output")
