"""Models that draw images, as a client meets them: registered, asked for, and refused before any work, with reasons."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from service.catalogue.architectures import ARCHITECTURES
from service.catalogue.methods import METHODS
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task
from service.store import datasets, models
from service.store.tables import AuditEntry, DeletionRequest, Job, Model
from tests import factories
from tests.stack import Stack, running

WEIGHTS = "application/vnd.safetensors"
SMALL: dict[str, Any] = {"architecture": "ddpm_unet_small", "architecture_options": {"width": 8}}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Serve a dataset of 4 classes with a classifier `c`, a generation model `g` and `u`, which is told no class."""
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    with running(tmp_path_factory.mktemp("generation"), worker=False, database_url=url) as found:
        factories.dataset(found)
        factories.model(found, "c")
        factories.model(found, "g", task="generation", **SMALL)
        factories.dataset(found, "plain")
        unconditional = {"width": 8, "class_condition": False}
        factories.model(found, "u", of="plain", task="generation", **{**SMALL, "architecture_options": unconditional})
        for name in ("c", "g", "u"):
            factories.version(found, name)
        yield found


def _stored(stack: Stack) -> list[int | None]:
    with stack.database.reading() as session:
        tables = (DeletionRequest, Job, Model, AuditEntry)
        return [session.scalar(select(func.count()).select_from(table)) for table in tables]


def _faults(answer: httpx.Response) -> dict[str, dict[str, Any]]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return {fault["pointer"]: fault for fault in answer.json()["errors"]}


def _ask(stack: Stack, *named: str, of: str = "d", preview: bool = False, **body: Any) -> httpx.Response:
    url = "/v1/deletion-requests" + ("/preview" if preview else "")
    return stack.client.post(url, json={"dataset": of, "sample_ids": [f"{of}-{each}" for each in named], **body})


def _register(stack: Stack, name: str, **body: Any) -> httpx.Response:
    return stack.client.post("/v1/models", json={"name": name, "dataset": "d", **SMALL, **body})


@pytest.mark.parametrize("said", [{"task": "generation"}, {}])
def test_a_model_has_its_architectures_task_and_what_a_recipe_leaves_out_fits_it(
    stack: Stack, said: dict[str, str]
) -> None:
    name = f"fits-{len(said)}"
    answer = _register(stack, name, recipe={"epochs": 3}, **said)
    assert answer.status_code == 201, answer.text
    found = stack.client.get(f"/v1/models/{name}").json()
    assert found == answer.json()
    assert found["task"] == "generation"
    asked = {**Recipe().model_dump(mode="json"), **ARCHITECTURES["ddpm_unet_small"].recipe, "epochs": 3}
    assert found["recipe"] == asked
    assert (asked["optimizer"], asked["weight_decay"]) == ("adam", 0.0)


def test_what_a_recipe_says_stands_and_a_classifiers_defaults_are_what_they_were(stack: Stack) -> None:
    told = {"optimizer": "sgd", "lr": 0.1}
    assert _register(stack, "told", recipe=told).json()["recipe"].items() >= told.items()
    plain = _register(stack, "plain-c", architecture="small_cnn", recipe={}).json()
    assert (plain["task"], plain["recipe"]) == ("classification", Recipe().model_dump(mode="json"))


def test_a_version_says_what_its_model_is_for(stack: Stack) -> None:
    for name, task in (("c", "classification"), ("g", "generation")):
        assert stack.client.get(f"/v1/models/{name}/versions/1").json()["task"] == task


def test_every_fault_of_a_registration_is_listed_with_what_to_do(stack: Stack) -> None:
    before = _stored(stack)
    policy = {
        "ladder": ["ieu", "mu_mis", "retrain"],
        "gate": {
            "privacy": [{"metric": "mia_threshold.phi.auc", "within": "by_size"}],
            "confusion": [{"metric": "ic_err", "at_most": 0.5, "of": "parent", "on": "value"}],
        },
        "prepare": ["importance_loss", "teacher_logits"],
        "prepare_audit": True,
    }
    recipe = {"sisa": {"shards": 2, "slices": 2}}
    answer = _register(
        stack, "all", task="classification", architecture_options={"attention_levels": [2]}, recipe=recipe
    )
    assert set(_faults(answer)) == {"/architecture_options/attention_levels", "/task", "/recipe/sisa"}
    found = _faults(_register(stack, "all", task="generation", recipe=recipe, policy=policy))
    assert set(found) == {
        "/recipe/sisa",
        "/policy/ladder/1",
        "/policy/gate/privacy/0/metric",
        "/policy/gate/confusion",
        "/policy/prepare/1",
        "/policy/prepare_audit",
    }
    assert METHODS["mu_mis"].not_for[Task.GENERATION] in found["/policy/ladder/1"]["detail"]
    assert "neggrad_plus" in found["/policy/ladder/1"]["detail"]
    assert "mia_threshold.loss.auc" in found["/policy/gate/privacy/0/metric"]["detail"]
    assert _stored(stack) == before


@pytest.mark.parametrize(
    ("architecture", "side", "code"),
    [
        ("ddpm_unet_small", (32, 32), "image_size_not_taken"),
        ("ddpm_unet_small", (28, 27), "image_size_not_taken"),
        ("ddpm_unet_small", (7, 7), "image_size_not_taken"),
        ("ddpm_unet", (28, 28), "image_size_not_taken"),
        ("ddpm_unet_small", (28, 28), None),
        ("ddpm_unet", (32, 32), None),
    ],
)
def test_a_dataset_of_another_image_size_is_refused(
    stack: Stack, architecture: str, side: tuple[int, int], code: str | None
) -> None:
    name = f"img{side[0]}x{side[1]}"
    if stack.client.get(f"/v1/datasets/{name}").status_code == 404:
        factories.dataset(stack, name)
        with stack.database.writing() as session:
            datasets.by_name(session, name).image_shape = [3, *side]
    answer = _register(stack, f"{name}-{architecture}", dataset=name, architecture=architecture)
    if code is None:
        assert answer.status_code == 201, answer.text
        return
    fault = _faults(answer)["/architecture"]
    assert (fault["code"], fault["value"]) == (code, f"{side[0]}x{side[1]}")
    assert "8x8 and 28x28" in fault["detail"]
    assert "32x32" in fault["detail"]


@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({"architecture_options": {"class_condition": "perhaps"}}, {"/architecture_options/class_condition"}),
        ({"architecture_options": {"width": 12, "ema_decay": 1.0}}, {"width", "ema_decay"}),
        ({"architecture_options": {"width_factors": [], "condition": 11}}, {"width_factors", "condition"}),
        ({"architecture_options": {"width_factors": [1, 0]}}, {"width_factors/1"}),
        ({"task": "painting", "recipe": {"epochs": 0, "lr": -1}}, {"/task", "/recipe/epochs", "/recipe/lr"}),
        ({"task": "classification", "recipe": {"sisa": {"shards": 2, "slices": 2}},
          "policy": {"ladder": ["ieu", "mu_mis"], "prepare_audit": True}},
         {"/task", "/recipe/sisa", "/policy/ladder/1", "/policy/prepare_audit"}),
        ({"architecture": "ddpm_unet", "architecture_options": {"width": 8, "bogus": 1}, "recipe": {"epochs": 0}},
         {"/architecture", "bogus", "/recipe/epochs"}),
        ({"dataset": "nothing", "architecture_options": {"width": 7, "attention_levels": [4]}, "recipe": {"lr": 0},
          "policy": {"max_accuracy_drop": -1, "prepare_audit": True}, "task": "classification"},
         {"/dataset", "width", "attention_levels", "/recipe/lr", "/policy/max_accuracy_drop", "/policy/prepare_audit",
          "/task"}),
        ({"recipe": {"epochs": 0, "sisa": {"shards": 0, "slices": 2}},
          "policy": {"ladder": ["nothing", 3, "mu_mis"], "prepare": [{}, "teacher_logits"],
                     "gate": {"privacy": [7, {"metric": "nothing"}, {"metric": "u_lira.auc"}], "other": []}}},
         {"/recipe/epochs", "/recipe/sisa/shards", "/recipe/sisa", "/policy/ladder/1", "/policy/ladder/2",
          "/policy/prepare/0", "/policy/prepare/1", "/policy/gate/privacy/0", "/policy/gate/privacy/1",
          "/policy/gate/privacy/2", "/policy/gate/privacy/2/metric", "/policy/gate/other/[key]"}),
        ({"architecture_options": {"class_condition": False, "width": 7}, "policy": {"ladder": ["salun"]}},
         {"width", "/policy/ladder/0"}),
        ({"architecture": "ddpm", "policy": {"prepare_audit": True, "ladder": ["delete"]}}, {"/architecture"}),
        ({"architecture_options": {"width_factors": [1, 2, 9], "attention_levels": [2]}}, {"width_factors/2"}),
        ({"architecture": "ddpm", "recipe": {"sisa": {"shards": 2, "slices": 2}}, "task": "generation",
          "policy": {"ladder": ["delete"], "prepare_audit": True}},
         {"/architecture", "/recipe/sisa", "/policy/ladder/0", "/policy/prepare_audit"}),
        ({"dataset": "nothing", "architecture_options": {"class_condition": False}, "policy": {"ladder": ["salun"]}},
         {"/dataset", "/policy/ladder/0"}),
    ],
)  # fmt: skip
def test_what_no_denoiser_can_be_is_refused_with_all_its_faults(
    stack: Stack, change: dict[str, Any], pointers: set[str]
) -> None:
    before = _stored(stack)
    found = _faults(_register(stack, "never", **change))
    assert set(found) == {p if p.startswith("/") else f"/architecture_options/{p}" for p in pointers}
    assert all(fault["detail"] for fault in found.values())
    assert _stored(stack) == before


def test_options_without_meaning_for_the_method_are_refused_with_the_other_faults(stack: Stack) -> None:
    before = _stored(stack)
    options = {"epochs": 0, "condition": 12}
    answer = _ask(stack, "train-0", "nobody", method="salun", method_options=options, models=["g"])
    assert set(_faults(answer)) == {"/sample_ids/1", "/method_options/epochs", "/method_options/condition"}
    assert _stored(stack) == before


def test_more_levels_than_the_image_has_room_for_are_refused(stack: Stack) -> None:
    found = _faults(_register(stack, "deep", architecture_options={"width_factors": [1, 2, 2]}))
    assert found["/architecture_options"]["code"] == "image_too_small"
    unknown = {"width_factors": [1, 2, 2], "bogus": 1}
    assert set(_faults(_register(stack, "deep", architecture_options=unknown))) == {
        "/architecture_options", "/architecture_options/bogus",
    }  # fmt: skip


def test_a_policy_is_held_to_the_models_task_when_it_is_replaced(stack: Stack) -> None:
    found = _faults(stack.client.put("/v1/models/g/policy", json={"ladder": ["delete"], "prepare_audit": True}))
    assert set(found) == {"/ladder/0", "/prepare_audit"}
    unread = {"ladder": ["delete"], "max_accuracy_drop": "much", "other": 1}
    found = _faults(stack.client.put("/v1/models/g/policy", json=unread))
    assert set(found) == {"/ladder/0", "/max_accuracy_drop", "/other"}
    loss = {"metric": "mia_threshold.loss.auc", "within": 0.1}
    assert stack.client.put("/v1/models/g/policy", json={"gate": {"privacy": [loss]}}).status_code == 200
    assert stack.client.put("/v1/models/g/policy", json={"gate": {"bias": []}}).status_code == 200
    assert stack.client.put("/v1/models/g/policy", json={}).status_code == 200


def test_what_nobody_could_use_is_not_prepared(stack: Stack) -> None:
    before = _stored(stack)
    refused = stack.client.post("/v1/models/g/prepare-audit")
    assert (refused.status_code, refused.json()["code"]) == (409, "no_references_for_task")
    body = {"prepare": ["importance_output", "importance_loss", "teacher_logits"]}
    found = _faults(stack.client.post("/v1/models/g/versions/1/prepare", json=body))
    assert set(found) == {"/prepare/0", "/prepare/2"}
    assert _stored(stack) == before


@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("method", sorted(name for name, spec in METHODS.items() if Task.GENERATION not in spec.tasks))
def test_a_method_that_one_of_the_models_refuses_is_refused_naming_the_model_the_reason_and_what_to_do(
    stack: Stack, method: str, *, preview: bool
) -> None:
    before = _stored(stack)[:3]
    answer = _ask(stack, "train-0", method=method, preview=preview)
    faults = answer.json()["faults"] if preview else list(_faults(answer).values())
    (fault,) = [each for each in faults if each["code"] == "method_not_for_task"]
    assert (fault["pointer"], fault["value"]) == ("/method", method)
    for told in ("'g'", METHODS[method].not_for[Task.GENERATION], "`auto`", "`models`", "neggrad_plus, noise_finetune"):
        assert told in fault["detail"]
    assert "'c'" not in fault["detail"]
    assert _stored(stack)[:3] == before


@pytest.mark.parametrize("purpose", ["bias", "confusion"])
@pytest.mark.parametrize("method", ["auto", "finetune"])
def test_a_purpose_without_meaning_is_refused_once_and_told_by_the_preview_too(
    stack: Stack, purpose: str, method: str
) -> None:
    before = _stored(stack)[:3]
    body: dict[str, Any] = {"purpose": purpose, "method": method}
    found = _faults(_ask(stack, "train-0", **body))
    assert set(found) == {"/purpose"}
    assert found["/purpose"]["code"] == "purpose_not_for_task"
    assert "'g'" in found["/purpose"]["detail"]
    previewed = _ask(stack, "train-0", **body, preview=True).json()
    assert (previewed["acceptable"], previewed["faults"]) == (False, list(found.values()))
    assert _stored(stack)[:3] == before


def test_faults_of_ids_purpose_and_method_come_together(stack: Stack) -> None:
    before = _stored(stack)
    answer = _ask(stack, "train-0", "nobody", purpose="bias", method="mu_mis", models=["g", "nothing"])
    assert set(_faults(answer)) == {"/sample_ids/1", "/purpose", "/method", "/models/1"}
    assert _stored(stack) == before


def test_models_that_are_told_no_class_can_forget_samples_but_no_class(stack: Stack) -> None:
    whole = [f"train-{i}" for i in range(0, 40, 4)]
    before = _stored(stack)
    for method in ("auto", "finetune"):
        found = _faults(_ask(stack, *whole, "train-1", of="plain", method=method))
        fault = found["/sample_ids"]
        assert (fault["code"], fault["value"]) == ("model_without_class_condition", 1)
        assert "'u'" in fault["detail"]
    assert _stored(stack) == before
    assert _ask(stack, *whole[1:], of="plain", preview=True).json()["acceptable"] is True
    assert _ask(stack, *whole, preview=True).json()["acceptable"] is True


TEACHING = ["random_label", "salun"]


@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("method", TEACHING)
def test_what_teaches_another_class_is_refused_where_no_class_is_told(
    stack: Stack, method: str, *, preview: bool
) -> None:
    before = _stored(stack)[:3]
    answer = _ask(stack, "train-1", of="plain", method=method, preview=preview)
    (fault,) = answer.json()["faults"] if preview else list(_faults(answer).values())
    assert (fault["pointer"], fault["code"], fault["value"]) == ("/method", "method_needs_not_met", method)
    for told in ("'u'", "told no class", "ieu, neggrad_plus"):
        assert told in fault["detail"]
    assert not [each for each in TEACHING if each in fault["detail"].split("Ask for")[1]]
    assert _stored(stack)[:3] == before


def test_both_faults_come_together_where_such_a_method_is_asked_to_forget_a_class(stack: Stack) -> None:
    whole = [f"train-{i}" for i in range(0, 40, 4)]
    assert set(_faults(_ask(stack, *whole, of="plain", method="salun"))) == {"/sample_ids", "/method"}


def test_a_ladder_of_a_model_that_is_told_no_class_names_no_method_that_teaches_another(stack: Stack) -> None:
    ladder = {"ladder": ["random_label", "ieu", "salun", "retrain"]}
    told_none = {"width": 8, "class_condition": False}
    before = _stored(stack)
    found = _faults(_register(stack, "none-told", architecture_options=told_none, policy=ladder))
    assert set(found) == {"/policy/ladder/0", "/policy/ladder/2"}
    assert "told no class" in found["/policy/ladder/0"]["detail"]
    assert set(_faults(stack.client.put("/v1/models/u/policy", json=ladder))) == {"/ladder/0", "/ladder/2"}
    assert _stored(stack) == before
    assert stack.client.put("/v1/models/g/policy", json=ladder).status_code == 200
    assert stack.client.put("/v1/models/g/policy", json={}).status_code == 200


def test_no_bound_is_taken_on_images_of_a_forgotten_class_where_no_class_is_told(stack: Stack) -> None:
    drawn = {"metric": "generation_accuracy", "split": "forget", "at_most": 0.05, "on": "value"}
    rise = {"metric": "loss_rise", "split": "test", "at_most": 0.1, "on": "value"}
    policy = {"gate": {"privacy": [rise, drawn]}}
    told_none = {"width": 8, "class_condition": False}
    found = _faults(_register(stack, "none-told", architecture_options=told_none, policy=policy))
    assert set(found) == {"/policy/gate/privacy/1/metric"}
    assert "told no class" in found["/policy/gate/privacy/1/metric"]["detail"]
    assert set(_faults(stack.client.put("/v1/models/u/policy", json=policy))) == {"/gate/privacy/1/metric"}
    assert stack.client.put("/v1/models/g/policy", json=policy).status_code == 200
    assert stack.client.put("/v1/models/g/policy", json={}).status_code == 200


def test_one_request_gives_each_model_a_ladder_and_a_bar_of_its_task(stack: Stack) -> None:
    previewed = {each["model"]: each for each in _ask(stack, "train-2", preview=True).json()["models"]}
    tried = {name: [each["method"] for each in model["methods"]] for name, model in previewed.items()}
    assert tried["g"] == ["random_label", "neggrad_plus", "retrain"]
    assert tried["c"][0] == "sisa"
    accepted = _ask(stack, "train-2")
    assert accepted.status_code == 202, accepted.text
    with stack.database.reading() as session:
        for each in accepted.json()["jobs"]:
            policy = session.get_one(Job, each["id"]).policy or {}
            assert set(policy["ladders"]["subset"]["methods"]) == set(tried[each["model"]])
            task = models.by_name(session, each["model"]).task
            named = {name for ladder in policy["ladders"].values() for name in ladder["methods"]}
            assert all(task in METHODS[name].tasks for name in named)
    # one that has a meaning for all is taken for all, and a class may be named where models are told it
    whole = [f"train-{i}" for i in range(1, 40, 4)]
    assert _ask(stack, *whole, method="ieu").status_code == 202
    only = _ask(stack, "train-3", method="mu_mis", models=["c"])
    assert (only.status_code, only.json()["scope"]) == (202, "partial")


def test_the_networks_are_listed_with_their_task_sizes_options_and_recipe(stack: Stack) -> None:
    found = {each["id"]: each for each in stack.client.get("/v1/architectures").raise_for_status().json()["items"]}
    assert found.keys() == ARCHITECTURES.keys()
    small, plain = found["ddpm_unet_small"], found["small_cnn"]
    assert (small["task"], small["image_sizes"], small["recipe"]["optimizer"]) == ("generation", [8, 28], "adam")
    assert "class_condition" in small["options"]["properties"]
    assert (plain["task"], plain["image_sizes"], plain["min_image_size"]) == ("classification", None, 8)
    assert plain["recipe"] == Recipe().model_dump(mode="json")


def test_the_catalogue_says_what_each_method_and_metric_is_for_and_why_not(stack: Stack) -> None:
    listed = stack.client.get("/v1/methods").json()
    for each in listed["items"]:
        assert each["tasks"] == sorted(METHODS[each["id"]].tasks)
        assert set(each["not_for"]) == set(Task) - set(each["tasks"])
    orders = {(each["task"], each["purpose"], each["scenario"]): each["methods"] for each in listed["ladders"]}
    assert orders["generation", "privacy", "subset"] == ["random_label", "neggrad_plus", "retrain"]
    told = {each["id"] for each in listed["items"] if each["needs_class_condition"]}
    assert told == set(TEACHING)
    assert all(each["tasks"] for each in stack.client.get("/v1/metrics").json()["items"])


@pytest.mark.parametrize(
    ("tensors", "missing"),
    [
        (["net.v", "net.w"], {"ema.v", "ema.w", "ema_updates"}),
        (["net.v", "net.w", "ema.v"], {"ema.w", "ema_updates"}),
        (["net.v", "net.w", "ema.v", "ema.w"], {"ema_updates"}),
    ],
)
def test_weights_without_all_of_their_average_are_refused_before_they_are_stored(
    stack: Stack, tensors: list[str], missing: set[str]
) -> None:
    before = stack.client.get("/v1/models/g/versions").json()["items"], _stored(stack)
    body = factories.safetensors(**{name: [1.0, 2.0] for name in tensors})
    answer = stack.client.post("/v1/models/g/versions", content=body, headers={"Content-Type": WEIGHTS})
    assert (answer.status_code, answer.json()["code"]) == (422, "average_missing")
    assert "ema_updates" in answer.json()["detail"]
    assert {(each["code"], each["value"]) for each in answer.json()["errors"]} == {
        ("tensor_missing", name) for name in missing
    }
    assert (stack.client.get("/v1/models/g/versions").json()["items"], _stored(stack)) == before
