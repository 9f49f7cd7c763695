"""A named step does nothing until a test arms it, and then acts once."""

import errno
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from service import faults
from service.faults import Step
from service.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    faults.arm(tmp_path)
    yield tmp_path
    faults.arm(None)


def test_an_unarmed_step_does_nothing_whatever_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / Step.PURGING).write_text(json.dumps({"do": "fail", "errno": errno.ENOSPC}))
    faults.reach(Step.PURGING)


def test_an_armed_step_that_no_act_names_does_nothing(folder: Path) -> None:
    (folder / Step.PURGING).write_text(json.dumps({"do": "fail", "errno": errno.ENOSPC}))
    faults.reach(Step.JOB_CLAIMED)


def test_a_failing_step_fails_once(folder: Path) -> None:
    (folder / Step.PURGING).write_text(json.dumps({"do": "fail", "errno": errno.ENOSPC}))
    with pytest.raises(OSError, match="No space left") as raised:
        faults.reach(Step.PURGING)
    assert raised.value.errno == errno.ENOSPC
    faults.reach(Step.PURGING)


def test_a_held_step_says_so_and_waits_to_be_let_go(folder: Path) -> None:
    (folder / Step.JOB_CLAIMED).write_text(json.dumps({"do": "hold"}))
    held = threading.Thread(target=faults.reach, args=(Step.JOB_CLAIMED,))
    held.start()
    end = time.monotonic() + 60
    while not list(folder.glob(f"{Step.JOB_CLAIMED}.at-*")) and time.monotonic() < end:
        time.sleep(0.01)
    assert held.is_alive()
    (folder / f"{Step.JOB_CLAIMED}.go").touch()
    held.join(60)
    assert not held.is_alive()


def test_production_refuses_armed_steps(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no UNLEARN_FAULT_POINTS"):
        Settings(environment="production", fault_points=tmp_path)
