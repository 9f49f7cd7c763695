"""Jobs about reference models: one at a time, and a trim that failed is not tried for ever."""

from pathlib import Path

import pytest

from service import migrate
from service.lifecycle import JobKind, JobStatus
from service.settings import Settings
from service.store import datasets, models, references
from service.store.session import Database


@pytest.mark.parametrize(("kind", "again"), [(JobKind.TRIM, False), (JobKind.PREPARE, True)])
def test_a_stuck_trim_waits_for_a_person_and_a_failed_preparation_may_be_asked_for_anew(
    tmp_path: Path, kind: JobKind, *, again: bool
) -> None:
    settings = Settings(data_dir=tmp_path)
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    with database.writing() as session:
        dataset = datasets.register(session, name="d", source={"source": "npz"})
        model = models.register(
            session,
            name="m",
            dataset=dataset,
            task="classification",
            architecture="small_cnn",
            architecture_options={},
            recipe=None,
            policy={},
        )
        first = references.ask_for(session, model, kind)
        session.flush()
        assert references.ask_for(session, model, kind) is first
        first.status = JobStatus.FAILED
        session.flush()
        assert (references.ask_for(session, model, kind) is not first) == again
    database.dispose()
