"""The kernels of a network's two-dimensional convolutions."""

from torch import Tensor, nn

from workers.unlearning.interface import UnlearningError


def kernels(model: nn.Module) -> list[Tensor]:
    """Return the weights (out, in, height, width) of all Conv2d, in order, each once; there may be none."""
    found = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad}
    return list(found.values())


def square_kernels(model: nn.Module) -> list[Tensor]:
    """Return the kernels that a transposition changes: as high as wide, and more than 1. Raises UnlearningError."""
    square = [w for w in kernels(model) if w.shape[2] == w.shape[3] > 1]
    if not square:
        raise UnlearningError(
            "the network has no convolution with a square kernel above 1 x 1, so there is nothing to transpose; "
            "choose another method"
        )
    return square
