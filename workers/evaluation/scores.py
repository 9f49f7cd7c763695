"""Per-sample scores of logits that membership attacks read. Each value depends on its own sample alone."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

Outputs = tuple[Tensor, Tensor]
"""A set's logits (N, K) and labels, int64 (N,)."""


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
    log1p(-p), and for the likeliest class, where that would lose all digits, from the other logits.
    """
    z = logits.double()
    log_p = log_softmax(z, 1)
    p = log_p.exp()
    top = z.argmax(1, keepdim=True)
    log_rest_of_top = z.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True) - z.logsumexp(1, keepdim=True)
    log_rest = torch.log1p(-p.scatter(1, top, 0.0)).scatter(1, top, log_rest_of_top)
    own = labels[:, None]
    rest_of_own = log_rest.gather(1, own).exp()
    others = (p * log_rest).scatter(1, own, 0.0).sum(1)
    return -(rest_of_own * log_p.gather(1, own)).squeeze(1) - others


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Return p_y, float64 (N,); high for members."""
    return (-loss(logits, labels)).exp()


def correctness(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 where the largest logit is the label's, else 0, float64 (N,)."""
    return (logits.argmax(1) == labels).double()


def toward_member(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the score named, signed so that larger means more like a trained-on sample."""
    score = SCORES[name](logits, labels)
    return score if name == "phi" else -score


SCORES = {"loss": loss, "phi": phi, "entropy": entropy, "modified_entropy": modified_entropy}
