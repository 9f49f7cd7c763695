"""What crashes leave on disk: scratch folders, orphaned artifacts, caches of no dataset."""

import shutil
import time
from pathlib import Path

from sqlalchemy import Select, select

from service.lifecycle import JOB_BUSY, VersionState
from service.store import digests
from service.store.artifact_stores import NAMED_BESIDE_VERSIONS
from service.store.tables import Dataset, Job, Version
from workers.bench import Bench

DAY_SECONDS = 86_400.0
ORPHAN_LEASES = 2


def remove_scratch(bench: Bench) -> None:
    """Remove the folders of claims that are over, and uploads that were broken off a day ago."""
    for folder in _folders(bench.settings.data_dir / "tmp"):
        job_id, _, fence = folder.name.rpartition("-")
        if job_id.startswith("job_"):
            with bench.database.reading() as session:
                job = session.get(Job, job_id)
            in_use = job is not None and str(job.fence) == fence and job.status in JOB_BUSY
        else:
            in_use = time.time() - folder.stat().st_mtime < DAY_SECONDS
        if not in_use:
            shutil.rmtree(folder, ignore_errors=True)


def remove_orphans(bench: Bench) -> None:
    """Delete bytes that no version names and that are too old to be about to be named."""
    bench.artifacts.confirm()  # in a store of another database every byte would be an orphan
    bench.artifacts.remove_parts(DAY_SECONDS)
    old = bench.artifacts.older_than(ORPHAN_LEASES * bench.settings.lease_seconds)
    for start in range(0, len(old), 500):
        chunk = old[start : start + 500]
        with bench.database.reading() as session:
            known = set(session.scalars(_named().where(Version.sha256.in_(chunk))))
            for other in NAMED_BESIDE_VERSIONS:
                known |= set(session.scalars(select(other).where(other.in_(chunk))))
        for digest in set(chunk) - known:
            _remove_orphan(bench, digest)


def _named() -> Select[str]:
    # A purged version names bytes that are gone: if an upload that was then refused left them again, they go again.
    return select(Version.sha256).where(Version.state != VersionState.PURGED)


def _remove_orphan(bench: Bench, digest: str) -> None:
    with bench.database.writing() as session:
        digests.hold(session, digest)
        # Looked up again: somebody may have named the bytes since.
        others = (session.scalar(select(other).where(other == digest).limit(1)) for other in NAMED_BESIDE_VERSIONS)
        named = session.scalar(_named().where(Version.sha256 == digest).limit(1))
        if named is None and not any(others):
            bench.artifacts.purge(digest)


def remove_strange_caches(bench: Bench) -> None:
    """Remove folders among the caches that no dataset names and that nothing has touched for a day."""
    for folder in _folders(bench.settings.data_dir / "cache"):
        with bench.database.reading() as session:
            known = session.get(Dataset, folder.name) is not None
        if not known and time.time() - folder.stat().st_mtime >= DAY_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
