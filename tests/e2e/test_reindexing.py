"""A source that changed is read again by a real worker: erased samples stay erased, new ones can be trained on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.stack import Stack, running

DIGITS = load_digits()


def _write(path: Path, names: dict[str, int]) -> None:
    """Write an archive whose sample IDs name digits; the order is the mapping's."""
    index = list(names.values())
    np.savez(
        path,
        sample_id=np.array(list(names)),
        image=(DIGITS.images[index] * 16).clip(0, 255).astype(np.uint8),
        label=DIGITS.target[index].astype(np.int64),
        split=np.array(["test" if i % 4 == 0 else "train" for i in index]),
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    source = tmp_path_factory.mktemp("source")
    _write(source / "x.npz", {f"scan-{i}": i for i in range(300)})
    with running(tmp_path_factory.mktemp("reindex"), allowed_roots=str(source)) as found:
        found.register("scans", source="npz", path=str(source / "x.npz"))
        found.train(dataset="scans", epochs=2)
        yield found


def _reindex(stack: Stack) -> Any:
    answer = stack.client.post("/v1/datasets/scans/reindex")
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "indexing"
    return stack.wait("/v1/datasets/scans", lambda dataset: dataset["state"] != "indexing")


def test_a_changed_source_is_taken_in_and_erased_ids_are_not(stack: Stack) -> None:
    path = Path(stack.settings.roots[0]) / "x.npz"
    trained = stack.client.get("/v1/models/m/versions/1").json()["training_samples"]
    erased = stack.ids(5, dataset="scans")
    request = stack.erase(erased, dataset="scans", method_options={"epochs": 1})
    assert stack.completed(request["id"])["status"] == "completed"
    # Erased ones still there, three vanished, the rest turned round, and twenty new ones among them.
    gone = stack.ids(3, dataset="scans", skip=10)
    names = {f"scan-{i}": i for i in range(300) if f"scan-{i}" not in gone} | {f"scan-{i}": i for i in range(400, 420)}
    _write(path, dict(reversed(names.items())))
    dataset = _reindex(stack)
    assert dataset["error"] is None
    counts = {name: value for name, value in dataset["reindexed"].items() if name != "at"}
    assert counts == {"stayed": 292, "added": 20, "returned": 0, "vanished": 3, "suppressed_skipped": 5}
    listed = {item["sample_id"] for item in _all(stack)}
    assert not listed & set(erased + gone)
    assert {f"scan-{i}" for i in range(400, 420)} <= listed
    new = {item["sample_id"] for item in _all(stack) if item["split"] == "train"} & {
        f"scan-{i}" for i in range(400, 420)
    }
    # The next version is trained on what there is now, by each sample's own image.
    stack.client.post("/v1/models/m/versions", json={"train": True}).raise_for_status()
    latest = stack.wait("/v1/models/m/versions/latest", lambda version: version["role"] == "original")
    assert latest["training_samples"] == trained - 5 - 3 + len(new) == dataset["splits"]["train"]
    _check_cache(stack, names)
    # What came later is erased from the version that knows it, and the one before is left alone.
    before = latest["number"]
    request = stack.erase([min(new)], dataset="scans", method_options={"epochs": 1})
    done = stack.completed(request["id"])
    assert done["status"] == "completed", done
    assert stack.client.get(f"/v1/models/m/versions/{before}").json()["state"] in ("retired", "purged")
    assert stack.client.get(f"/v1/models/m/versions/{before - 1}").json()["state"] == "active"
    again = stack.erase(erased, dataset="scans")
    assert again["outcomes"]["already_erased"] == 5


def _all(stack: Stack) -> list[Any]:
    items: list[Any] = []
    cursor = None
    while True:
        page = stack.client.get(
            "/v1/datasets/scans/samples", params={"limit": 100, **({"cursor": cursor} if cursor else {})}
        )
        items += page.json()["items"]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            return items


def _check_cache(stack: Stack, names: dict[str, int]) -> None:
    from sqlalchemy import select

    from service.store.tables import Sample

    folder = next(path for path in (stack.settings.data_dir / "cache").iterdir() if path.is_dir())
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    with stack.database.reading() as session:
        rows = session.execute(select(Sample.sample_id, Sample.position, Sample.state)).all()
    for sample_id, position, state in rows:
        if state == "live":
            expected = (DIGITS.images[names[str(sample_id)]] * 16).clip(0, 255).astype(np.uint8)
            assert (images[position, 0] == expected).all()
            assert labels[position] == DIGITS.target[names[str(sample_id)]]
        else:
            assert not images[position].any(), state


def test_a_source_that_cannot_be_read_leaves_the_dataset_as_it_was(stack: Stack) -> None:
    path = Path(stack.settings.roots[0]) / "x.npz"
    kept = path.read_bytes()
    path.write_bytes(b"no archive")
    dataset = _reindex(stack)
    assert (dataset["state"], dataset["error"]["code"]) == ("ready", "source_unreadable")
    path.write_bytes(kept)
    job = dataset["job"]["id"]
    assert stack.client.post(f"/v1/jobs/{job}/retry").status_code == 202
    assert stack.job(job)["status"] == "completed"
    assert stack.client.get("/v1/datasets/scans").json()["error"] is None


def test_an_unknown_dataset_is_a_404_and_asking_twice_asks_once(stack: Stack) -> None:
    assert stack.client.post("/v1/datasets/nothing/reindex").status_code == 404
    first, second = (stack.client.post("/v1/datasets/scans/reindex").json()["job"] for _ in range(2))
    stack.wait("/v1/datasets/scans", lambda dataset: dataset["state"] != "indexing")
    assert first is not None
    assert second is not None
