"""What crashes and erasures leave on disk goes, and nothing else does."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

from service import migrate
from service.lifecycle import VersionState
from service.settings import Settings
from service.store import datasets, models, versions
from service.store.tables import Restore, Version
from service.store.types import now
from tests import factories
from workers import caches, leftovers, sweeper
from workers.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    settings = Settings(data_dir=tmp_path, lease_seconds=10)
    migrate.upgrade(settings.resolved_database_url)
    found = Bench.open(settings)
    yield found
    found.database.dispose()


def _stored(bench: Bench, content: bytes, *, age_seconds: float) -> str:
    path = bench.settings.data_dir / "incoming"
    path.write_bytes(content)
    digest = bench.artifacts.put(path)
    stored = bench.artifacts.local_path(digest)
    assert stored is not None
    moment = time.time() - age_seconds
    os.utime(stored, (moment, moment))
    return digest


def test_only_old_unreferenced_bytes_are_orphans(bench: Bench) -> None:
    named, fresh, orphan = (
        _stored(bench, b"named", age_seconds=1000),
        _stored(bench, b"fresh", age_seconds=1),
        _stored(bench, b"orphan", age_seconds=1000),
    )
    with bench.database.writing() as session:
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
        versions.create(
            session, model, state=VersionState.ACTIVE, role="original", origin="uploaded", sha256=named, size_bytes=5
        )
    leftovers.remove_orphans(bench)
    assert [bench.artifacts.size(digest) is None for digest in (named, fresh, orphan)] == [False, False, True]


def test_bytes_that_only_a_purged_version_names_are_orphans(bench: Bench) -> None:
    factories.dataset(bench)
    factories.model(bench)
    version = factories.version(bench)
    with bench.database.writing() as session:
        row = session.get_one(Version, version.id)
        versions.move(session, row, VersionState.RETIRED)
        versions.move(session, row, VersionState.PURGED)
    stored = bench.artifacts.local_path(version.sha256)
    assert stored is not None
    os.utime(stored, (time.time() - 1000,) * 2)
    leftovers.remove_orphans(bench)
    assert bench.artifacts.size(version.sha256) is None


def test_bytes_put_again_are_young_again(bench: Bench) -> None:
    digest = _stored(bench, b"again", age_seconds=1000)
    (bench.settings.data_dir / "again").write_bytes(b"again")
    assert bench.artifacts.put(bench.settings.data_dir / "again") == digest
    leftovers.remove_orphans(bench)
    assert bench.artifacts.size(digest) == 5


def test_nothing_is_deleted_or_logged_while_a_restored_database_waits_for_its_replay(bench: Bench) -> None:
    orphan = _stored(bench, b"orphan", age_seconds=1000)
    with bench.database.writing() as session:
        session.add(Restore(id="rst_1", backup_id="bak_1", backup_at=now(), log_size=0, restored_at=now()))
    sweeper.tidy(bench)
    assert bench.artifacts.size(orphan) == 6
    with bench.database.writing() as session:
        session.execute(update(Restore).values(finished_at=now()))
    sweeper.tidy(bench)
    assert bench.artifacts.size(orphan) is None


def test_scratch_of_a_claim_that_is_over_goes(bench: Bench) -> None:
    over = bench.settings.data_dir / "tmp" / "job_gone-1"
    upload = bench.settings.data_dir / "tmp" / "tmpabc"
    for folder in (over, upload):
        folder.mkdir(parents=True)
        (folder / "index.jsonl").write_text("x")
    leftovers.remove_scratch(bench)
    assert not over.exists()
    assert upload.exists()


def test_old_folders_among_the_caches_that_no_dataset_names_go(bench: Bench) -> None:
    with bench.database.writing() as session:
        known = datasets.register(session, name="d", source={"source": "npz"}).id
    kept = {}
    for name, age_seconds in ((known, 10 * 86_400), ("tmpold", 2 * 86_400), ("tmpnew", 60)):
        folder = bench.settings.data_dir / "cache" / name
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"x")
        moment = time.time() - age_seconds
        os.utime(folder, (moment, moment))
        kept[name] = folder
    leftovers.remove_strange_caches(bench)
    assert {name: folder.exists() for name, folder in kept.items()} == {known: True, "tmpold": False, "tmpnew": True}


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 4, 6)])
def test_overwriting_rows_by_offset_zeroes_those_rows_alone(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.full(shape, 7, dtype=np.uint8)
    path = tmp_path / "images.npy"
    np.save(path, images)
    caches.overwrite(path, [1, 4], row_bytes=int(np.prod(shape[1:])))
    found = np.load(path, allow_pickle=False)
    assert not found[[1, 4]].any()
    assert (found[[0, 2, 3]] == 7).all()
