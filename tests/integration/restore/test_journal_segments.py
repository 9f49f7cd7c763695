"""The erasure journal holds each entry once, and one that is cut, changed or another's is no replay."""

import shutil
import stat
from pathlib import Path

import pytest
from sqlalchemy import select, update

from service import backup_cli, journaling
from service.doctor import places
from service.erasure_journal import Journal, Segment, story
from service.errors import Conflict, PreconditionFailed, ServiceError
from service.store import (
    audit_tree,
    checkpoints,
    replays,
    samples,
)
from service.store.tables import (
    Restore,
    Suppression,
)
from tests.integration.restore.services import Case, version_dataset


def test_no_journal_or_one_that_lacks_or_changed_a_segment_is_no_replay(case: Case) -> None:
    case.back_up()
    journal = case.first.journal()
    for name in ("audit-1", "audit-2"):
        case.first.erase(name)
        journaling.write(case.first.database, case.first.settings)
    new = case.lose_and_restore()
    paths = sorted((case.root / "journal").iterdir())
    assert len(paths) >= 3
    middle = paths[-2]
    whole = middle.read_bytes()
    middle.write_bytes(whole.replace(b'"token":"', b'"token":"00', 1))
    with pytest.raises(PreconditionFailed, match="changed"):
        backup_cli.replay(new.settings, nothing=None)
    middle.unlink()
    with pytest.raises(PreconditionFailed, match="missing"):
        backup_cli.replay(new.settings, nothing=None)
    paths[0].unlink()
    with pytest.raises(Conflict, match="lacks entries"):
        backup_cli.replay(new.settings, nothing=None)
    shutil.move(case.root / "journal", case.root / "away")
    with pytest.raises(ServiceError, match="There is no erasure journal"):
        backup_cli.replay(new.settings, nothing=None)
    with new.database.reading() as session:
        assert replays.pending(session) is not None
        with pytest.raises(Conflict, match="unlearn replay"):
            replays.refuse_writing(session)
    backup_cli.replay(new.settings, nothing="the journal burnt too")
    with new.database.reading() as session:
        restore = session.scalars(select(Restore)).one()
    assert restore.finished_at is not None
    assert restore.found == {"nothing_to_replay": True, "reason": "the journal burnt too"}
    assert journal.numbers() == []
    new.database.dispose()


def test_the_journal_holds_each_entry_and_token_once_and_neither_id_nor_key(case: Case) -> None:
    old, journal = case.first, case.first.journal()
    old.erase("audit-1")
    size = journaling.write(old.database, old.settings)
    assert journaling.write(old.database, old.settings) == size, "and nothing where nothing is new"
    old.erase("audit-2", "audit-3")
    size = journaling.write(old.database, old.settings)
    segments = [journal.read(number) for number in journal.numbers()]
    assert [entry["seq"] for segment in segments for entry in segment.entries] == list(range(size))
    tokens = [token for segment in segments for token in segment.tokens]
    with old.database.reading() as session:
        rows = session.scalars(select(Suppression)).all()
    assert sorted(tokens) == sorted((row.dataset_id, row.token.hex()) for row in rows)
    for path in (case.root / "journal").iterdir():
        assert b"d-audit" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert journal.remove_before(max(journal.numbers())) == len(segments) - 1


def _newest(case: Case) -> Path:
    return max((case.root / "journal").iterdir())


def test_a_journal_that_ends_before_its_backup_is_not_replayed(case: Case) -> None:
    for name in ("audit-1", "audit-2"):
        case.first.erase(name)
        journaling.write(case.first.database, case.first.settings)
    case.back_up()
    new = case.lose_and_restore()
    _newest(case).unlink()
    with pytest.raises(Conflict, match="newest segments are missing"):
        backup_cli.replay(new.settings, nothing=None)
    new.database.dispose()


@pytest.mark.parametrize("most", [journaling.MOST_TOKENS, 2])
def test_a_journal_that_ends_before_a_checkpoint_from_outside_is_not_replayed(
    case: Case, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """However many segments a long list of ids takes: the log does not get further than they do."""
    monkeypatch.setattr(journaling, "MOST_TOKENS", most)
    case.back_up()
    case.first.erase(*(f"audit-{number}" for number in range(5)))
    note = case.root / "checkpoint"
    note.write_text(checkpoints.fresh(case.first.database, case.first.settings).note)
    new = case.lose_and_restore()
    newest = _newest(case)
    newest.rename(case.root / "gone")
    with pytest.raises(Conflict, match="a checkpoint of"):
        backup_cli.replay(new.settings, nothing=None, checkpoint=note)
    with new.database.reading() as session:
        assert replays.pending(session) is not None
    (case.root / "gone").rename(newest)
    altered = case.root / "altered"
    altered.write_text(note.read_text().replace("\n", "\n1", 1))
    with pytest.raises(Conflict, match="cannot be used"):
        backup_cli.replay(new.settings, nothing=None, checkpoint=altered)
    backup_cli.replay(new.settings, nothing=None, checkpoint=note)
    with new.database.reading() as session:
        named = [f"d-audit-{number}" for number in range(5)]
        known = samples.suppressed(session, new.secrets.suppression, version_dataset(session), named)
    new.database.dispose()
    assert known == set(named)


def test_a_running_service_writes_again_what_was_cut_from_its_journal(case: Case) -> None:
    old = case.first
    for name in ("audit-1", "audit-2", "audit-3"):
        old.erase(name)
        journaling.write(old.database, old.settings)
    told = {each.level for each in places.journal(old.settings)}
    assert "fault" not in told
    _newest(case).unlink()
    _newest(case).unlink()
    assert "fault" in {each.level for each in places.journal(old.settings)}
    old.erase("audit-4")
    size = journaling.write(old.database, old.settings)
    segments = old.journal().whole()
    assert sorted(story(segments)) == list(range(size))
    with old.database.reading() as session:
        erased = {row.token.hex() for row in session.scalars(select(Suppression))}
    assert {token for segment in segments for _, token in segment.tokens} == erased
    assert journaling.write(old.database, old.settings) == size, "and not again at each turn"
    assert len(old.journal().numbers()) == len(segments)
    assert "fault" not in {each.level for each in places.journal(old.settings)}


def test_a_segment_of_another_history_does_not_fit_in(tmp_path: Path) -> None:
    journals = [Journal(str(tmp_path / name), b"k" * 32) for name in ("one", "other")]
    for journal in journals:
        first = journal.append(Segment(number=1, first=0, end=0, last_leaf="", journal=f"of {journal}"))
        journal.append(Segment(number=2, first=0, end=0, last_leaf="", journal=first.journal, previous=first.mac))
        assert len(journal.whole()) == 2
    (tmp_path / "one" / "erasures-0000000002.ndjson").unlink()
    shutil.copy(tmp_path / "other" / "erasures-0000000002.ndjson", tmp_path / "one")
    with pytest.raises(PreconditionFailed, match="does not follow"):
        journals[0].whole()


def test_segments_of_a_release_that_did_not_chain_them_are_read(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), b"k" * 32)
    for number in (1, 2):
        journal.append(Segment(number=number, first=0, end=0, last_leaf=""))
    assert [segment.previous for segment in journal.whole()] == ["", ""]


def test_a_journal_begun_elsewhere_has_all_that_was_ever_erased(case: Case) -> None:
    case.back_up()
    case.first.erase("audit-1", "audit-2")
    journaling.write(case.first.database, case.first.settings)
    shutil.move(case.root / "journal", case.root / "away")
    case.first.erase("audit-3")
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing=None)
    named = [f"d-audit-{number}" for number in (1, 2, 3)]
    with new.database.reading() as session:
        known = samples.suppressed(session, new.secrets.suppression, version_dataset(session), named)
    new.database.dispose()
    assert known == set(named)


def test_a_log_taken_up_again_without_a_replay_is_journaled_from_where_it_was_restored(case: Case) -> None:
    case.back_up()
    case.first.erase("audit-1")
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing="it was a drill")
    new.erase("audit-2")
    journaling.write(new.database, new.settings)
    journal = new.journal()
    found = story([journal.read(number) for number in journal.numbers()])
    with new.database.writing() as session:
        size = audit_tree.head(session)
        session.execute(update(Restore).values(finished_at=None))
    assert sorted(found) == list(range(size))
    assert [entry["action"] for entry in found.values()].count("service.restored") == 1
    new.database.dispose()
