"""Per-sample scores of logits that membership attacks read. Each value depends on its own sample alone."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logsumexp(z) - z_y, float64 (N,), nats; low for members."""
    return -log_softmax(logits.double(), 1).gather(1, labels[:, None]).squeeze(1)


def phi(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log(p_y / (1 - p_y)) as z_y - logsumexp of the others, float64 (N,); high for members."""
    z = logits.double()
    own = z.gather(1, labels[:, None]).squeeze(1)
    others = z.scatter(1, labels[:, None], -torch.inf)
    return own - others.logsumexp(1)


def entropy(logits: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG001
    """Return -sum p log p, float64 (N,), nats; low for members. Labels are unused."""
    log_p = log_softmax(logits.double(), 1)
    return -(log_p.exp() * log_p).sum(1)


def modified_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -(1 - p_y) log p_y - sum over c != y of p_c log(1 - p_c), float64 (N,); low for members.

    Song & Mittal, USENIX Security 2021, arXiv:2003.10595, equation 3. log(1 - p) is taken as
    log(-expm1(log p)), exact where p is small; p = 1 on a wrong class gives a large finite value.
    """
    log_p = log_softmax(logits.double(), 1)
    tiny = torch.finfo(torch.float64).tiny
    log_rest = torch.log((-torch.expm1(log_p)).clamp(min=tiny))
    terms = log_p.exp() * log_rest
    own_p, own_log = log_p.exp().gather(1, labels[:, None]), log_p.gather(1, labels[:, None])
    wrong = terms.sum(1) - terms.gather(1, labels[:, None]).squeeze(1)
    return -((1 - own_p) * own_log).squeeze(1) - wrong


def toward_member(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the score named, signed so that larger means more like a trained-on sample."""
    score = SCORES[name](logits, labels)
    return score if name == "phi" else -score


SCORES = {"loss": loss, "phi": phi, "entropy": entropy, "modified_entropy": modified_entropy}
