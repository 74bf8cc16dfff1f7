"""Confident learning: by hand, and planted label errors are found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from sentinode.errors import DataError
from sentinode.explain.label_errors import find_label_errors
from sentinode.inference.predictions import Predictions


def predictions(labels: list[int] | np.ndarray, probabilities: list[float] | np.ndarray) -> Predictions:
    ids = np.array([f"p{i}" for i in range(len(labels))])
    return Predictions(ids, np.asarray(labels, np.int8), np.asarray(probabilities, float))


def test_by_hand() -> None:
    found = find_label_errors(predictions([0, 0, 0, 0, 1, 1, 1, -1], [0.1, 0.2, 0.9, 0.4, 0.8, 0.9, 0.1, 0.99]))
    # Self-confidence of class 0: mean of 0.9, 0.8, 0.1, 0.6; of class 1: mean of 0.8, 0.9, 0.1.
    assert found.class_thresholds == pytest.approx((0.6, 0.6))
    # p3 (0.6 for class 0) reaches its own class's threshold by a hair; the unlabelled patch is passed over.
    assert found.confident_joint.tolist() == [[3, 1], [1, 2]]
    assert found.suspects.tolist() == [2, 6]


def test_a_patch_that_reaches_both_thresholds_is_counted_as_the_more_probable_class() -> None:
    labels, p = [0, 0, 1, 1], [0.45, 0.6, 0.4, 0.55]
    found = find_label_errors(predictions(labels, p))
    # Thresholds: class 0 mean(0.55, 0.4) = 0.475; class 1 mean(0.4, 0.55) = 0.475. Only p = 0.5 +- 0.025 reach both.
    assert found.class_thresholds == pytest.approx((0.475, 0.475))
    assert found.confident_joint.tolist() == [[1, 1], [1, 1]]
    assert found.suspects.tolist() == [1, 2]
    both = find_label_errors(predictions([0, 0, 1, 1, 0, 1], [*p, 0.51, 0.49]))
    assert set(both.suspects.tolist()) == {1, 2, 4, 5}


def test_patches_that_reach_no_threshold_are_not_counted() -> None:
    found = find_label_errors(predictions([0, 0, 1, 1, 0], [0.05, 0.05, 0.95, 0.95, 0.5]))
    assert found.class_thresholds == pytest.approx((2.4 / 3, 0.95))
    assert found.confident_joint.sum() == 4
    assert len(found.suspects) == 0


def test_planted_errors_are_found_with_high_precision() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(3000) < 0.4).astype(np.int8)
    p = expit(rng.normal(np.where(truth == 1, 3.0, -3.0), 1.5))
    flipped = rng.choice(3000, 120, replace=False)
    labels = truth.copy()
    labels[flipped] = 1 - labels[flipped]
    found = find_label_errors(predictions(labels, p))
    hits = np.isin(found.suspects, flipped)
    assert np.mean(hits[:60]) > 0.98
    assert np.mean(hits) > 0.75
    assert hits.sum() > 0.7 * len(flipped)
    of_label = np.where(labels == 1, p, 1 - p)[found.suspects]
    assert (np.diff(of_label) >= 0).all()


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="one class"):
        find_label_errors(predictions([1, 1, -1], [0.2, 0.4, 0.1]))
