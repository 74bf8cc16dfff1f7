"""Scores against hand-computed values and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinode.evaluation import metrics


def example(seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, rng.integers(3, 80))].astype(np.int8)
    probabilities = np.clip(rng.normal(0.4 + 0.2 * labels, 0.25), 0, 1)
    return labels, np.round(probabilities, 1) if ties else probabilities


def test_auc_by_hand() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert metrics.auc(labels, scores) == 0.75  # 3 of 4 pairs in order
    assert metrics.auc(labels, np.full(4, 0.5)) == 0.5
    assert metrics.auc(labels, -scores) == 0.25
    assert np.isnan(metrics.auc(np.zeros(4, int), scores))
    assert np.isnan(metrics.auc(labels, np.array([0.1, np.nan, 0.35, 0.8])))


@settings(max_examples=60)
@given(st.integers(0, 100_000), st.booleans())
def test_agreement_with_scikit_learn(seed: int, ties: bool) -> None:
    labels, p = example(seed, ties=ties)
    assert metrics.auc(labels, p) == pytest.approx(reference.roc_auc_score(labels, p), abs=1e-12)
    assert metrics.average_precision(labels, p) == pytest.approx(reference.average_precision_score(labels, p))
    assert metrics.brier_score(labels, p) == pytest.approx(reference.brier_score_loss(labels, p))
    assert metrics.accuracy(labels, p) == pytest.approx(reference.accuracy_score(labels, p > 0.5))
    assert metrics.balanced_accuracy(labels, p) == pytest.approx(reference.balanced_accuracy_score(labels, p > 0.5))
    inside = np.clip(p, 1e-7, 1 - 1e-7)
    assert metrics.log_loss(labels, p) == pytest.approx(reference.log_loss(labels, inside))
    ((tn, fp), (fn, tp)) = reference.confusion_matrix(labels, p > 0.5, labels=[0, 1])
    ours = metrics.confusion(labels, p)
    assert (ours.true_negative, ours.false_positive, ours.false_negative, ours.true_positive) == (tn, fp, fn, tp)
    curve = metrics.roc_curve(labels, p)
    fpr, tpr, _ = reference.roc_curve(labels, p, drop_intermediate=False)
    assert curve.false_positive_rate == pytest.approx(fpr)
    assert curve.sensitivity == pytest.approx(tpr)
    for specificity in (0.5, 0.95, 1.0):
        best = tpr[1 - fpr >= specificity - 1e-9].max()
        assert metrics.sensitivity_at_specificity(labels, p, specificity) == pytest.approx(best)


@settings(max_examples=30)
@given(st.integers(0, 100_000))
def test_auc_sees_order_only(seed: int) -> None:
    labels, p = example(seed, ties=True)
    assert metrics.auc(labels, p) == pytest.approx(metrics.auc(labels, np.exp(3 * p)))
    assert metrics.auc(1 - labels, p) == pytest.approx(1 - metrics.auc(labels, p))


def test_sensitivity_and_specificity_by_hand() -> None:
    labels, p = np.array([1, 1, 1, 0, 0]), np.array([0.9, 0.6, 0.2, 0.7, 0.5])
    found = metrics.confusion(labels, p)
    assert found.sensitivity == pytest.approx(2 / 3)
    assert found.specificity == pytest.approx(1 / 2)  # exactly 0.5 counts as negative, as in Keras


def test_sensitivity_at_specificity_by_hand() -> None:
    labels = np.r_[np.zeros(20, int), np.ones(4, int)]
    scores = np.r_[np.linspace(0, 0.5, 19), 0.9, [0.95, 0.9, 0.6, 0.1]]
    # 19 of 20 negatives may be right: the one at 0.9 is given up, and 0.6 is the lowest positive above the others.
    assert metrics.sensitivity_at_specificity(labels, scores) == 3 / 4
    assert metrics.sensitivity_at_specificity(labels, scores, 1.0) == 1 / 4  # the positive at 0.9 is tied with it
    assert metrics.sensitivity_at_specificity(labels, scores, 0.0) == 1
    assert metrics.sensitivity_at_specificity(labels, -scores) == 0
    assert np.isnan(metrics.sensitivity_at_specificity(labels[:20], scores[:20]))


def test_calibration_error_by_hand() -> None:
    labels, p = np.array([0, 1, 1, 1]), np.array([0.1, 0.3, 0.6, 1.0])
    # Two bins: |1/2 - 0.2| and |1 - 0.8|, half of the patches each.
    assert metrics.expected_calibration_error(labels, p, bins=2) == pytest.approx(0.25)
    assert metrics.expected_calibration_error(labels, labels.astype(float)) == 0
    assert metrics.expected_calibration_error(labels, np.full(4, 0.75)) == 0  # calibrated, and useless
    assert metrics.expected_calibration_error(labels, 1.0 - labels) == 1
    assert metrics.calibration_bin(np.array([0.0, 0.49, 0.5, 1.0]), 2).tolist() == [0, 0, 1, 1]


def test_all_scores_are_named() -> None:
    labels, p = example(1, ties=False)
    assert set(metrics.scores(labels, p)) == {
        "auc", "average_precision", "accuracy", "sensitivity", "specificity", "log_loss", "brier_score",
        "balanced_accuracy", "sensitivity_at_95_specificity", "ece",
    }  # fmt: skip
