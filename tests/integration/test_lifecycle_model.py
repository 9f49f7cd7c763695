"""Requests, jobs and versions keep their laws in whatever order two workers, the sweeper and people come to act.

Each rule is a transaction or a few of a real worker's; the laws are checked after each, and in the end everything goes
well and every open request completes. ``UNLEARN_LIFECYCLE_EXAMPLES=1000`` explores further, from new seeds.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from service.lifecycle import JOB_STUCK
from service.settings import Settings
from service.store.jobs import LeaseLost
from service.store.tables import DeletionRequest, Job
from tests.lifecycle.hands import OUTCOMES, PASS
from tests.lifecycle.world import LEASE_SECONDS, MODELS, NAMED, World, world
from tests.migrated import copy_sqlite, migrated_database

EXAMPLES, STEPS = 6, 25
LONG = int(os.environ.get("UNLEARN_LIFECYCLE_EXAMPLES", "0"))
EXPLORING = settings(
    max_examples=LONG or EXAMPLES,
    stateful_step_count=STEPS,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
WHICH = st.integers(0, 7)
HAND = st.integers(0, 1)
NAMES = st.lists(st.integers(0, NAMED - 1), min_size=1, max_size=4, unique=True)
MODEL = st.sampled_from(MODELS)


class Lifecycle(RuleBasedStateMachine):
    """``new_world`` makes the store of each example."""

    def __init__(self, new_world: Callable[[], Any]) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.world: World = self._stack.enter_context(new_world())

    def teardown(self) -> None:
        with self._stack:
            self.world.drain()

    @invariant()
    def the_laws_hold(self) -> None:
        self.world.check()

    @property
    def _requests(self) -> list[str]:
        with self.world.bench.database.reading() as session:
            return list(session.scalars(select(DeletionRequest.id).order_by(DeletionRequest.id)))

    @property
    def _stuck(self) -> list[str]:
        with self.world.bench.database.reading() as session:
            return list(session.scalars(select(Job.id).where(Job.status.in_(JOB_STUCK)).order_by(Job.id)))

    def _request(self, which: int) -> str:
        found = self._requests
        return found[which % len(found)]

    @rule(names=NAMES, model=st.none() | MODEL, method=st.sampled_from(["finetune", "retrain", "auto"]))
    def ask(self, names: list[int], model: str | None, method: str) -> None:
        self.world.ask(*names, models=None if model is None else [model], method=method)

    @rule(names=NAMES)
    def ask_for_another_purpose(self, names: list[int]) -> None:
        self.world.ask(*names, purpose="bias")

    @rule()
    def ask_for_so_many_that_somebody_must_approve(self) -> None:
        self.world.ask(*range(NAMED), report_unresolved=True)

    @precondition(lambda self: self._requests)
    @rule(which=WHICH, decide=st.sampled_from(["cancel", "deny", "hold", "release", "extend", "approve"]))
    def decide(self, which: int, decide: str) -> None:
        getattr(self.world, decide)(self._request(which))

    @precondition(lambda self: self._stuck)
    @rule(which=WHICH, approve=st.booleans())
    def see_to_a_stuck_job(self, which: int, approve: bool) -> None:
        found = self._stuck
        job_id = found[which % len(found)]
        if not (approve and self.world.approve_job(job_id)):
            self.world.retry(job_id)

    @rule(model=MODEL)
    def upload(self, model: str) -> None:
        self.world.upload(model)

    @rule(model=MODEL)
    def train(self, model: str) -> None:
        self.world.train(model)

    @rule(number=HAND)
    def take(self, number: int) -> None:
        hand = self.world.hands[number]
        if hand.claim is None:
            hand.take()

    @rule(number=HAND, outcome=st.just(PASS) | st.sampled_from(OUTCOMES))
    def go_on(self, number: int, outcome: str) -> None:
        hand = self.world.hands[number]
        if hand.claim is not None:
            hand.go_on(outcome)

    @rule(number=HAND, outcome=st.just(PASS) | st.sampled_from(OUTCOMES))
    def work_to_the_end(self, number: int, outcome: str) -> None:
        hand = self.world.hands[number]
        if hand.claim is not None or hand.take():
            hand.finish(outcome)

    @rule(number=HAND)
    def beat(self, number: int) -> None:
        try:
            self.world.hands[number].beat()
        except LeaseLost:
            self.world.hands[number].crash()

    @rule(number=HAND)
    def crash(self, number: int) -> None:
        self.world.hands[number].crash()

    @precondition(lambda self: self._requests)
    @rule(number=HAND, outcome=st.sampled_from(OUTCOMES))
    def sleep_through_the_lease(self, number: int, outcome: str) -> None:
        """One worker sleeps until another has its job, wakes up and works on: nothing it says counts."""
        sleeper, other = self.world.hands[number], self.world.hands[1 - number]
        if other.claim is not None or not (sleeper.claim is not None or sleeper.take()):
            return
        if sleeper.at is None:
            sleeper.go_on()
        job_id, fence = sleeper.claim.job_id, sleeper.claim.fence  # type: ignore[union-attr]
        self.world.clock.advance(LEASE_SECONDS + 1)
        self.world.sweep(by=1 - number)
        other.take()
        before = self.world.states_of(job_id)
        sleeper.finish(outcome)
        assert self.world.states_of(job_id) == before, f"{job_id} heeded the lost fence {fence}"

    @rule()
    def sweep(self) -> None:
        self.world.sweep()

    @rule()
    def leases_run_out(self) -> None:
        self.world.clock.advance(LEASE_SECONDS + 1)
        self.world.sweep()

    @rule(seconds=st.sampled_from([-7200.0, -1.0, 5.0, 3 * 86_400.0, 20 * 86_400.0]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule()
    def look_at_due_dates(self) -> None:
        self.world.look_at_due_dates()

    @rule()
    def settle_once_more(self) -> None:
        self.world.settle_twice()


@contextmanager
def _on_sqlite() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        copy_sqlite(Settings(data_dir=Path(folder)).resolved_database_url)
        with world(Path(folder), "") as found:
            yield found


@contextmanager
def _on_postgres(server_url: str) -> Iterator[World]:
    with (
        tempfile.TemporaryDirectory() as folder,
        migrated_database(server_url) as url,
        world(Path(folder), url) as found,
    ):
        yield found


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_no_order_of_acts_breaks_a_law_or_loses_a_request(store: str, request: pytest.FixtureRequest) -> None:
    new_world: Callable[[], Any] = _on_sqlite
    if store == "postgresql":
        new_world = partial(_on_postgres, request.getfixturevalue("postgres_url"))

    class Here(Lifecycle):
        def __init__(self) -> None:
            super().__init__(new_world)

    run_state_machine_as_test(Here, settings=EXPLORING)
