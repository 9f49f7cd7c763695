"""What is made of a model before any request, on all it was trained on. The names are the catalogue's."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from workers.samples import LabelledSet
from workers.task import Task
from workers.training import Progress, no_progress
from workers.unlearning.importance import SCORES, diagonal_importance
from workers.unlearning.interface import with_logits


@dataclass(frozen=True, kw_only=True)
class Made:
    """A preparation: its tensors by name, how many samples it was made from, and the seconds that took."""

    name: str
    tensors: Mapping[str, Tensor]
    samples: int
    seconds: float


def prepare(
    model: nn.Module, train: LabelledSet, names: Sequence[str], *, task: Task, progress: Progress = no_progress
) -> Iterator[Made]:
    """Yield each preparation named, of a model in eval mode and all it was trained on, on its device.

    A task that draws is to draw by the recipe's seed, as the methods do that use what is prepared.

    Raises KeyError for one that cannot be made on demand, UnlearningError for one that the task has not.
    """
    for name in names:
        started = time.perf_counter()
        tensors = _MAKERS[name](task.started_from(model), train, task, partial(progress, name))
        yield Made(name=name, tensors=tensors, samples=len(train), seconds=time.perf_counter() - started)


def _importance(
    model: nn.Module, train: LabelledSet, task: Task, told: Callable[[int, int], None], *, score: str
) -> Mapping[str, Tensor]:
    return diagonal_importance(model, train, task, score=SCORES[score], told=told)


def _teacher_logits(
    model: nn.Module, train: LabelledSet, task: Task, told: Callable[[int, int], None]
) -> Mapping[str, Tensor]:
    told(0, len(train))
    return {"logits": with_logits(task).predict(model, train)}


_MAKERS: dict[str, Callable[[nn.Module, LabelledSet, Task, Callable[[int, int], None]], Mapping[str, Tensor]]] = {
    "importance_loss": partial(_importance, score="loss"),
    "importance_output": partial(_importance, score="output"),
    "teacher_logits": _teacher_logits,
}
