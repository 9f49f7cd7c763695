"""What orders for the child are made of: where its files lie, what every order on a model says, what comes of one."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from service.artifacts import ArtifactStore
from service.settings import Settings
from service.store import reindexing, retention
from service.store.tables import Dataset, Job, Model, PreparedFile, ReferenceFile, Version
from workers.ladder import Rung, Situation


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker finds and leaves files."""

    settings: Settings
    artifacts: ArtifactStore
    out: Path

    def weights(self, version: Version, *, name: str = "parent") -> str:
        """Return a local path of the version's weights, fetching them, as `name`, if the store is elsewhere."""
        local = self.artifacts.local_path(version.sha256)
        if local is None:
            local = self.out / f"{name}.safetensors"
            self.artifacts.fetch(version.sha256, local)
        return str(local)

    @property
    def roots(self) -> list[str]:
        return [str(root) for root in self.settings.roots]

    def references(self, file: ReferenceFile) -> dict[str, str]:
        """Return path and digest of a model's reference logits, fetching them if the store is elsewhere."""
        local = self.artifacts.local_path(file.sha256)
        if local is None:
            local = self.out / "references.safetensors"
            self.artifacts.fetch(file.sha256, local)
        return {"path": str(local), "sha256": file.sha256}

    def prepared(self, file: PreparedFile) -> dict[str, str]:
        """Return path and digest of what was prepared of a version, fetching it if the store is elsewhere."""
        local = self.artifacts.local_path(file.sha256)
        if local is None:
            local = self.out / f"{file.name}.safetensors"
            self.artifacts.fetch(file.sha256, local)
        return {"path": str(local), "sha256": file.sha256}

    def cache(self, dataset: Dataset) -> str:
        return str((self.settings.data_dir / "cache" / dataset.id).resolve())


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An order and what its publication will need to know; no order means there is nothing left to do.

    ``as_of``: when the positions were read that a trim removes.
    """

    order: dict[str, Any] | None
    parent_id: str | None = None
    forget_keys: list[int] = field(default_factory=list)
    excluded_keys: list[int] = field(default_factory=list)
    situation: Situation | None = None
    rung: Rung | None = None
    as_of: datetime | None = None

    @property
    def rung_name(self) -> str | None:
        """Return the method that is tried, for an erasure."""
        return None if self.rung is None else self.rung.method

    @property
    def tried(self) -> Situation:
        """Return the situation once this order's method was tried."""
        if self.situation is None or self.rung is None or self.rung.method is None:
            raise ValueError("only an erasure climbs a ladder")
        return replace(self.situation, tried=(*self.situation.tried, self.rung.method))


def on_model(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any]:
    """Return what every order says that works with a model and its dataset."""
    model = session.get_one(Model, job.model_id)
    return {
        "kind": job.kind,
        "device": place.settings.device,
        "out": str(place.out),
        "spec": {
            "architecture": model.architecture,
            "options": model.architecture_options,
            "image_shape": dataset.image_shape,
            "num_classes": dataset.num_classes,
            "recipe": model.recipe,
        },
        "dataset": {
            "source": dataset.source,
            "roots": place.roots,
            "digest": dataset.digest,
            "cache": place.cache(dataset),
            "places": reindexing.places(session, dataset),
            "erased": retention.gone_positions(session, dataset.id, days=retention.longest(session, dataset.id)),
        },
    }
