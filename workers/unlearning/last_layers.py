"""The last k layers of a network, which train while all before them is frozen.

A layer is a module that owns parameters itself. Layers are counted from the output, in the order in which the
network registers its modules; that is the order of the forward pass in every architecture of the catalogue.

Left out, k takes the head and the last block: all layers from the block's first on. A block is an element of a
sequence (Sequential, ModuleList) that is no plain sequence itself, holds several layers and not the network's last;
of nested ones the outermost. In a net without blocks it is the last convolution with what follows it, and in one
without convolutions the last two layers.

An ensemble has as many ends as networks: k counts in each of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from workers.architectures.ensemble import Ensemble
from workers.unlearning.interface import UnlearningError

SEQUENCES = (nn.Sequential, nn.ModuleList)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, kw_only=True)
class LastLayers:
    """Name what trains: `k` of `total` layers, the modules from the first of them on, and their parameters.

    A parameter that a layer before them holds too is not among `parameters`.
    """

    k: int
    total: int
    modules: frozenset[str]
    parameters: frozenset[str]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules that own parameters themselves, in order, each once."""
    return [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]


def last_layers(model: nn.Module, k: int | None) -> LastLayers:
    """Return the last `k` layers, or head and last block; raise UnlearningError for a k that the network has not.

    Where all layers train all modules do, those before the first layer as well. Of an ensemble it is the last `k` of
    each network.
    """
    if isinstance(model, Ensemble):
        return _of_each(model, k)
    layers = layers_of(model)
    wanted = head_and_last_block(model) if k is None else k
    if not 1 <= wanted <= len(layers):
        raise UnlearningError(f"k = {wanted}, but the network has {len(layers)} layers: choose k in 1..{len(layers)}")
    modules = dict(model.named_modules())
    before = 0 if wanted == len(layers) else list(modules.values()).index(layers[-wanted])
    held = {id(w) for module in list(modules.values())[:before] for w in module.parameters(recurse=False)}
    parameters = frozenset(name for name, w in model.named_parameters() if id(w) not in held)
    if not parameters:
        raise UnlearningError(f"the last {wanted} layers share every parameter with those before: choose a larger k")
    trained = frozenset(list(modules)[before:])
    return LastLayers(k=wanted, total=len(layers), modules=trained, parameters=parameters)


def _of_each(ensemble: Ensemble, k: int | None) -> LastLayers:
    each = [(f"nets.{i}", last_layers(net, k)) for i, net in enumerate(ensemble.nets)]
    return LastLayers(
        k=each[0][1].k,
        total=each[0][1].total,
        modules=frozenset(f"{prefix}.{name}".rstrip(".") for prefix, last in each for name in last.modules),
        parameters=frozenset(f"{prefix}.{name}" for prefix, last in each for name in last.parameters),
    )


def head_and_last_block(model: nn.Module) -> int:
    """Return how many layers there are from the last block's first on, at least one."""
    layers = layers_of(model)
    in_blocks = [block[0] for block in _blocks(model, layers[-1])]
    convolutions = [layer for layer in layers[:-1] if isinstance(layer, CONVOLUTIONS)]
    first = (in_blocks or convolutions or layers[-2:-1] or layers)[-1]
    return len(layers) - layers.index(first)


def _blocks(module: nn.Module, last: nn.Module) -> Iterator[list[nn.Module]]:
    """Yield the layers of every block, in order; `last` is the network's last layer."""
    for child in module.children():
        held = layers_of(child)
        whole = isinstance(module, SEQUENCES) and type(child) not in SEQUENCES
        if whole and len(held) > 1 and last not in held:
            yield held
        else:
            yield from _blocks(child, last)


def train_mode_for(model: nn.Module, last: LastLayers) -> None:
    """Put the modules that train in train mode and all others in eval mode, so that their buffers stay."""
    for name, module in model.named_modules():
        module.training = name in last.modules


@contextmanager
def others_frozen(model: nn.Module, last: LastLayers) -> Iterator[None]:
    """Let no gradient reach other parameters: an optimiser then leaves them alone, weight decay and all."""
    frozen = [w for name, w in model.named_parameters() if w.requires_grad and name not in last.parameters]
    for w in frozen:
        w.requires_grad_(False)  # noqa: FBT003
    try:
        yield
    finally:
        for w in frozen:
            w.requires_grad_(True)  # noqa: FBT003
