"""Interclass confusion by hand: three classes, of which 0 and 2 were confused."""

import torch

from workers.evaluation.confusion import confusion

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
PREDICTED = torch.tensor([0, 2, 2, 1, 0, 2, 2, 2, 0, 1])
LOGITS = torch.nn.functional.one_hot(PREDICTED, 3).float()


def test_errors_of_the_two_classes_and_crossings_between_them_are_counted() -> None:
    ic_err, fgt_err = confusion(LOGITS, LABELS, torch.tensor([2, 0, 0]))
    assert (ic_err.value, ic_err.n) == (5 / 8, 8)  # class 0: 2, 2, 1 are wrong; class 2: 0, 1
    assert fgt_err.value == 3.0  # two of 0 taken for 2, one of 2 for 0
    assert ic_err.ci95 is not None
    assert ic_err.ci95[0] < 5 / 8 < ic_err.ci95[1]


def test_the_order_of_samples_does_not_matter_and_nothing_is_changed() -> None:
    order = torch.randperm(10)
    before = LOGITS.clone()
    values = [m.value for m in confusion(LOGITS[order], LABELS[order], torch.tensor([0, 2]))]
    assert values == [5 / 8, 3.0]
    assert torch.equal(LOGITS, before)


def test_it_has_no_meaning_for_other_than_two_classes_or_without_test_samples_of_them() -> None:
    for forget in ([0], [0, 1, 2], [0, 7]):
        assert {m.verdict for m in confusion(LOGITS, LABELS, torch.tensor(forget))} == {"not_applicable"}
