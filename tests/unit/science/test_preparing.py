"""What is prepared of a model is what a method would have made of it itself."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from service.catalogue.methods import METHODS, BadTeacherConfig, ScrubConfig
from service.catalogue.preparations import PREPARATIONS, OnDemand, PreparationName
from tests.method_cases import DoubleTask, around, net, splits
from workers.classification import Classification
from workers.preparing import prepare
from workers.unlearning import METHODS as RUNNERS
from workers.unlearning.importance import SCORES, diagonal_importance
from workers.unlearning.interface import UnlearningError
from workers.unlearning.teacher import teacher_logits

CASES = {"scrub": ScrubConfig(epochs=2, msteps=1), "bad_teacher": BadTeacherConfig()}


def test_the_catalogue_names_what_can_be_made_and_methods_use_nothing_else() -> None:
    assert set(PREPARATIONS) == set(get_args(PreparationName))
    assert {each.id for each in PREPARATIONS.values() if each.on_demand} == set(get_args(OnDemand))
    assert {name for spec in METHODS.values() for name in spec.uses} <= set(PREPARATIONS)
    instead = {name: spec.instead_of_retain for name, spec in METHODS.items() if spec.instead_of_retain}
    assert all(found in METHODS[name].uses for name, found in instead.items())


@pytest.mark.parametrize("score", ["loss", "output"])
def test_a_prepared_importance_is_the_importance_over_all_the_model_was_trained_on(score: str) -> None:
    parent, train = net().float(), splits().train
    told: list[tuple[str, int, int]] = []
    (made,) = prepare(
        parent, train, [f"importance_{score}"], task=Classification(), progress=lambda *each: told.append(each)
    )
    expected = diagonal_importance(parent, train, Classification(), score=SCORES[score])
    assert all(torch.equal(made.tensors[name], expected[name]) for name in expected)
    assert made.samples == len(train)
    assert told[-1] == (f"importance_{score}", len(train), len(train))


@pytest.mark.parametrize("method", CASES)
def test_prepared_logits_give_the_same_model_as_those_a_method_makes_itself(method: str) -> None:
    cut, parent = splits(), net()
    logits = DoubleTask().predict(parent, cut.train)
    ready = replace(around(), prepared={"teacher_logits": {"logits": logits}})
    models = [RUNNERS[method](parent, cut, CASES[method], around=each).model for each in (around(), ready)]
    for name, value in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], value)


def test_prepared_logits_are_read_in_place_of_the_model() -> None:
    cut = splits()
    planted = torch.arange(len(cut.train), dtype=torch.float64)[:, None]
    ready = replace(around(), prepared={"teacher_logits": {"logits": planted}})
    retain, forget = teacher_logits(net(), cut, ready)
    assert retain.squeeze(1).tolist() == cut.retain_index.tolist()
    assert forget.squeeze(1).tolist() == cut.forget_index.tolist()


def test_logits_prepared_for_other_samples_are_refused() -> None:
    ready = replace(around(), prepared={"teacher_logits": {"logits": torch.zeros(3, 2)}})
    with pytest.raises(UnlearningError, match="other samples"):
        teacher_logits(net(), splits(), ready)
