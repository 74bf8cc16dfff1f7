"""Where models and seeds differ: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sentinode.errors import RunError
from sentinode.explain.review import between_models, between_seeds
from sentinode.inference.predictions import Predictions

IDS = np.array(["a", "b", "c", "d"])
LABELS = np.array([0, 1, 1, 0], dtype=np.int8)


def said(*probabilities: float) -> Predictions:
    return Predictions(IDS, LABELS, np.array(probabilities))


def test_models_disagree_on_opposite_sides_only() -> None:
    rows = between_models(said(0.1, 0.6, 0.9, 0.5), said(0.45, 0.4, 0.2, 0.51))
    # a differs by 0.35, yet both say negative; exactly 0.5 counts as negative.
    assert IDS[rows].tolist() == ["c", "b", "d"]


def test_seeds_disagree_by_their_standard_deviation() -> None:
    rows = between_seeds([said(0.1, 0.5, 0.0, 0.2), said(0.1, 0.6, 0.9, 0.4), said(0.1, 0.7, 0.0, 0.6)])
    assert IDS[rows].tolist() == ["c", "d", "b"]  # all seeds say the same of a


def test_equal_spreads_keep_the_order_of_the_patches() -> None:
    assert between_models(said(0.0, 0.0, 0.0, 0.0), said(1.0, 1.0, 1.0, 1.0)).tolist() == [0, 1, 2, 3]


def test_predictions_of_other_patches_are_refused() -> None:
    other = Predictions(IDS[::-1], LABELS, np.full(4, 0.5))
    with pytest.raises(RunError, match="different patches"):
        between_models(said(0.1, 0.2, 0.3, 0.4), other)
