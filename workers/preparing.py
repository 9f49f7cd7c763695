"""What is made of a model before any request, on all it was trained on. The names are the catalogue's."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from workers.classification import Classification
from workers.samples import LabelledSet
from workers.training import Progress, no_progress
from workers.unlearning.importance import SCORES, diagonal_importance


@dataclass(frozen=True, kw_only=True)
class Made:
    """A preparation: its tensors by name, how many samples it was made from, and the seconds that took."""

    name: str
    tensors: Mapping[str, Tensor]
    samples: int
    seconds: float


def prepare(
    model: nn.Module, train: LabelledSet, names: Sequence[str], *, progress: Progress = no_progress
) -> Iterator[Made]:
    """Yield each preparation named, of a model in eval mode and all it was trained on, on its device.

    Raises KeyError for one that cannot be made on demand.
    """
    for name in names:
        started = time.perf_counter()
        tensors = _MAKERS[name](model, train, partial(progress, name))
        yield Made(name=name, tensors=tensors, samples=len(train), seconds=time.perf_counter() - started)


def _importance(
    model: nn.Module, train: LabelledSet, told: Callable[[int, int], None], *, score: str
) -> Mapping[str, Tensor]:
    return diagonal_importance(model, train, Classification(), score=SCORES[score], told=told)


def _teacher_logits(model: nn.Module, train: LabelledSet, told: Callable[[int, int], None]) -> Mapping[str, Tensor]:
    told(0, len(train))
    return {"logits": Classification().predict(model, train)}


_MAKERS: dict[str, Callable[[nn.Module, LabelledSet, Callable[[int, int], None]], Mapping[str, Tensor]]] = {
    "importance_loss": partial(_importance, score="loss"),
    "importance_output": partial(_importance, score="output"),
    "teacher_logits": _teacher_logits,
}
