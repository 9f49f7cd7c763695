"""Workers that can be stopped wherever others may come in between, around the real code of an attempt.

An attempt runs in a thread of its own, which waits at three places for the test to let it go on: after it has read its
orders, at its work, and when the bytes are stored and nothing names them yet. One thread runs at a time.
"""

import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from service import faults
from service.faults import Step
from service.store import jobs
from service.store.jobs import Claim
from tests import factories
from workers import orders, tasks
from workers.bench import Bench
from workers.runner import ChildFailed, ChildLost, Runner

READ, WORKING, STORED, OVER = "read", "working", "stored", "over"
PASS, FAIL, USELESS, BAD_DATA, NO_MODEL, DIED, ASKED_TO_END = (
    "pass", "fail", "useless", "bad data", "no model", "died", "asked to end",
)  # fmt: skip
OUTCOMES = (PASS, FAIL, USELESS, BAD_DATA, NO_MODEL, DIED, ASKED_TO_END)
_SECONDS = 120.0
_HANDS: dict[int, "Hand"] = {}
_CODES = {BAD_DATA: "dataset_changed", NO_MODEL: "unlearning_failed", USELESS: "utility_guard"}


class Killed(BaseException):
    """The process is gone in the middle of it."""


class Hand:
    """One worker process. ``at``: where its attempt stopped; None while it has none."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench = Bench(
            settings=bench.settings,
            database=bench.database,
            artifacts=bench.artifacts,
            runner=_Child(self),
            owner=name,
            stopping=threading.Event(),
        )
        self.claim: Claim | None = None
        self.at: str | None = None
        self._orders: queue.Queue[str | None] = queue.Queue()
        self._places: queue.Queue[str] = queue.Queue()
        self._broke: BaseException | None = None
        self._made = 0

    def take(self) -> bool:
        """Claim the most urgent job; say whether there was one."""
        settings = self.bench.settings
        self.claim = jobs.claim_next(self.bench.database, owner=self.bench.owner, lease_seconds=settings.lease_seconds)
        return self.claim is not None

    def go_on(self, outcome: str = PASS) -> str:
        """Have the attempt go on to where it stops next, its work ending like this; return where that is."""
        if self.at is None:
            threading.Thread(target=self._attempt, daemon=True).start()
        else:
            self._orders.put(outcome)
        return self._arrive()

    def finish(self, outcome: str = PASS) -> None:
        """Have the attempt go on to its end."""
        while self.claim is not None:
            self.go_on(outcome)

    def beat(self) -> None:
        """Lengthen the lease, as the heartbeat does. Raises LeaseLost."""
        if self.claim is not None:
            with self.bench.database.writing() as session:
                lease = self.bench.settings.lease_seconds
                jobs.heartbeat(session, self.claim, lease_seconds=lease, progress=("unlearn", 1, 2))

    def crash(self) -> None:
        """Forget everything, as a process that is killed does."""
        if self.at is not None:
            self._orders.put(None)
            self._arrive()
        self.claim = None

    def stop(self, place: str) -> str:
        """Wait in the attempt's thread to be let go on; return how its work is to end."""
        self._places.put(place)
        outcome = self._orders.get(timeout=_SECONDS)
        if outcome is None:
            raise Killed
        return outcome

    def next_number(self) -> int:
        self._made += 1
        return self._made

    def _attempt(self) -> None:
        _HANDS[threading.get_ident()] = self
        try:
            if self.claim is not None:
                tasks.attempt(self.bench, self.claim)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            self._broke = error
        finally:
            del _HANDS[threading.get_ident()]
            self._places.put(OVER)

    def _arrive(self) -> str:
        place = self._places.get(timeout=_SECONDS)
        self.at = place
        if place == OVER:
            self.at, self.claim = None, None
            self.bench.stopping.clear()
            if self._broke is not None:
                raise self._broke
        return place


class _Child(Runner):
    """Stands for the process that would load torch: answers what the test says, with files where some are due."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(time_limit_seconds=_SECONDS, idle_seconds=_SECONDS)
        self._hand = hand

    def run(self, order: dict[str, Any], **_: Any) -> dict[str, Any]:
        folder = Path(order["out"])
        if order["kind"] == "reexecute":
            shutil.copy(folder / "weights.safetensors", folder / "reexecuted.safetensors")
            return {"device": "cpu", "max_relative_difference": 0.0, "seconds": 1.0}
        outcome = self._hand.stop(WORKING)
        if outcome == ASKED_TO_END:
            self._hand.bench.stopping.set()
        if outcome in (ASKED_TO_END, DIED):
            raise ChildLost(outcome)
        if outcome in (BAD_DATA, NO_MODEL):
            raise ChildFailed({"code": _CODES[outcome], "detail": outcome})
        if order["kind"] == "validate":
            return {"faults": [] if outcome == PASS else ["It does not fit."]}
        weights = factories.safetensors(w=[float(self._hand.next_number()), float(ord(self._hand.bench.owner[-1]))])
        (folder / "weights.safetensors").write_bytes(weights)
        return {"report": _report(order, outcome), "info": {"seconds": 1.0}}

    def release_idle(self) -> None:
        """Keep nothing warm."""


def _report(order: dict[str, Any], outcome: str) -> dict[str, Any]:
    gate = {"verdict": "pass" if outcome == PASS else "fail", "sentence": "-", "breaker": outcome == USELESS}
    return {
        "method": order.get("method"),
        "config": {},
        "seed": 0,
        "metrics": [],
        "gate": gate,
        "seconds": {"unlearning": 1.0, "evaluation": 1.0},
    }


@contextmanager
def stopping_places() -> Iterator[None]:
    """Have attempts of hands stop after they read their orders, and before they publish."""
    prepare, reach = orders.prepare, faults.reach

    def read(*given: Any) -> Any:
        prepared = prepare(*given)
        _stop_at(READ)
        return prepared

    def reached(step: Step) -> None:
        if step == Step.BEFORE_PUBLISHING:
            _stop_at(STORED)
        reach(step)

    with patch.object(orders, "prepare", read), patch.object(faults, "reach", reached):
        yield


def _stop_at(place: str) -> None:
    if (hand := _HANDS.get(threading.get_ident())) is not None:
        hand.stop(place)


Act = Callable[[], object]


def together(*acts: Act) -> list[object]:
    """Do all at once, each in a thread, from one start; return what each returned, or raise what one raised."""
    barrier, found, raised = threading.Barrier(len(acts)), [object()] * len(acts), list[BaseException]()

    def do(index: int, act: Act) -> None:
        barrier.wait(_SECONDS)
        try:
            found[index] = act()
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    threads = [threading.Thread(target=do, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_SECONDS)
    if raised:
        raise raised[0]
    return found
