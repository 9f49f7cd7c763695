"""Weights that were retired do not come back: not as other bytes of the same tensors, not for another dataset."""

import json
import secrets
import struct
from pathlib import Path

import pytest

from service.app import create_app
from service.auth import Principal
from service.deps import Parts
from service.errors import Conflict
from service.lifecycle import VersionState
from service.routes import versions as routes
from service.store import jobs, models, retirement, versions
from tests import factories
from tests.integration.test_residuals import ask, ledger, publish, states
from workers import publish as publishing
from workers import retirement as purging
from workers.bench import Bench

WHO = Principal(id="key_test", name="test", scopes=frozenset({"admin"}))


@pytest.fixture
def name(bench: Bench) -> str:
    found = f"s{secrets.token_hex(4)}"
    for each in (found, found + "other"):
        factories.dataset(bench, each)
        factories.model(bench, each, of=each)
    factories.model(bench, found + "b", of=found)
    return found


def _weights(seed: str, *, metadata: str | None = None) -> bytes:
    """Return tensors that no other test has; with metadata, the same ones in another file."""
    content = factories.safetensors(w=[float(int(seed[1:5], 16)), float(int(seed[5:9], 16))], b=[1.0])
    if metadata is None:
        return content
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps({"__metadata__": {"note": metadata}, **json.loads(content[8 : 8 + length])}).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _upload(bench: Bench, model: str, content: bytes, *, validate: bool = True) -> int:
    path = bench.settings.data_dir / "upload"
    path.write_bytes(content)
    parts: Parts = create_app(bench.settings).state.parts
    try:
        answer, job_id = routes._keep(model, path, None, parts, WHO)
    finally:
        parts.database.dispose()
    if validate:
        _validate(bench, job_id)
    return answer.number


def _validate(bench: Bench, job_id: str) -> None:
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert claim is not None
    assert claim.job_id == job_id
    with bench.database.writing() as session:
        publishing.validated(session, claim, [])


def _state(bench: Bench, model: str, number: int = 1) -> str:
    with bench.database.reading() as session:
        return versions.get(session, models.by_name(session, model), number).state


def _erase(bench: Bench, name: str, **changes: object) -> str:
    request_id = ask(bench, name, "train-0", **{"models": None, **changes})
    publish(bench, name, request_id)
    return request_id


@pytest.mark.parametrize("purged", [False, True])
@pytest.mark.parametrize("metadata", [None, "saved again"])
@pytest.mark.parametrize("where", ["", "other"])
def test_retired_weights_are_refused_wherever_they_are_uploaded_again(
    bench: Bench, name: str, *, purged: bool, metadata: str | None, where: str
) -> None:
    _upload(bench, name, _weights(name))
    _erase(bench, name)
    if purged:
        purging.purge(bench)
        assert _state(bench, name) == VersionState.PURGED
    with pytest.raises(Conflict) as refusal:
        _upload(bench, name + where, _weights(name, metadata=metadata))
    assert refusal.value.code == "digest_retired"


def test_weights_that_a_worker_trained_are_known_by_their_tensors_too(bench: Bench, name: str) -> None:
    path = bench.settings.data_dir / "trained"
    path.write_bytes(_weights(name))
    digest = bench.artifacts.put(path)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        row = versions.create(session, model, state=VersionState.ACTIVE, role="original", origin="trained",
                              sha256=digest, size_bytes=path.stat().st_size)  # fmt: skip
        versions.count_training(session, row, model.dataset_id)
    _erase(bench, name)
    purging.purge(bench)
    with pytest.raises(Conflict):
        _upload(bench, name, _weights(name, metadata="saved again"))


def test_the_same_weights_under_another_dataset_go_with_them(bench: Bench, name: str) -> None:
    _upload(bench, name, _weights(name))
    _upload(bench, name + "other", _weights(name, metadata="saved again"))
    request_id = _erase(bench, name)
    assert _state(bench, name + "other") == VersionState.RETIRED
    line = ledger(bench, request_id)[f"model/{name}other/version/1"]
    assert (states(line), line.waiting) == (["retired"], True)
    purging.purge(bench)
    assert not ledger(bench, request_id)[f"model/{name}other/version/1"].waiting


def test_the_same_weights_of_another_model_get_a_successor_from_their_own_job(bench: Bench, name: str) -> None:
    _upload(bench, name, _weights(name))
    _upload(bench, name + "b", _weights(name))
    request_id = ask(bench, name, "train-0")
    publish(bench, name, request_id)
    assert (_state(bench, name), _state(bench, name + "b")) == (VersionState.RETIRED, VersionState.ACTIVE)
    publish(bench, name, request_id, model=name + "b")
    assert _state(bench, name + "b") == VersionState.RETIRED


def test_a_request_narrowed_to_a_model_leaves_the_same_weights_of_others_alone(bench: Bench, name: str) -> None:
    _upload(bench, name, _weights(name))
    _upload(bench, name + "b", _weights(name))
    _erase(bench, name, models=[name])
    with bench.database.writing() as session:
        assert retirement.retire_same_weights(session) == 0
    assert _state(bench, name + "b") == VersionState.ACTIVE


def test_weights_that_are_retired_while_they_are_checked_are_rejected(bench: Bench, name: str) -> None:
    _upload(bench, name, _weights(name))
    _upload(bench, name + "other", _weights(name), validate=False)
    with bench.database.writing() as session:
        versions.move(session, versions.get(session, models.by_name(session, name), 1), VersionState.RETIRED)
        version = versions.get(session, models.by_name(session, name + "other"), 1)
    _validate(bench, str(version.job_id))
    assert _state(bench, name + "other") == VersionState.REJECTED


def test_an_upload_declared_free_of_erased_samples_is_retired_if_its_tensors_say_otherwise(
    bench: Bench, name: str, tmp_path: Path
) -> None:
    """As one that slipped in between: nothing refused it, and the next sweep finds it."""
    _upload(bench, name, _weights(name))
    _erase(bench, name)
    path = tmp_path / "again"
    path.write_bytes(_weights(name, metadata="saved again"))
    digest = bench.artifacts.put(path)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        row = versions.create(session, model, state=VersionState.ACTIVE, role="original", origin="uploaded",
                              sha256=digest, size_bytes=path.stat().st_size)  # fmt: skip
        versions.exclude_erased(session, row, model.dataset_id)
    purging.digest_contents(bench)
    with bench.database.writing() as session:
        assert retirement.retire_same_weights(session) == 1
    assert _state(bench, name, row.number) == VersionState.RETIRED
