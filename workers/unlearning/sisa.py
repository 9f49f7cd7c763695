"""SISA: exact unlearning of a model that was trained in shards and slices.

Bourtoule et al., Machine Unlearning, S&P 2021, arXiv:1912.03817. workers.sharded_training says how such a model is
trained and where that differs from the paper. A shard that holds no forgotten sample is left as it is. One that does
goes back to the checkpoint before the first slice r with a forgotten sample (to its seeded initialisation for r = 1),
and stages r..R are run again without the forget set. The result, checkpoints included, is what training on the retain
set alone with the same seeds gives.

What is forgotten is not taken from the request: it is all that the checkpoints were made from and the retain set does
not hold. So samples that other requests withhold are removed too, and the model is exact for the retain set.
"""

import copy
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from service.catalogue.methods import SisaConfig
from service.catalogue.recipe import Sharding
from workers.architectures.ensemble import Ensemble, members
from workers.sharded_training import checkpoint_of, checkpoint_prefix
from workers.sharding import places_of
from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningResult, UnlearningSplits
from workers.unlearning.shards import (
    POSITIONS,
    SEED,
    SHARD_CHECKPOINTS,
    history_of,
    kept,
    retained_positions,
    trained_on_retain,
)


def sisa(
    model: nn.Module,
    splits: UnlearningSplits,
    config: SisaConfig,  # noqa: ARG001
    *,
    around: Surroundings,
) -> UnlearningResult:
    """Retrain the shards of the forget set from their last clean checkpoints. Raises DivergedError, UnlearningError."""
    started = time.perf_counter()
    sharding = _sharding(model, around)
    retained, before = retained_positions(splits), _checkpoints(model, sharding, around)
    seed, gone = int(before[SEED]), _gone(before[POSITIONS], retained)
    start = first_stages(gone, sharding, seed=around.recipe.seed)
    unlearned = _rewound(model, before, start, seed=seed, around=around)
    training = trained_on_retain(unlearned, splits, seed=seed, around=around, start=start)
    untouched = {name: before[name] for name in _names(model, sharding) if name not in training.checkpoints}
    return UnlearningResult(
        model=unlearned,
        history=history_of(training),
        selection={"epoch": len(training.epochs), "rule": "last epoch", "boundary": False},
        prepared=kept({**untouched, **training.checkpoints}, seed=seed, positions=retained),
        seconds=around.journal.seconds_before + time.perf_counter() - started,
    )


def first_stages(gone: Tensor, sharding: Sharding, *, seed: int) -> dict[int, int]:
    """Return, for each shard that holds one of these positions, the first slice that does."""
    places = places_of(gone, sharding, seed=seed)
    first: dict[int, int] = {}
    for shard, slice_ in zip(places.shard.tolist(), places.slice.tolist(), strict=True):
        first[shard] = min(slice_, first.get(shard, slice_))
    return first


def _rewound(
    model: nn.Module, before: Mapping[str, Tensor], start: Mapping[int, int], *, seed: int, around: Surroundings
) -> nn.Module:
    """Return a copy whose shards named in `start` hold the weights that they had before that stage."""
    rewound = copy.deepcopy(model)
    nets = members(rewound)
    initial = members(around.build_model(seed)) if 1 in start.values() else nets
    for shard, stage in start.items():
        state = initial[shard].state_dict() if stage == 1 else checkpoint_of(before, nets[shard], shard, stage)
        nets[shard].load_state_dict(state)
    return rewound


def _sharding(model: nn.Module, around: Surroundings) -> Sharding:
    if around.recipe.sisa is None or not isinstance(model, Ensemble):
        raise UnlearningError(
            "the model was not trained in shards: sisa works on models registered with `recipe.sisa`; ask for retrain"
        )
    return around.recipe.sisa


def _checkpoints(model: nn.Module, sharding: Sharding, around: Surroundings) -> Mapping[str, Tensor]:
    """Return what was kept of the model's training. Raises UnlearningError where it is not all there."""
    found = around.prepared.get(SHARD_CHECKPOINTS)
    if found is None:
        raise UnlearningError(
            "this version has no checkpoints of its shards: it was uploaded, or came out of an approximate method; "
            "ask for retrain, whose result has them"
        )
    wanted = {name: tensor.shape for name, tensor in _names(model, sharding).items()}
    if (
        any(name not in found or found[name].shape != shape for name, shape in wanted.items())
        or not {
            SEED,
            POSITIONS,
        }
        <= found.keys()
    ):
        raise UnlearningError("the checkpoints of this version's shards do not fit its recipe; ask for retrain")
    return found


def _names(model: nn.Module, sharding: Sharding) -> dict[str, Tensor]:
    """Return the names of all checkpoints, each with the trained network's tensor that it is an earlier state of."""
    return {
        checkpoint_prefix(shard, stage) + name: tensor
        for shard, net in enumerate(members(model))
        for stage in range(2, sharding.slices + 1)
        for name, tensor in net.state_dict().items()
    }


def _gone(trained: Tensor, retained: Tensor) -> Tensor:
    """Return the positions that were trained on and are not retained. Raises UnlearningError."""
    if not bool(torch.isin(retained, trained).all()):
        raise UnlearningError(
            "the retain set holds samples that this version's shards were not trained on; ask for retrain"
        )
    return trained[~torch.isin(trained, retained)]
