"""A checkpoint handed out just before a loss may be ahead of the journal: for seconds, and the refusal says so."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from service import backup_cli, journaling
from service.deps import Parts
from service.errors import Conflict
from service.store import checkpoints, replays
from tests.integration.restore.services import Case


def _kept(case: Case, name: str) -> Path:
    path = case.root / name
    path.write_text(checkpoints.fresh(case.first.database, case.first.settings).note)
    return path


def test_entries_under_a_signed_checkpoint_do_not_wait_for_more_of_them(case: Case) -> None:
    old = case.first
    parts = Parts(settings=old.settings, database=old.database, artifacts=Mock(), bell=Mock(), secrets=old.secrets)
    journalist = journaling.Journalist()
    journalist.run(parts)
    old.erase("train-1")
    journalist.run(parts)
    numbers = old.journal().numbers()
    assert len(numbers) == 1, "what tells of no erasure waits"
    size = checkpoints.fresh(old.database, old.settings).size
    journalist.run(parts)
    last = old.journal().last()
    assert last is not None
    assert last.end >= size
    journalist.run(parts)
    assert len(old.journal().numbers()) == 2, "and nothing where nothing is new"


def test_a_refused_checkpoint_says_what_may_be_and_an_earlier_one_is_taken(case: Case) -> None:
    case.back_up()
    earlier = _kept(case, "earlier")
    journaling.write(case.first.database, case.first.settings)
    case.first.erase("train-1")
    newest = _kept(case, "newest")
    new = case.lose_and_restore()
    max((case.root / "journal").iterdir()).unlink()  # as if it had not been written in time
    with pytest.raises(Conflict) as refused:
        backup_cli.replay(new.settings, nothing=None, checkpoint=newest)
    for said in (
        "segments are missing",
        "last minute before the loss",
        "an earlier checkpoint",
        "Nothing was replayed",
    ):
        assert said in str(refused.value.detail)
    backup_cli.replay(new.settings, nothing=None, checkpoint=earlier)
    with new.database.reading() as session:
        assert replays.pending(session) is None
    new.database.dispose()
