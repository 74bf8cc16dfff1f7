"""A decision against scikit-learn and by hand: nothing is judged by the patches it was fitted on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_curve

from sentinode.config.run import DecisionConfig, RunConfig
from sentinode.errors import RunError
from sentinode.evaluation import metrics
from sentinode.evaluation.calibration import Temperature, fit_isotonic
from sentinode.evaluation.threshold import least_cost
from sentinode.inference.predictions import Predictions
from sentinode.records import plain, write_record
from sentinode.runs.decision import Decision, decide, open_decision
from sentinode.runs.variant import Variant, decide_together
from sentinode.settings import override

GROUPS = 10


def predictions(count: int = 400, seed: int = 0, temperature: float = 2.0) -> Predictions:
    """Labels drawn from true probabilities, half of each group of GROUPS positive, and overconfident probabilities."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) // GROUPS % 2).astype(np.int8)
    logits = np.where(labels == 1, 1.0, -1.0) + rng.normal(0, 1.4, count)
    return Predictions(np.array([f"p{i:04d}" for i in range(count)]), labels, expit(temperature * logits))


def clusters(count: int = 400) -> np.ndarray:
    return np.array([f"s{i % GROUPS}" for i in range(count)])


def made(seed: int = 25, **settings: Any) -> Decision:
    return decide(predictions(), clusters(), DecisionConfig(**settings), seed=seed)


def test_the_operating_points_agree_with_scikit_learn() -> None:
    given, found = predictions(), made()
    false, true, _ = roc_curve(given.labels, given.probabilities, drop_intermediate=False)
    assert list(found.points) == ["youden", "sensitivity", "cost"]
    youden = found.points["youden"]
    assert youden.sensitivity + youden.specificity - 1 == pytest.approx((true - false).max())
    least = found.points["sensitivity"]
    assert least.specificity == pytest.approx(1 - false[true >= 0.95].min())
    cost = found.points["cost"]
    expected = 5 * given.labels.mean() * (1 - true) + (1 - given.labels.mean()) * false
    assert 5 * 0.5 * (1 - cost.sensitivity) + 0.5 * (1 - cost.specificity) == pytest.approx(expected.min())
    for point in found.points.values():
        called = given.probabilities > point.threshold
        assert point.sensitivity == called[given.labels == 1].mean()
        assert point.specificity == (~called)[given.labels == 0].mean()


def test_the_settings_reach_the_rules() -> None:
    found = made(sensitivity=0.8, cost_of_miss=20.0, prevalence=0.02)
    given = predictions()
    assert 0.8 <= found.points["sensitivity"].sensitivity < 0.81
    assert found.points["cost"] == least_cost(given.labels, given.probabilities, 20.0, 0.02)


def test_maps_for_new_patches_are_fitted_on_the_whole_side() -> None:
    given, found = predictions(), made()
    asked = np.linspace(0, 1, 101)
    reference = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(given.probabilities, given.labels)
    assert found.calibrations["isotonic"].apply(asked) == pytest.approx(reference.predict(asked), abs=1e-12)
    fitted = found.calibrations["temperature"]
    assert isinstance(fitted, Temperature)
    losses = [log_loss(given.labels, Temperature(t).apply(given.probabilities)) for t in np.linspace(0.5, 5, 200)]
    assert log_loss(given.labels, fitted.apply(given.probabilities)) <= min(losses) + 1e-9


def test_raw_scores_and_reliability_agree_with_scikit_learn() -> None:
    given, raw = predictions(), made().agreements["raw"]
    assert raw.log_loss == pytest.approx(log_loss(given.labels, given.probabilities))
    assert raw.brier_score == pytest.approx(np.mean((given.probabilities - given.labels) ** 2))
    observed, said = calibration_curve(given.labels, given.probabilities, n_bins=10)
    filled = raw.reliability.count > 0
    assert raw.reliability.observed_share[filled] == pytest.approx(observed)
    assert raw.reliability.mean_probability[filled] == pytest.approx(said)
    assert (raw.reliability.lower[filled] <= observed + 1e-12).all()
    assert (observed <= raw.reliability.upper[filled] + 1e-12).all()


def test_calibration_mends_what_is_overconfident() -> None:
    found = made()
    raw, temperature = found.agreements["raw"], found.agreements["temperature"]
    assert temperature.log_loss < raw.log_loss
    assert temperature.ece < raw.ece
    assert (found.patches, found.clusters) == (400, GROUPS)


def test_calibrated_scores_and_rates_come_from_the_other_groups_by_hand() -> None:
    """Two groups are two folds: each is calibrated, and its threshold chosen, on the other."""
    given, halves = predictions(), np.repeat(["a", "b"], 200)
    found = decide(given, halves, DecisionConfig(), seed=1)
    labels, raw = given.labels, given.probabilities
    calibrated, called = np.empty(400), np.empty(400, bool)
    for own in (slice(0, 200), slice(200, 400)):
        other = slice(200, 400) if own.start == 0 else slice(0, 200)
        calibrated[own] = fit_isotonic(labels[other], raw[other]).apply(raw[own])
        false, true, thresholds = roc_curve(labels[other], raw[other], drop_intermediate=False)
        best = thresholds[np.argmax(true - false)]  # called positive from here on: half-way to the next below is ours
        below = raw[other][raw[other] < best].max()
        called[own] = raw[own] > (best + below) / 2
    assert found.agreements["isotonic"].brier_score == pytest.approx(np.mean((calibrated - labels) ** 2))
    assert found.cross_fitted["youden"].sensitivity == pytest.approx(called[labels == 1].mean())
    assert found.cross_fitted["youden"].specificity == pytest.approx((~called)[labels == 0].mean())


def test_a_groups_own_labels_never_reach_its_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group is half positive, so that turning its labels round leaves the folds as they are."""
    seen: list[np.ndarray] = []
    score = metrics.brier_score
    monkeypatch.setattr(metrics, "brier_score", lambda y, p: seen.append(p) or score(y, p))
    given, inside = predictions(), clusters() == "s3"
    turned = Predictions(
        given.ids, np.where(inside, 1 - given.labels, given.labels).astype(np.int8), given.probabilities
    )
    for each in (given, turned):
        decide(each, clusters(), DecisionConfig(), seed=25)
    for before, after in zip(seen[:3], seen[3:], strict=True):  # raw, temperature, isotonic
        assert (before[inside] == after[inside]).all()
    assert (seen[1] != seen[4]).any()  # yet the labels did reach the other groups
    assert (seen[2] != seen[5]).any()


def test_what_one_class_cannot_give_is_absent_with_its_reason() -> None:
    given = predictions()
    negative = Predictions(given.ids, np.zeros(400, np.int8), given.probabilities)
    found = decide(negative, clusters(), DecisionConfig(), seed=25)
    assert not found.calibrations
    assert not found.points
    assert not found.cross_fitted
    assert list(found.agreements) == ["raw"]
    assert "only the class 0" in found.not_fitted


@pytest.mark.parametrize("names", ["one", "of one class each"])
def test_what_dependent_patches_cannot_give_is_absent_with_its_reason(names: str) -> None:
    given = predictions()
    groups = np.full(400, "one") if names == "one" else np.where(given.labels == 1, "a", "b")
    found = decide(given, groups, DecisionConfig(), seed=25)
    assert list(found.points) == ["youden", "sensitivity", "cost"]
    assert list(found.agreements) == ["raw"]
    assert not found.cross_fitted
    assert not found.not_fitted
    assert found.not_cross_fitted


def test_a_nameless_patch_stands_alone() -> None:
    found = decide(predictions(), np.full(400, ""), DecisionConfig(), seed=25)
    assert found.clusters == 400
    assert list(found.agreements) == ["raw", "temperature", "isotonic"]


def as_text(found: Decision) -> str:
    return json.dumps(plain(found))  # in which NaN equals NaN


def test_it_survives_strict_json_and_follows_its_seed(tmp_path: Path) -> None:
    write_record(tmp_path / "decision.json", made())
    again = open_decision(tmp_path)
    assert as_text(again) == as_text(made())
    assert again.agreements["raw"].reliability.count.dtype.kind == "i"
    assert as_text(made(seed=26)) != as_text(made())


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is missing"):
        open_decision(tmp_path)
    for content in ("{", "[]", '{"patches": 3}'):
        (tmp_path / "decision.json").write_text(content)
        with pytest.raises(RunError, match=r"decision\.json: is not a record of this version"):
            open_decision(tmp_path)


@dataclass
class FakeRun:
    """As much of a run as a decision asks for."""

    predictions: Predictions
    seed: int
    config: RunConfig = field(default_factory=RunConfig)

    @property
    def clusters_by_id(self) -> dict[str, str]:
        return dict(zip(self.predictions.ids.tolist(), clusters().tolist(), strict=False))


def test_several_runs_decide_on_their_mean() -> None:
    config = override(RunConfig(), {"decision.sensitivity": 0.9, "fit.seed": 7})
    one, two = predictions(seed=1), predictions(seed=2)
    variant = Variant("v", {}, (FakeRun(one, 7, config), FakeRun(two, 8, config)))
    mean = Predictions(one.ids, one.labels, (one.probabilities + two.probabilities) / 2)
    expected = decide(mean, clusters(), config.decision, seed=7)
    assert as_text(decide_together(variant)) == as_text(expected)


def test_folds_decide_on_all_their_patches() -> None:
    whole = predictions()
    cluster_of = dict(zip(whole.ids.tolist(), clusters().tolist(), strict=True))

    class Fold(FakeRun):
        @property
        def clusters_by_id(self) -> dict[str, str]:
            return cluster_of

    parts = [Predictions(whole.ids[k::2], whole.labels[k::2], whole.probabilities[k::2]) for k in (0, 1)]
    variant = Variant("v", {}, tuple(Fold(part, 25) for part in parts))
    assert as_text(decide_together(variant)) == as_text(decide(whole, clusters(), DecisionConfig(), seed=25))
