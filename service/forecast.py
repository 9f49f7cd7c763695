"""When a job will probably be done: the queue played through with the times that past jobs took. Pure.

An estimate, not a promise: it knows neither what comes into the queue later nor that a method may not pass its gate.
"""

import heapq
import statistics
from bisect import insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True)
class Work:
    """A job that is queued or under way. ``seconds``: what past jobs of its kind took; empty if there were none.

    ``running_for``: seconds since it was taken up; None while it waits. ``model``: None for a job of no model.
    """

    job_id: str
    model: str | None
    seconds: Sequence[float]
    running_for: float | None = None
    not_before: datetime | None = None


def finish_times(works: Sequence[Work], *, workers: int, at: datetime) -> Mapping[str, datetime]:
    """Return when each job will probably be done, by id; jobs whose time nobody knows are left out.

    ``works``: in the order in which workers take them. A model has one job under way at a time, so one that waits for
    its model lets others pass, as it does in the queue. A job of unknown length is a typical one to those behind it.
    """
    if workers < 1:
        return {}
    plan = _Plan(works, at=at)
    free = [plan.begin(each, at) for each in works if each.running_for is not None]
    free += [at] * (workers - len(free))
    heapq.heapify(free)
    while plan.heads:
        moment = heapq.heappop(free)
        work = plan.take(moment)
        heapq.heappush(free, plan.begin(work, max(moment, plan.ready(work))))
    return plan.done


class _Plan:
    """``heads``: the first waiting job of each model, most urgent first; ``done``: what the forecast says so far."""

    def __init__(self, works: Sequence[Work], *, at: datetime) -> None:
        self.done: dict[str, datetime] = {}
        self.heads: list[tuple[int, Work]] = []
        self._at = at
        self._model_free: dict[str, datetime] = {}
        self._lines: dict[str, deque[tuple[int, Work]]] = {}
        self._typical = statistics.median([_median(each.seconds) for each in works if each.seconds] or [0.0])
        for place, each in enumerate(works):
            if each.running_for is None:
                self._lines.setdefault(each.model or each.job_id, deque()).append((place, each))
        for line in self._lines.values():
            insort(self.heads, line.popleft())

    def take(self, moment: datetime) -> Work:
        """Take the most urgent job that may begin by the moment, or the one that may soonest."""
        ready = (place for place, (_, work) in enumerate(self.heads) if self.ready(work) <= moment)
        chosen = next(ready, None)
        if chosen is None:
            chosen = min(range(len(self.heads)), key=lambda place: self.ready(self.heads[place][1]))
        _, work = self.heads.pop(chosen)
        if line := self._lines[work.model or work.job_id]:
            insort(self.heads, line.popleft())
        return work

    def ready(self, work: Work) -> datetime:
        """Return when the job may begin: its model is free, and it waits for no further requests."""
        return max(self._model_free.get(work.model or "", self._at), work.not_before or self._at)

    def begin(self, work: Work, start: datetime) -> datetime:
        """Note that the job runs from then on; return when it will be done."""
        end = start + timedelta(seconds=self._left(work))
        if work.model is not None:
            self._model_free[work.model] = end
        if work.seconds:
            self.done[work.job_id] = end
        return end

    def _left(self, work: Work) -> float:
        """Return how long the job still takes: one under way, as long as those did that took longer than it has.

        Where none did, it is taken to be half done.
        """
        elapsed = work.running_for or 0.0
        longer = [seconds for seconds in work.seconds or [self._typical] if seconds > elapsed]
        return _median(longer) - elapsed if longer else elapsed


def _median(seconds: Sequence[float]) -> float:
    return float(statistics.median(seconds))
