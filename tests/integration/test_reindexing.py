"""A source taken in again, on both databases: rows keep their identity, erased samples stay erased."""

from typing import Any

import pytest
from sqlalchemy import select

from service.errors import Conflict
from service.lifecycle import JobKind, JobStatus
from service.store import (
    audit,
    datasets,
    fan_out,
    intake,
    jobs,
    reindexing,
    request_outcomes,
    retention,
    samples,
    versions,
)
from service.store.intake import Secrets
from service.store.reindexing import ReindexRefused, SourceRow
from service.store.tables import Dataset, Job, Model, Sample, Version, VersionExclusion
from tests import factories
from workers.bench import Bench
from workers.erasure_orders import NoMethodLeft
from workers.order_parts import Place
from workers.orders import prepare

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")
FACTS = {"digest": "1" * 64, "num_classes": 4, "image_shape": [1, 8, 8]}


def _source(bench: Bench, name: str) -> list[SourceRow]:
    """The rows as they were indexed."""
    with bench.database.reading() as session:
        dataset = datasets.by_name(session, name)
        rows = session.scalars(select(Sample).where(Sample.dataset_id == dataset.id).order_by(Sample.position))
        return [(str(row.sample_id), row.split, row.pool, row.label) for row in rows]


def _new(name: str, count: int) -> list[SourceRow]:
    return [(f"{name}-new-{i}", "train", "train", i % 4) for i in range(count)]


def _apply(bench: Bench, name: str, rows: list[SourceRow], **facts: Any) -> dict[str, Any]:
    with bench.database.writing() as session:
        dataset = datasets.by_name(session, name)
        reindexing.apply(session, dataset, iter(rows), {**FACTS, **facts}, suppression_key=SECRETS.suppression)
        return dict(dataset.reindexed or {})


def _accept(bench: Bench, name: str, *ids: str, **changes: Any) -> Any:
    with bench.database.writing() as session:
        return intake.accept(session, factories.order(name, *ids, **changes), SECRETS)


def _keys(bench: Bench, name: str) -> dict[str, tuple[int, int, str]]:
    with bench.database.reading() as session:
        dataset = datasets.by_name(session, name)
        rows = session.scalars(select(Sample).where(Sample.dataset_id == dataset.id, Sample.sample_id.is_not(None)))
        return {str(row.sample_id): (row.id, row.position, row.state) for row in rows}


def _places(bench: Bench, name: str) -> list[int | None] | None:
    with bench.database.reading() as session:
        return reindexing.places(session, datasets.by_name(session, name))


def test_a_source_that_is_the_same_changes_nothing(bench: Bench) -> None:
    factories.dataset(bench, "same")
    source, before = _source(bench, "same"), _keys(bench, "same")
    assert _places(bench, "same") is None
    counts = _apply(bench, "same", source, digest="0" * 64)
    assert counts == {
        "at": counts["at"],
        "stayed": 55,
        "added": 0,
        "returned": 0,
        "vanished": 0,
        "suppressed_skipped": 0,
    }
    assert _keys(bench, "same") == before
    assert _places(bench, "same") == list(range(55))


def test_what_was_erased_is_skipped_and_never_comes_back(bench: Bench) -> None:
    factories.dataset(bench, "erased")
    source = _source(bench, "erased")
    _accept(bench, "erased", "train-3", "audit-0")
    for _ in range(2):
        counts = _apply(bench, "erased", source)
        assert (counts["stayed"], counts["added"], counts["suppressed_skipped"]) == (53, 0, 2)
        assert not {"erased-train-3", "erased-audit-0"} & set(_keys(bench, "erased"))
    with bench.database.reading() as session:
        dataset = datasets.by_name(session, "erased")
        gone = session.scalars(select(Sample).where(Sample.dataset_id == dataset.id, Sample.sample_id.is_(None))).all()
        assert [(row.state, row.source_row) for row in gone] == [("erased", -1)] * 2
        entry = audit.find(session, actions=["dataset.reindexed"], links={"dataset": "erased"})[-1]
        assert '"suppressed_skipped":2' in entry.payload
        assert "train-3" not in entry.payload
        assert retention.gone_positions(session, dataset.id, days=30) == sorted(row.position for row in gone)
    places = _places(bench, "erased")
    assert places is not None
    assert [places[row.position] for row in gone] == [None, None]


def test_rows_keep_identity_and_place_wherever_the_source_has_them_now(bench: Bench) -> None:
    factories.dataset(bench, "moved")
    source, before = _source(bench, "moved"), _keys(bench, "moved")
    turned = source[::-1]
    added = _new("moved", 3)
    counts = _apply(bench, "moved", [added[0], *turned, *added[1:]])
    assert (counts["stayed"], counts["added"]) == (55, 3)
    after = _keys(bench, "moved")
    assert {name: after[name] for name in before} == before
    assert sorted(after[row[0]][1] for row in added) == [55, 56, 57]
    places = _places(bench, "moved")
    assert places is not None
    whole = [added[0], *turned, *added[1:]]
    assert {name: whole[places[position] or 0][0] for name, (_, position, _) in after.items()} == {n: n for n in after}


def test_no_version_was_trained_on_what_came_later_and_the_next_one_is(bench: Bench) -> None:
    factories.dataset(bench, "later")
    factories.model(bench, "later", of="later")
    version = factories.version(bench, "later")
    _apply(bench, "later", [*_source(bench, "later"), *_new("later", 4)])
    new = [key for name, (key, _, _) in _keys(bench, "later").items() if "-new-" in name]
    with bench.database.writing() as session:
        row = session.get_one(Version, version.id)
        assert versions.trained_on(session, row, new) == []
        found = fan_out.concerned(session, versions.live_of_dataset(session, row_dataset(session, row)), new)
        assert found == []
        job = jobs.create(session, JobKind.TRAIN, dataset_id=row_dataset(session, row), model_id=row.model_id)
        session.flush()
        order = prepare(session, job, _place(bench)).order
        assert order is not None
        assert set(order["train"]) >= {55, 56, 57, 58}
        assert len(order["train"]) == 44
        assert order["dataset"]["places"][55] == 55
        job.status = JobStatus.CANCELLED
    request = _accept(bench, "later", "new-0").request
    assert request.status == "completed", "nothing was trained on it"
    with bench.database.reading() as session:
        assert request_outcomes.of_request(session, request)["erased_not_trained_on"] == 1


def row_dataset(session: Any, version: Version) -> str:
    return str(session.get_one(Model, version.model_id).dataset_id)


def _place(bench: Bench) -> Place:
    return Place(settings=bench.settings, artifacts=bench.artifacts, out=bench.settings.data_dir)


def test_what_a_version_had_to_forget_stays_out_of_training_after_reindexing(bench: Bench) -> None:
    factories.dataset(bench, "bias")
    factories.model(bench, "bias", of="bias")
    version = factories.version(bench, "bias")
    key = _keys(bench, "bias")["bias-train-0"][0]
    with bench.database.writing() as session:
        versions.exclude(session, session.get_one(Version, version.id), [key])
    _apply(bench, "bias", [*_source(bench, "bias"), *_new("bias", 2)])
    with bench.database.writing() as session:
        causes = dict(
            session.execute(
                select(VersionExclusion.sample_id, VersionExclusion.cause).where(
                    VersionExclusion.version_id == version.id
                )
            ).all()
        )
        assert causes.pop(key) == "forgotten"
        assert set(causes.values()) == {"absent"}
        job = jobs.create(
            session, JobKind.TRAIN, dataset_id=datasets.by_name(session, "bias").id, model_id=version.model_id
        )
        order = prepare(session, job, _place(bench)).order
        assert order is not None
        assert 0 not in order["train"]
        assert {55, 56} <= set(order["train"])
        job.status = JobStatus.CANCELLED


def test_vanished_samples_keep_their_row_and_leave_every_pool_until_they_return(bench: Bench) -> None:
    factories.dataset(bench, "away")
    source, before = _source(bench, "away"), _keys(bench, "away")
    left = [row for row in source if row[0] not in ("away-train-0", "away-train-1", "away-audit-0")]
    counts = _apply(bench, "away", left)
    assert (counts["stayed"], counts["vanished"]) == (52, 3)
    with bench.database.reading() as session:
        dataset = datasets.by_name(session, "away")
        assert dataset.num_samples == 52
        assert samples.count_by_split(session, dataset.id)["train"] == 38
        pools = samples.positions(session, dataset.id)
        assert not {before[name][1] for name in ("away-train-0", "away-audit-0")} & {
            p for v in pools.values() for p in v
        }
        listed = samples.page(session, dataset.id, split=None, label=None, after=0, limit=1000)
        assert len(listed) == 52
        assert "away-train-0" in samples.resolve(session, dataset.id, ["away-train-0"]), "it can still be erased"
    assert _apply(bench, "away", left)["vanished"] == 0, "counted once"
    counts = _apply(bench, "away", source)
    assert (counts["stayed"], counts["returned"]) == (52, 3)
    assert _keys(bench, "away") == before


def test_a_vanished_sample_is_forgotten_by_an_exact_method_alone(bench: Bench) -> None:
    factories.dataset(bench, "exact")
    factories.model(bench, "exact", of="exact")
    version = factories.version(bench, "exact")
    left = [row for row in _source(bench, "exact") if row[0] not in ("exact-train-0", "exact-train-1")]
    _apply(bench, "exact", left)
    keys = _keys(bench, "exact")
    mixed = _accept(bench, "exact", "train-0", "train-2", method="auto").jobs[0][0]
    with bench.database.writing() as session:
        found = prepare(session, session.get_one(Job, mixed.id), _place(bench))
        assert found.order is not None
        assert found.order["method"] == "retrain"
        assert found.rung is not None
        assert any("only an exact method" in why for why in found.rung.passed_over.values())
        assert sorted(found.forget_keys) == sorted(keys[f"exact-train-{i}"][0] for i in (0, 2))
        assert keys["exact-train-0"][1] not in found.order["train"], "its image cannot be read"
        assert keys["exact-train-1"][1] not in found.order["train"]
        assert keys["exact-train-1"][0] in found.excluded_keys, "retraining does not see it"
        assert len(found.order["forget_index"]) == 1
        session.get_one(Job, mixed.id).status = JobStatus.CANCELLED
    alone = _accept(bench, "exact", "train-1").jobs[0][0]
    with bench.database.reading() as session, pytest.raises(NoMethodLeft, match="Put them back"):
        prepare(session, session.get_one(Job, alone.id), _place(bench))
    assert version.number == 1


def test_a_vanished_sample_that_is_erased_is_suppressed(bench: Bench) -> None:
    factories.dataset(bench, "both")
    source = _source(bench, "both")
    _apply(bench, "both", source[1:])
    assert _accept(bench, "both", "train-0").request.status == "completed"
    counts = _apply(bench, "both", source)
    assert (counts["returned"], counts["suppressed_skipped"]) == (0, 1)


def _refused(bench: Bench, name: str, rows: list[SourceRow], **facts: Any) -> str:
    before, keys = _source(bench, name), _keys(bench, name)
    with pytest.raises(ReindexRefused) as refusal:
        _apply(bench, name, rows, **facts)
    assert (_source(bench, name), _keys(bench, name)) == (before, keys), "nothing changed"
    assert f"{name}-" not in refusal.value.detail, "no sample is named"
    return refusal.value.code


def test_what_cannot_be_taken_in_changes_nothing_and_says_why(bench: Bench) -> None:
    factories.dataset(bench, "no")
    factories.model(bench, "no", of="no")
    factories.version(bench, "no")
    source = _source(bench, "no")
    assert _refused(bench, "no", source, image_shape=[3, 8, 8]) == "image_shape_changed"
    assert _refused(bench, "no", source, num_classes=5) == "classes_added"
    relabelled = [(source[0][0], "train", "train", 3), *source[1:]]
    assert _refused(bench, "no", relabelled) == "labels_changed"
    _accept(bench, "no", "train-0")
    assert _refused(bench, "no", source[1:]) == "named_samples_vanished"


def test_classes_may_be_added_where_no_model_answers_them(bench: Bench) -> None:
    factories.dataset(bench, "grown")
    _apply(bench, "grown", [*_source(bench, "grown"), ("grown-new-0", "train", "train", 6)], num_classes=7)
    with bench.database.reading() as session:
        assert datasets.by_name(session, "grown").num_classes == 7


def test_no_job_reads_a_dataset_while_it_is_reindexed_nor_the_other_way_round(bench: Bench) -> None:
    factories.dataset(bench, "turn")
    factories.model(bench, "turn", of="turn")
    version = factories.version(bench, "turn")
    with bench.database.writing() as session:
        for job in session.scalars(select(Job).where(Job.status.in_(["queued", "running"]))):
            job.status = JobStatus.CANCELLED
        train = jobs.create(
            session, JobKind.TRAIN, dataset_id=datasets.by_name(session, "turn").id, model_id=version.model_id
        )
    claim = jobs.claim_next(bench.database, owner="a", lease_seconds=60)
    assert claim is not None
    assert claim.job_id == train.id
    with bench.database.writing() as session:
        again = reindexing.ask_for(session, "turn")
        assert reindexing.ask_for(session, "turn").id == again.id, "asked for once"
    assert jobs.claim_next(bench.database, owner="b", lease_seconds=60) is None, "it waits for the training"
    with bench.database.writing() as session:
        jobs.move(session, jobs.hold_lease(session, claim), JobStatus.COMPLETED, "job.completed")
        jobs.create(session, JobKind.TRAIN, dataset_id=again.dataset_id, model_id=version.model_id)
    second = jobs.claim_next(bench.database, owner="b", lease_seconds=60)
    assert second is not None
    assert second.job_id == again.id
    assert jobs.claim_next(bench.database, owner="a", lease_seconds=60) is None, "the training waits for it"


def test_a_dataset_that_was_never_indexed_cannot_be_indexed_again(bench: Bench) -> None:
    with bench.database.writing() as session:
        datasets.register(session, name="fresh", source={"source": "npz", "path": "/nowhere"})
        with pytest.raises(Conflict):
            reindexing.ask_for(session, "fresh")


def test_a_failed_reindexing_leaves_the_dataset_ready(bench: Bench) -> None:
    factories.dataset(bench, "kept")
    with bench.database.writing() as session:
        dataset = datasets.by_name(session, "kept")
        datasets.mark_failed(session, dataset, {"code": "source_file_missing"})
        assert (dataset.state, dataset.error) == ("ready", {"code": "source_file_missing"})
    with bench.database.reading() as session:
        assert session.scalar(select(Dataset.state).where(Dataset.name == "kept")) == "ready"
        assert audit.find(session, actions=["dataset.reindex_failed"], links={"dataset": "kept"})
