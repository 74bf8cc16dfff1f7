"""Operating points against hand-computed values and a search of every threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinode.errors import DataError
from sentinode.evaluation.metrics import confusion
from sentinode.evaluation.threshold import OperatingPoint, fixed_sensitivity, least_cost, youden
from sentinode.records import read_record, write_record

LABELS = np.array([0, 0, 1, 0, 1, 1])
PROBABILITIES = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])


def example(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, rng.integers(1, 40))]
    return labels, np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.3), 0, 1), int(rng.integers(1, 4)))


def every_point(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[float, float]]:
    """(sensitivity, specificity) at every threshold that could matter."""
    found = [confusion(labels, probabilities, t) for t in [-1.0, *probabilities.tolist()]]
    return [(at.sensitivity, at.specificity) for at in found]


def test_youden_by_hand() -> None:
    # Above 0.25: 3 of 3 positives, 2 of 3 negatives; above 0.65: 2 of 3 and 3 of 3. The more sensitive is taken.
    point = youden(LABELS, PROBABILITIES)
    assert point.threshold == pytest.approx(0.25)
    assert (point.sensitivity, point.specificity) == (1.0, pytest.approx(2 / 3))
    assert "Youden" in point.rule


def test_fixed_sensitivity_by_hand() -> None:
    assert fixed_sensitivity(LABELS, PROBABILITIES, 0.95).threshold == pytest.approx(0.25)
    at_two_thirds = fixed_sensitivity(LABELS, PROBABILITIES, 2 / 3)
    assert at_two_thirds.threshold == pytest.approx(0.65)
    assert at_two_thirds.specificity == 1.0
    assert fixed_sensitivity(LABELS, PROBABILITIES, 0.1).threshold == pytest.approx(0.8)


def test_least_cost_by_hand() -> None:
    assert least_cost(LABELS, PROBABILITIES, 10.0).threshold == pytest.approx(0.25)
    assert least_cost(LABELS, PROBABILITIES, 0.1).threshold == pytest.approx(0.65)
    # As dear as each other, but positives are rare where it will be used: false alarms weigh more.
    rare = least_cost(LABELS, PROBABILITIES, 1.0, prevalence=0.1)
    assert rare.threshold == pytest.approx(0.65)
    assert "prevalence 0.1" in rare.rule


@settings(max_examples=80)
@given(st.integers(0, 100_000))
def test_no_other_threshold_is_better(seed: int) -> None:
    labels, p = example(seed)
    points = every_point(labels, p)
    best = youden(labels, p)
    assert best.sensitivity + best.specificity == pytest.approx(max(a + b for a, b in points))
    for wanted in (0.5, 0.9, 1.0):
        fixed = fixed_sensitivity(labels, p, wanted)
        assert fixed.sensitivity >= wanted
        assert fixed.specificity == pytest.approx(max(b for a, b in points if a >= wanted))
    for miss, prevalence in ((5.0, 0.02), (0.3, 0.5)):
        cheap = least_cost(labels, p, miss, prevalence)
        costs = [miss * prevalence * (1 - a) + (1 - prevalence) * (1 - b) for a, b in points]
        own = miss * prevalence * (1 - cheap.sensitivity) + (1 - prevalence) * (1 - cheap.specificity)
        assert own == pytest.approx(min(costs))


@settings(max_examples=40)
@given(st.integers(0, 100_000))
def test_the_threshold_gives_what_the_point_says_in_any_order(seed: int) -> None:
    labels, p = example(seed)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    for point, again in (
        (youden(labels, p), youden(labels[shuffled], p[shuffled])),
        (fixed_sensitivity(labels, p, 0.8), fixed_sensitivity(labels[shuffled], p[shuffled], 0.8)),
        (least_cost(labels, p, 2.0), least_cost(labels[shuffled], p[shuffled], 2.0)),
    ):
        assert point == again
        found = confusion(labels, p, point.threshold)
        assert (found.sensitivity, found.specificity) == (point.sensitivity, point.specificity)
        assert point.threshold not in p.tolist() or point.threshold == 1.0  # half-way, so never on a probability


def test_a_point_is_read_back_as_it_was(tmp_path: Path) -> None:
    point = youden(*example(3))
    write_record(tmp_path / "point.json", point)
    assert read_record(tmp_path / "point.json", OperatingPoint) == point


def test_ends_of_the_scale_and_neighbouring_floats() -> None:
    assert fixed_sensitivity(np.array([1, 0]), np.array([0.0, 0.4]), 1.0).threshold == -0.5
    assert least_cost(np.array([1, 0]), np.array([0.5, 1.0]), 0.0).specificity == 1.0
    low = 1 - 2**-53  # between it and 1 there is no float: rounding would lift the middle to 1
    assert youden(np.array([0, 1]), np.array([low, 1.0])).threshold == low
    assert youden(np.array([0, 1]), np.array([low, 1.0])).sensitivity == 1.0


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="0 negative and 2 positive"):
        youden(np.array([1, 1]), np.array([0.2, 0.4]))
