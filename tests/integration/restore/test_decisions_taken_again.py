"""Each decision about a request that the journal tells of is taken again after a restore, or named as one to take."""

from sqlalchemy import select

from service import backup_cli
from service.erasure_journal import story
from service.store import approval, decisions, replays
from service.store.holds import await_approval
from service.store.requests import APPROVAL_NEEDED, LEGAL_HOLD, causes
from service.store.tables import DeletionRequest, Restore
from tests.integration.restore.services import Case, Service


def _hold(service: Service, *ids: str) -> None:
    for request_id in ids:
        with service.database.writing() as session:
            decisions.hold(session, request_id, note="a court says so", by="key_x")


def _release(service: Service, *ids: str) -> None:
    for request_id in ids:
        with service.database.writing() as session:
            decisions.release(session, request_id, by="key_x", suppression_key=service.secrets.suppression)


def _found(service: Service, *ids: str) -> tuple[int, list[tuple[str, list[str]]]]:
    """Return how many requests are to be decided on anew, and each one's status and what holds it."""
    with service.database.reading() as session:
        rows = [session.get_one(DeletionRequest, request_id) for request_id in ids]
        counts = session.scalars(select(Restore)).one().found or {}
        found = [(row.status, [cause["code"] for cause in causes(row)]) for row in rows]
    return counts["to_decide"], found


def test_a_hold_that_was_released_since_the_backup_is_released_again(case: Case) -> None:
    old = case.first
    held, again, since = (old.erase(f"train-{number}") for number in (1, 2, 3))
    _hold(old, held, again)
    case.back_up()
    _release(old, held, again)
    _hold(old, again, since)
    _release(old, since)
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing=None)
    to_decide, found = _found(new, held, again, since)
    new.database.dispose()
    assert found == [("accepted", []), ("on_hold", [LEGAL_HOLD]), ("accepted", [])]
    assert to_decide == 0, "all three are as they were"


def test_approvals_and_extensions_since_the_backup_are_named_where_they_still_lack(case: Case) -> None:
    old = case.first
    approved, extended, denied = (old.erase(f"train-{number}") for number in (1, 2, 3))
    with old.database.writing() as session:
        for request_id in (approved, denied):
            await_approval(session, session.get_one(DeletionRequest, request_id), {"m": ["more than may be"]})
    case.back_up()
    key = old.secrets.suppression
    with old.database.writing() as session:
        for request_id in (approved, denied):
            approval.approve(session, request_id, by="key_y", suppression_key=key, four_eyes=False)
        decisions.extend(session, extended, months=1, note="many requests", by="key_x", zone="UTC")
        decisions.deny(session, denied, reason="identity_not_verified", note=None, by="key_x")
    new = case.lose_and_restore()
    with new.database.writing() as session:
        done = replays.replay(
            session, session.scalars(select(Restore)).one(), entries=story(new.journal().whole()), tokens=(),
            suppression_key=key,
        )  # fmt: skip
    _, found = _found(new, approved, extended, denied)
    new.database.dispose()
    assert done.to_decide == sorted([approved, extended])
    assert found == [("on_hold", [APPROVAL_NEEDED]), ("accepted", []), ("denied", [])]
