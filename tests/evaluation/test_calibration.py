"""Calibration against scikit-learn and known temperatures; nobody is calibrated by their own group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression

from sentinode.errors import DataError, RunError, SplitError
from sentinode.evaluation import calibration
from sentinode.evaluation.calibration import (
    Isotonic,
    Method,
    Temperature,
    cross_calibrate,
    cross_folds,
    fit_isotonic,
    fit_temperature,
    reliability,
)
from sentinode.evaluation.metrics import auc, log_loss
from sentinode.records import read_record, write_record


def by_groups(
    labels: np.ndarray, p: np.ndarray, groups: np.ndarray, method: Method, rng: np.random.Generator
) -> np.ndarray:
    return cross_calibrate(labels, p, cross_folds(labels, groups, folds=5, rng=rng), method)


def example(count: int, seed: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from true probabilities, and those probabilities with their logits times the temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    return (rng.random(count) < expit(logits)).astype(np.int8), expit(logits * temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    labels, p = example(40_000, 1, temperature)
    fitted = fit_temperature(labels, p)
    assert fitted.temperature == pytest.approx(temperature, rel=0.03)
    assert fitted.apply(p) == pytest.approx(expit(logit(p) / fitted.temperature))


def test_the_temperature_has_the_least_log_loss() -> None:
    labels, p = example(300, 2, 2.5)
    fitted = fit_temperature(labels, p)
    losses = [log_loss(labels, Temperature(t).apply(p)) for t in np.geomspace(0.05, 20, 2000).tolist()]
    assert log_loss(labels, fitted.apply(p)) <= min(losses) + 1e-9
    assert auc(labels, fitted.apply(p)) == auc(labels, p)
    assert ((fitted.apply(p) > 0.5) == (p > 0.5)).all()


def test_certain_probabilities_stay_finite() -> None:
    labels, p = np.array([0, 1, 1, 0]), np.array([0.0, 1.0, 0.0, 0.2])
    fitted = fit_temperature(labels, p)
    assert fitted.temperature == pytest.approx(20, rel=0.3)  # one certain mistake: hardly anything is believed
    assert np.isfinite(fitted.apply(p)).all()


def test_isotonic_agrees_with_scikit_learn() -> None:
    labels, p = example(400, 3, 2.0)
    p = np.round(p, 2)  # with ties
    reference = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, labels)
    asked = np.linspace(0, 1, 501)
    ours = fit_isotonic(labels, p)
    assert ours.apply(asked) == pytest.approx(reference.predict(asked), abs=1e-12)
    assert (np.diff(ours.apply(asked)) >= 0).all()


def test_isotonic_by_hand() -> None:
    labels, p = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.9])
    fitted = fit_isotonic(labels, p)  # 0.4 and 0.6 are in the wrong order: pooled to a half
    assert fitted.apply(np.array([0.0, 0.1, 0.25, 0.5, 0.95])) == pytest.approx([0, 0, 0.25, 0.5, 1])


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_maps_survive_json(method: Method, tmp_path: Path) -> None:
    labels, p = example(200, 4)
    fitted = calibration.fit_calibration(labels, p, method)
    write_record(tmp_path / "map.json", fitted)
    again = read_record(tmp_path / "map.json", type(fitted))
    assert type(again) is type(fitted)
    assert (again.apply(p) == fitted.apply(p)).all()


@pytest.mark.parametrize(
    "foreign", ['{"probabilities": [], "calibrated": []}', '{"probabilities": [0.1, 0.2], "calibrated": [0]}']
)
def test_maps_without_knots_are_refused(foreign: str, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(foreign.replace("{", '{"version": 1, ', 1))
    with pytest.raises(RunError, match="knots"):
        read_record(tmp_path / "map.json", Isotonic)


def test_single_classes_are_refused() -> None:
    for fit in (fit_temperature, fit_isotonic):
        with pytest.raises(DataError, match="only the class 1"):
            fit(np.array([1, 1]), np.array([0.2, 0.4]))


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_no_group_calibrates_itself(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, p = example(600, 5)
    groups = np.array([f"s{i % 12}" for i in range(600)])
    group_of = dict(zip(p.tolist(), groups.tolist(), strict=True))
    fitted_on: list[set[str]] = []
    applied_to: list[set[str]] = []
    genuine = calibration.fit_calibration

    class Spy:
        def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
            fitted_on.append({group_of[x] for x in probabilities.tolist()})
            self.map = genuine(labels, probabilities, method)

        def apply(self, probabilities: np.ndarray) -> np.ndarray:
            applied_to.append({group_of[x] for x in probabilities.tolist()})
            return self.map.apply(probabilities)

    monkeypatch.setattr(calibration, "fit_calibration", lambda labels, p, method: Spy(labels, p))
    calibrated = by_groups(labels, p, groups, method, np.random.default_rng(0))
    assert len(fitted_on) == 5
    assert set().union(*applied_to) == set(groups.tolist())
    for fit, use in zip(fitted_on, applied_to, strict=True):
        assert not fit & use
        assert fit | use == set(groups.tolist())
    assert np.isfinite(calibrated).all()


def test_a_group_that_contradicts_the_others_is_calibrated_by_the_others() -> None:
    labels, p = example(400, 6)
    labels, p = np.r_[labels, 1 - labels], np.r_[p, p]  # the second group's labels are all turned round
    groups = np.repeat(["right", "wrong"], 400)
    calibrated = by_groups(labels, p, groups, "isotonic", np.random.default_rng(0))
    assert calibrated[400:] == pytest.approx(fit_isotonic(labels[:400], p[:400]).apply(p[400:]))
    assert log_loss(labels[400:], calibrated[400:]) > log_loss(labels[400:], np.full(400, 0.5))


def test_cross_calibration_follows_its_generator_and_needs_two_groups() -> None:
    labels, p = example(300, 7, 3.0)
    groups = np.array([f"s{i % 30}" for i in range(300)])
    first, again = (by_groups(labels, p, groups, "temperature", np.random.default_rng(1)) for _ in range(2))
    assert (first == again).all()
    assert log_loss(labels, first) < log_loss(labels, p)
    with pytest.raises(SplitError, match="at least two groups"):
        by_groups(labels, p, np.full(300, "one"), "temperature", np.random.default_rng(1))
    nameless = by_groups(labels, p, np.full(300, ""), "temperature", np.random.default_rng(1))
    assert np.isfinite(nameless).all()  # each patch stands alone


def test_reliability_agrees_with_scikit_learn() -> None:
    labels, p = example(500, 8, 2.0)
    found = reliability(labels, p, np.full(500, ""), replicates=50, rng=np.random.default_rng(0))
    observed, said = calibration_curve(labels, p, n_bins=10)
    filled = found.count > 0
    assert found.observed_share[filled] == pytest.approx(observed)
    assert found.mean_probability[filled] == pytest.approx(said)
    assert found.count.sum() == 500
    assert found.edges == pytest.approx(np.linspace(0, 1, 11))


def test_reliability_by_hand() -> None:
    labels, p = np.array([0, 1, 1, 0]), np.array([0.0, 0.2, 0.4, 0.5])
    groups = np.array(["a", "b", "a", "a"])
    found = reliability(labels, p, groups, bins=2, replicates=200, rng=np.random.default_rng(0))
    assert found.count.tolist() == [4, 0]
    assert found.mean_probability == pytest.approx([0.275, np.nan], nan_ok=True)
    assert found.observed_share == pytest.approx([0.5, np.nan], nan_ok=True)
    assert found.lower[0] == pytest.approx(1 / 3)  # only a drawn
    assert found.upper[0] == 1.0  # only b drawn
    alone = reliability(labels, p, np.full(4, "a"), bins=2, replicates=20, rng=np.random.default_rng(0))
    assert np.isnan(alone.lower).all()


def test_the_band_is_that_of_the_binomial_where_patches_stand_alone_and_wider_for_alike_groups() -> None:
    rng = np.random.default_rng(9)
    labels, p = (rng.random(400) < 0.3).astype(np.int8), np.full(400, 0.35)
    alone = reliability(labels, p, np.full(400, ""), rng=rng)
    width = alone.upper[3] - alone.lower[3]
    share = labels.mean()
    assert width == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 400), rel=0.15)
    alike = np.sort(labels)
    grouped = reliability(alike, p, np.repeat([f"s{i}" for i in range(20)], 20), rng=rng)
    assert grouped.upper[3] - grouped.lower[3] > 3 * width
