"""Slopes of the logits with respect to the image, and a refusal of networks that have no slope of such slopes."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers.classification import Classification
from workers.unlearning.interface import UnlearningError


class NoDoubleBackwardError(UnlearningError):
    """The network holds an operation that cannot be differentiated twice; the message names it."""


def input_gradients(
    task: Classification, model: nn.Module, images: Tensor, classes: Tensor, *, twice: bool
) -> list[Tensor]:
    """Return grad_x f_k(x), (N, ...) each, for the columns k of `classes`, int64 (N, J).

    With `twice` they can be differentiated again, which takes the same attention as here; see math_attention.
    """
    with torch.enable_grad(), math_attention():
        x = task.inputs(images).requires_grad_()
        chosen = model(x).gather(1, classes).sum(0)
        return [torch.autograd.grad(f_k, x, create_graph=twice, retain_graph=True)[0] for f_k in chosen]


@contextmanager
def math_attention() -> Iterator[None]:
    """Choose attention in plain operations: the fused kernels have no double backward."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def refuse_once_differentiable(task: Classification, model: nn.Module, images: Tensor) -> None:
    """Raise NoDoubleBackwardError unless slopes of the slopes exist; `model` is not changed.

    Everything is traversed: torch.autograd.grad with named inputs walks past functions marked as once
    differentiable and returns a gradient that is wrong.
    """
    trial = copy.deepcopy(model)
    try:
        (slope,) = input_gradients(
            task, trial, images, torch.zeros(len(images), 1, dtype=torch.int64, device=images.device), twice=True
        )
        if slope.requires_grad:
            slope.square().sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        names = _named_in(str(error), trial, task.inputs(images).requires_grad_())
        if names:
            raise NoDoubleBackwardError(f"{names} cannot be differentiated twice, which this method needs") from error
        raise


def _named_in(told: str, model: nn.Module, x: Tensor) -> str:
    """Return the operations torch complains of, an empty string where it complains of something else."""
    named = re.search(r"derivative for '?([\w:]+)'? is not implemented", told)
    if named:
        return named[1]
    if "differentiate twice" in told or "double backward" in told.lower():
        return ", ".join(_custom_functions(model(x))) or told
    return ""


def _custom_functions(logits: Tensor) -> list[str]:
    """Return the names of the functions in the graph of `logits` that torch does not bring itself."""
    names: set[str] = set()
    seen, ahead = set(), [logits.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            written = getattr(node, "_forward_cls", None)
            names |= {written.__name__} if written else set()
            ahead += [before for before, _ in node.next_functions]
    return sorted(names)
