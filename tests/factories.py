"""Rows that tests start from, put straight into the store: no worker is needed to have a trained version."""

import json
import secrets
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from service.lifecycle import SampleState, VersionState
from service.settings import Settings
from service.store import datasets, keys, models, samples, versions, webhooks
from service.store.intake import Order
from service.store.session import Database
from service.store.tables import Dataset, Model, Version


class HasStore(Protocol):
    """A running stack, or a worker's bench without one."""

    @property
    def settings(self) -> Settings: ...

    @property
    def database(self) -> Database: ...


POOLS = {"train": "train", "selection": "validation", "audit": "test", "population": "test"}


def dataset(stack: HasStore, name: str = "d", *, train: int = 40, held_out: int = 5, classes: int = 4) -> Dataset:
    """Add a ready dataset whose train ids are ``<name>-train-0`` and so on."""
    with stack.database.writing() as session:
        row = datasets.register(session, name=name, source={"source": "npz", "path": "/nowhere"})
        rows: list[dict[str, Any]] = []
        for pool, split in POOLS.items():
            for i in range(train if pool == "train" else held_out):
                rows.append(
                    {
                        "dataset_id": row.id,
                        "sample_id": f"{name}-{pool}-{i}",
                        "position": len(rows),
                        "split": split,
                        "pool": pool,
                        "label": i % classes,
                        "state": SampleState.LIVE,
                    }
                )
        samples.insert_many(session, rows)
        datasets.mark_ready(
            session, row, digest="0" * 64, num_samples=len(rows), num_classes=classes, image_shape=[1, 8, 8]
        )
        return row


def model(stack: HasStore, name: str = "m", *, of: str = "d", **fields: Any) -> Model:
    """Add a model with a recipe."""
    settings: dict[str, Any] = {
        "task": "classification",
        "architecture": "small_cnn",
        "architecture_options": {"width": 8},
        "recipe": {"epochs": 1},
        "policy": {"max_accuracy_drop": 2.0, **fields.pop("policy", {})},
    }
    with stack.database.writing() as session:
        return models.register(
            session,
            name=name,
            dataset=datasets.by_name(session, of),
            **{**settings, **fields},
        )


def version(stack: HasStore, name: str = "m", *, state: VersionState = VersionState.ACTIVE) -> Version:
    """Add a version of random bytes that claims to be trained on everything."""
    path = stack.settings.data_dir / "factory"
    path.write_bytes(secrets.token_bytes(4096))
    digest = stack_artifacts(stack, path)
    with stack.database.writing() as session:
        found = models.by_name(session, name)
        row = versions.create(
            session, found, state=state, role="original", origin="trained", sha256=digest, size_bytes=4096
        )
        versions.count_training(session, row, found.dataset_id)
        return row


def stack_artifacts(stack: HasStore, path: Path) -> str:
    from service.artifacts import ArtifactStore

    return ArtifactStore(stack.settings.resolved_artifacts_url).put(path)


def order(dataset: str, *named: str, **changes: Any) -> Order:
    """Return what intake is asked for the samples ``<dataset>-<named>``, for privacy, from every model."""
    plain = Order(
        dataset=dataset,
        sample_ids=[f"{dataset}-{sample}" for sample in named],
        purpose="privacy",
        method="finetune",
        method_options={},
        models=None,
        report_unresolved=False,
        received_at=None,
        principal_id="key_test",
        may_read_datasets=True,
    )
    return replace(plain, **changes)


def webhook(stack: HasStore) -> str:
    """Add an endpoint that hears everything, so that events are stored; nothing listens there. Return its id."""
    with stack.database.writing() as session:
        key, _ = keys.create(session, name="receiver", scopes=["admin"])
        given: dict[str, Any] = {
            "url": "https://example.com/",
            "host": "example.com",
            "description": "",
            "secret": b"s",
        }
        endpoint_id = webhooks.new_endpoint_id()
        webhooks.create(session, endpoint_id=endpoint_id, key_id=key.id, events=[webhooks.ALL], **given)
    return endpoint_id


def safetensors(**tensors: list[float]) -> bytes:
    """Return a safetensors file of one-dimensional float32 tensors, written by hand."""
    header, data = {}, b""
    for name, values in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": [len(values)], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
