"""The plots: what they show is what was measured, they are inert and small, and no gap in the data stops them."""

import re
import sys
from dataclasses import replace
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.store.plots import MAX_BYTES
from workers.evaluation.intervals import Floats, auc_delong
from workers.evaluation.plots import PLOTS, Estimate, ModelSeries, PlotData, Relearned, draw
from workers.evaluation.plots.attack_roc import curve

SVG = "{http://www.w3.org/2000/svg}"
TINY = 150_000


def _relearned(rate: float, *, steps: int = 200, seeds: int = 3) -> Relearned:
    losses = tuple(np.exp(-rate * np.arange(steps + 1)) + 0.001 * seed for seed in range(seeds))
    delay = int(np.argmax(losses[0] <= 0.1)) if losses[0].min() <= 0.1 else None
    return Relearned(losses=losses, delays=(delay,) * seeds, reported=delay)


def _series(shift: float, *, n: int = 200, rate: float = 0.05, seed: int = 0) -> ModelSeries:
    rng = np.random.default_rng(seed)
    forget, unseen = rng.normal(3 + shift, 2, n), rng.normal(3, 2, n)
    auc, interval = auc_delong(forget, unseen)
    splits = ("retain", "forget", "unseen", "test")
    return ModelSeries(
        phi_forget=forget,
        phi_unseen=unseen,
        loss_forget=np.logaddexp(0, -forget),
        loss_unseen=np.logaddexp(0, -unseen),
        auc=Estimate(value=auc, ci95=interval),
        accuracy={split: Estimate(value=0.9, ci95=(0.85, 0.93)) for split in splits},
        relearned_forget=_relearned(rate),
        relearned_unseen=_relearned(0.04),
    )


def _data(**changes: ModelSeries) -> PlotData:
    models = {"parent": _series(2), "unlearned": _series(0.2, seed=1), **changes}
    return PlotData(models=models, target_loss=0.1, max_steps=200)


def _with_images(data: PlotData, shape: tuple[int, int, int] = (1, 8, 8)) -> PlotData:
    """Return the data of a model that makes images, of ten classes of which one is gone."""
    rng = np.random.default_rng(0)
    drawn = {label: rng.integers(0, 256, (8, *shape)).astype(np.uint8) for label in range(10)}
    return replace(data, models={name: replace(x, images=drawn) for name, x in data.models.items()}, gone=(3,))


def _words(svg: str) -> str:
    """Return what the plot says: its title, description and every text in it."""
    names = {f"{SVG}{name}" for name in ("title", "desc", "text", "tspan")}
    return "\n".join(node.text or "" for node in ET.fromstring(svg).iter() if node.tag in names)


def _true_positive_rate(members: Floats, controls: Floats, allowed: int) -> float:
    """Return the largest share of members above a threshold that no more than `allowed` controls pass."""
    thresholds = [t for t in [*controls, -np.inf] if sum(c > t for c in controls) <= allowed]
    return max(float(np.mean(members > t)) for t in thresholds)


@pytest.mark.parametrize("seed", range(5))
def test_the_roc_is_the_best_threshold_at_every_number_of_false_alarms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members, controls = rng.normal(1, 1, 17), rng.normal(0, 1, 13)
    allowed = np.arange(len(controls))
    between = (allowed + 0.5) / len(controls)
    expected = [_true_positive_rate(members, controls, int(k)) for k in allowed]
    assert curve(members, controls, between) == pytest.approx(expected)


def test_equal_scores_give_the_diagonal() -> None:
    same = np.full(7, 0.3)
    at = np.array([0.01, 0.25, 1.0])
    assert curve(same, same, at) == pytest.approx(at)


def test_separated_scores_are_found_without_a_false_alarm() -> None:
    assert curve(np.array([2.0, 3.0]), np.array([0.0, 1.0]), np.array([0.01])) == pytest.approx([1.0])


def test_there_are_four_plots_and_each_tells_the_figures_it_shows() -> None:
    plots = draw(_data())
    assert set(plots) == {"attack_roc", "loss_histograms", "relearning_curves", "accuracy_bars"}
    assert set(PLOTS) == {*plots, "sample_grids"}
    parent = _series(2)
    assert f"AUC {parent.auc.value:.3f}" in _words(plots["attack_roc"])
    assert f"median {np.sort(parent.loss_forget)[99]:.2g}" in _words(plots["loss_histograms"])
    assert "forget set: 47 steps" in _words(plots["relearning_curves"])
    assert "90.0" in _words(plots["accuracy_bars"])


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_accessible_and_inert(name: str) -> None:
    whole = _data(retrained=_series(0, seed=2))
    svg = PLOTS[name](_with_images(whole) if name == "sample_grids" else whole)
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert [child.tag for child in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert all(len(child.text or "") > 20 for child in list(root)[:2])
    assert root.get("aria-labelledby") == " ".join(child.get("id", "") for child in list(root)[:2])
    tags = {node.tag for node in root.iter()}
    assert not tags & {f"{SVG}{tag}" for tag in ("script", "image", "a", "foreignObject", "metadata")}
    hrefs = [value for node in root.iter() for key, value in node.attrib.items() if key.endswith("href")]
    assert all(value.startswith("#") for value in hrefs)
    assert not re.search(r"(?i)<!doctype|<\?xml|\bon[a-z]+=|url\((?!#)|matplotlib v", svg)
    assert "retrained" in _words(svg)


def test_images_take_the_place_of_accuracies_and_forgotten_classes_come_first() -> None:
    plots = draw(_with_images(_data()))
    assert set(plots) == {"attack_roc", "loss_histograms", "relearning_curves", "sample_grids"}
    words = _words(plots["sample_grids"])
    assert "Drawn images of classes 3, 0, 1, 2, 4, 5, 6, 7, 8, 9" in words
    assert "3 (forgotten)" in words


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_noise_of_ten_classes_and_three_models_stays_below_what_is_stored(shape: tuple[int, int, int]) -> None:
    data = _with_images(_data(retrained=_series(0, seed=2)), shape=shape)
    assert len(PLOTS["sample_grids"](data).encode()) < MAX_BYTES


def test_a_cell_of_the_grid_has_the_tone_of_its_pixel() -> None:
    black = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    spot = black.copy()
    spot[0, 0, 2, 3] = 255
    one = replace(
        _data(), models={"parent": ModelSeries(images={0: black}), "unlearned": ModelSeries(images={0: spot})}
    )
    tones = re.findall(r"stroke: (#[0-9a-f]{6})", PLOTS["sample_grids"](one))
    assert tones.count("#ffffff") == 1, "the spot is one stroke of its own"
    assert tones.count("#000000") == 2


def test_plots_of_many_samples_and_long_curves_stay_small() -> None:
    long = replace(_series(1, n=50_000), relearned_forget=_relearned(0.0005, steps=5_000))
    plots = draw(_data(parent=long, unlearned=long, retrained=long))
    assert max(len(svg.encode()) for svg in plots.values()) < TINY


def test_equal_data_give_equal_text_and_nothing_global_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before, pyplot = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    first = draw(_data())
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "path")
    assert draw(_data()) == first
    monkeypatch.undo()
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


@pytest.mark.parametrize("name", PLOTS)
def test_without_any_data_a_plot_says_that_nothing_was_measured(name: str) -> None:
    words = _words(PLOTS[name](PlotData(models={})))
    assert "not measured" in words
    assert "retrained" not in words


def test_a_score_that_is_not_a_number_leaves_the_roc_unmeasured() -> None:
    broken = replace(_series(0), phi_forget=np.array([1.0, np.nan]))
    words = _words(PLOTS["attack_roc"](_data(unlearned=broken)))
    assert words.count("not measured") == 2, "once in the description, once in the legend"


def test_infinite_losses_are_drawn_and_counted() -> None:
    wild = replace(_series(0), loss_forget=np.array([0.1, np.inf, np.inf, np.nan]))
    assert "2 infinite; 1 not a number, left out" in _words(PLOTS["loss_histograms"](_data(unlearned=wild)))


def test_a_delay_at_the_cap_is_no_number() -> None:
    censored = replace(_series(0), relearned_forget=_relearned(0.001))
    words = _words(PLOTS["relearning_curves"](_data(unlearned=censored)))
    assert "forget set: not within 200 steps" in words
    assert "forget set: 200 steps" not in words


def test_the_relearning_curves_say_by_what_and_where_a_wrecked_model_shows() -> None:
    data = _data(unlearned=_series(0.0))
    plain = _words(PLOTS["relearning_curves"](data))
    drawn = _words(PLOTS["relearning_curves"](replace(data, relearned_by="SGD", use="see the images drawn")))
    assert ("see the accuracies" in plain, "by SGD" in plain) == (True, False)
    assert ("see the accuracies" in drawn, "see the images drawn" in drawn, "by SGD" in drawn) == (False, True, True)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="original"):
        PlotData(models={"original": ModelSeries()})


NUMBERS = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan, 1e308, 5e-324]))
ARRAYS = st.lists(NUMBERS, max_size=6).map(lambda values: np.array(values, dtype=np.float64))
LOSSES = st.lists(st.one_of(st.floats(min_value=0), st.just(np.nan)), max_size=6).map(
    lambda values: np.array(values, dtype=np.float64)
)
CURVES = st.lists(LOSSES.filter(len), min_size=1, max_size=2).map(
    lambda runs: Relearned(losses=tuple(runs), delays=tuple(0 if run[0] < 1 else None for run in runs), reported=None)
)
SHARES = st.floats(min_value=0, max_value=1)
WILD = st.builds(
    ModelSeries,
    phi_forget=ARRAYS,
    phi_unseen=ARRAYS,
    loss_forget=LOSSES,
    loss_unseen=LOSSES,
    auc=st.builds(Estimate, value=st.none() | SHARES, ci95=st.none() | st.tuples(SHARES, SHARES)),
    accuracy=st.dictionaries(st.sampled_from(["retain", "test"]), st.builds(Estimate, value=st.none() | SHARES)),
    relearned_forget=st.none() | CURVES,
    relearned_unseen=st.none() | CURVES,
)


@settings(max_examples=8, deadline=None)
@given(model=WILD, target=st.none() | st.floats(min_value=0.05, max_value=1e6))
def test_whatever_was_measured_the_plots_are_well_formed_and_finite(model: ModelSeries, target: float | None) -> None:
    for svg in draw(PlotData(models={"unlearned": model}, target_loss=target, max_steps=5)).values():
        ET.fromstring(svg)
        assert not re.search(r'\b(?:d|x|y|transform)="[^"]*\b(?:nan|inf)\b', svg)
