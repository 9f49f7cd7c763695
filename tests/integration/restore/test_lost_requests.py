"""What a restored service lacks of requests of after its backup is named: those to send again, those that had ended."""

import pytest

from service import backup_cli
from service.store import decisions, intake
from service.store.tables import DeletionRequest, Restore
from tests import factories
from tests.integration.restore.services import Case, Service


def _ask(service: Service, name: str, dataset: str = "d", **changes: object) -> str:
    with service.database.writing() as session:
        return intake.accept(session, factories.order(dataset, name, **changes), service.secrets).request.id


def test_each_request_of_after_the_backup_is_named_by_what_is_to_be_done(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    old = case.first
    before = old.erase("audit-0")
    case.back_up()
    open_one, denied, completed = old.erase("train-1"), old.erase("train-2"), old.erase("audit-1")
    with old.database.writing() as session:
        decisions.deny(session, denied, reason="identity_not_verified", note=None, by="key_x")
    # No erased id tells of the first two, and of the last one's dataset nothing came back.
    partial, confusion = _ask(old, "audit-2", models=["m"]), _ask(old, "audit-3", purpose="confusion")
    factories.dataset(old, "e")
    elsewhere = _ask(old, "audit-1", "e")
    with old.database.reading() as session:
        ended = [session.get_one(DeletionRequest, each) for each in (completed, partial, confusion, elsewhere)]
        assert {request.status for request in ended} == {"completed"}
    new = case.lose_and_restore()
    capsys.readouterr()
    backup_cli.replay(new.settings, nothing=None)
    told = capsys.readouterr().err
    send_again, over = told[: told.index("had ended")], told[told.index("had ended") :]
    assert {each for each in (open_one, partial, confusion, elsewhere) if each in send_again} == {
        open_one, partial, confusion, elsewhere
    }  # fmt: skip
    assert completed in over
    assert denied in over
    assert before not in told
    assert not any(each in send_again for each in (completed, denied))
    with new.database.reading() as session:
        found = session.query(Restore).one().found or {}
    new.database.dispose()
    assert (found["lost_requests"], found["ended_requests"]) == (4, 2)
