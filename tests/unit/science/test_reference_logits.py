"""Reference logits: rows by position, a file that says where it comes from, and rows that are gone once dropped."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from workers.checkpoints import BadCheckpoint
from workers.evaluation.reference_arrays import AuditedSide, reference_arrays
from workers.evaluation.reference_logits import ReferenceLogits
from workers.evaluation.reference_masks import balanced_halves
from workers.reference_files import FORMAT, BadReferences, Origin, load, rewrite_without, save
from workers.reproducibility import generator_for

ORIGIN = Origin(spec_sha256="a" * 64, dataset_sha256="b" * 64, seed=7, way="plain")
MODELS, CLASSES = 4, 3


def _references(positions: list[int], population: list[int]) -> ReferenceLogits:
    generator = generator_for(5)
    labels = torch.zeros(len(positions), dtype=torch.int64)
    return ReferenceLogits(
        logits=torch.randn((MODELS, len(positions), CLASSES), generator=generator),
        in_mask=balanced_halves(labels, MODELS, generator=generator),
        positions=torch.tensor(positions, dtype=torch.int64),
        population=torch.randn((MODELS, len(population), CLASSES), generator=generator),
        population_positions=torch.tensor(population, dtype=torch.int64),
    )


REFERENCES = _references([40, 7, 12, 31, 5], [90, 80, 85])


def _assert_equal(ours: ReferenceLogits, theirs: ReferenceLogits) -> None:
    for name in ("logits", "in_mask", "positions", "population", "population_positions"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def _saved(path: Path) -> str:
    return save(REFERENCES, path, origin=ORIGIN)


def test_rows_come_in_the_order_asked_and_the_missing_are_counted() -> None:
    rows = REFERENCES.rows(torch.tensor([5, 99, 40, 6, 31]))
    assert rows.found.tolist() == [0, 2, 4]
    assert rows.missing == 2
    assert torch.equal(rows.logits, REFERENCES.logits[:, [4, 0, 3]])
    assert torch.equal(rows.in_mask, REFERENCES.in_mask[:, [4, 0, 3]])


def test_population_rows_are_apart_and_nobody_saw_them() -> None:
    rows = REFERENCES.population_rows(torch.tensor([80, 40]))
    assert (rows.found.tolist(), rows.missing) == ([0], 1)
    assert torch.equal(rows.logits, REFERENCES.population[:, [1]])
    assert not rows.in_mask.any()
    assert REFERENCES.rows(torch.tensor([80])).missing == 1


def test_nothing_asked_or_nothing_kept_gives_empty_rows() -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    assert REFERENCES.rows(nothing).logits.shape == (MODELS, 0, CLASSES)
    emptied = REFERENCES.without(torch.cat((REFERENCES.positions, REFERENCES.population_positions)))
    assert emptied.rows(torch.tensor([5, 7])).missing == 2
    assert emptied.logits.shape == (MODELS, 0, CLASSES)


def test_dropping_takes_the_rows_from_either_part_and_leaves_the_others() -> None:
    left = REFERENCES.without(torch.tensor([12, 85, 1000]))
    assert left.positions.tolist() == [40, 7, 31, 5]
    assert left.population_positions.tolist() == [90, 80]
    assert torch.equal(left.logits, REFERENCES.logits[:, [0, 1, 3, 4]])
    assert torch.equal(left.in_mask, REFERENCES.in_mask[:, [0, 1, 3, 4]])
    assert torch.equal(left.population, REFERENCES.population[:, :2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": REFERENCES.logits.half()}, "logits must be"),
        ({"logits": REFERENCES.logits[:, :2]}, "logits must be"),
        ({"in_mask": REFERENCES.in_mask.to(torch.uint8)}, "in_mask must be"),
        ({"in_mask": torch.ones_like(REFERENCES.in_mask)}, "exactly half"),
        ({"positions": torch.tensor([1, 2, 3, 4, 1])}, "comes twice"),
        ({"population_positions": torch.tensor([40, 80, 85])}, "comes twice"),
        ({"population": torch.full_like(REFERENCES.population, torch.nan)}, "not finite"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReferenceLogits(**{**REFERENCES.__dict__, **changed})


def test_what_was_saved_is_loaded_bit_for_bit_with_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "references.safetensors"
    digest = _saved(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    references, origin = load(path, sha256=digest)
    _assert_equal(references, REFERENCES)
    assert origin == ORIGIN


def test_equal_references_give_equal_files(tmp_path: Path) -> None:
    assert _saved(tmp_path / "one") == _saved(tmp_path / "two")


def test_another_digest_is_refused_before_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "references.safetensors"
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(BadReferences, match="SHA-256"):
        load(path, sha256="0" * 64)


def _written(path: Path, **metadata: str) -> str:
    save_file({name: getattr(REFERENCES, name) for name in REFERENCES.__dict__}, path, metadata=metadata or None)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(BadReferences, match="format"):
        load(path, sha256=_written(path))
    with pytest.raises(BadReferences, match="do not fit together"):
        load(path, sha256=_written(path, **{FORMAT: '{"seed": 1}'}))
    few = {"logits": REFERENCES.logits}
    save_file(few, path, metadata={FORMAT: json.dumps(ORIGIN.__dict__)})
    with pytest.raises(BadReferences, match="lacks in_mask"):
        load(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(BadCheckpoint, match="not safetensors"):
        load(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_file_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "references"
    _saved(path)
    tensors = {**load_file(path), "positions": torch.tensor([1, 1, 2, 3, 4])}
    save_file(tensors, path, metadata={FORMAT: json.dumps(ORIGIN.__dict__)})
    with pytest.raises(BadReferences, match="comes twice"):
        load(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("in_place", [True, False])
def test_nothing_of_a_dropped_row_is_left_in_the_new_file(tmp_path: Path, *, in_place: bool) -> None:
    """Every number of a dropped row, searched for byte by byte; and the kept rows are still there."""
    old = tmp_path / "old"
    new = old if in_place else tmp_path / "new"
    digest = _saved(old)
    before = old.read_bytes()
    rewritten = rewrite_without(old, new, torch.tensor([12, 85]), sha256=digest)
    after = new.read_bytes()
    gone = [*REFERENCES.logits[:, 2].flatten().tolist(), *REFERENCES.population[:, 2].flatten().tolist()]
    kept = [*REFERENCES.logits[:, [0, 1, 3, 4]].flatten().tolist(), *REFERENCES.population[:, :2].flatten().tolist()]
    for number in gone:
        assert struct.pack("<f", number) in before
        assert struct.pack("<f", number) not in after
    assert all(struct.pack("<f", number) in after for number in kept)
    for position in (12, 85):
        assert struct.pack("<q", position) in before
        assert struct.pack("<q", position) not in after
    references, origin = load(new, sha256=rewritten)
    _assert_equal(references, REFERENCES.without(torch.tensor([12, 85])))
    assert origin == ORIGIN


def _side(positions: list[int], seed: int) -> AuditedSide:
    generator, count = generator_for(seed), len(positions)
    return AuditedSide(
        logits=torch.randn((count, CLASSES), generator=generator),
        labels=torch.randint(CLASSES, (count,), generator=generator),
        positions=torch.tensor(positions),
    )


def test_attack_arrays_equal_softmax_probabilities_written_out() -> None:
    members, controls, population = _side([7, 99, 5], 1), _side([31, 40], 2), _side([80, 90, 1], 3)
    found = reference_arrays(REFERENCES, members=members, controls=controls, population=population)
    assert found.is_member.tolist() == [True, True, False, False]
    assert found.records.tolist() == [7, 5, 31, 40]
    assert (found.members_without_rows, found.controls_without_rows, found.population_without_rows) == (1, 0, 1)
    audited = [(members, 0), (members, 2), (controls, 0), (controls, 1)]
    for place, (row, (side, index)) in enumerate(zip([1, 4, 3, 0], audited, strict=True)):
        label = int(side.labels[index])
        own = _probability(side.logits[index], label)
        assert found.confidence[place] == pytest.approx(own)
        assert found.phi[place] == pytest.approx(np.log(own / (1 - own)))
        for k in range(MODELS):
            p = _probability(REFERENCES.logits[k, row], label)
            assert found.reference_confidence[k, place] == pytest.approx(p)
            assert found.reference_phi[k, place] == pytest.approx(np.log(p / (1 - p)))
            assert found.seen[k, place] == REFERENCES.in_mask[k, row]
    for place, (row, index) in enumerate([(1, 0), (0, 1)]):
        label = int(population.labels[index])
        assert found.population.target[place] == pytest.approx(_probability(population.logits[index], label))
        for k in range(MODELS):
            expected = _probability(REFERENCES.population[k, row], label)
            assert found.population.reference[k, place] == pytest.approx(expected)


def _probability(logits: torch.Tensor, label: int) -> float:
    powers = np.exp(logits.numpy().astype(np.float64))
    return float(powers[label] / powers.sum())


def test_attack_arrays_of_nothing_known_are_empty() -> None:
    found = reference_arrays(REFERENCES, members=_side([1, 2], 1), controls=_side([3], 2), population=_side([4], 3))
    assert found.phi.shape == (0,)
    assert found.reference_phi.shape == found.seen.shape == (MODELS, 0)
    assert found.population.reference.shape == (MODELS, 0)
    assert (found.members_without_rows, found.controls_without_rows, found.population_without_rows) == (2, 1, 1)
