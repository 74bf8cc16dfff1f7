"""Blends: weights of least log loss, against a search by brute force; what the ends of the scale count as."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from sentinode.errors import DataError
from sentinode.evaluation.blend import blend, cross_blend, equal_weights, fit_weights
from sentinode.evaluation.metrics import log_loss


def drawn(members: int, seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and members that know them more or less: each adds noise and a scale of its own to the truth."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 2).astype(np.int8)
    signal = (2.0 * labels - 1)[:, None] * rng.uniform(0.3, 2.0, members)
    logits = rng.uniform(0.5, 2.0, members) * (signal + rng.normal(0, 1.5, (count, members)))
    return labels, 1 / (1 + np.exp(-logits))


@cache
def simplex(members: int, steps: int) -> np.ndarray:
    """Every weighting in whole steps: the last member has what the others leave."""
    others = itertools.product(range(steps + 1), repeat=members - 1)
    return np.array([(*w, steps - sum(w)) for w in others if sum(w) <= steps]) / steps


@settings(max_examples=25)
@given(st.sampled_from([(2, 1000), (3, 60)]), st.integers(0, 10_000))
def test_no_weights_of_a_grid_are_better(size: tuple[int, int], seed: int) -> None:
    members, steps = size
    labels, probabilities = drawn(members, seed)
    weights = fit_weights(labels, probabilities)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    grid = simplex(members, steps)
    odds = logit(probabilities) @ grid.T
    losses = np.logaddexp(0, np.where(labels[:, None] == 1, -odds, odds)).mean(axis=0)
    assert losses[seed % len(grid)] == pytest.approx(log_loss(labels, blend(probabilities, grid[seed % len(grid)])))
    assert log_loss(labels, blend(probabilities, weights)) <= losses.min() + 1e-9
    assert np.abs(weights - grid[np.argmin(losses)]).max() < 3 / steps


def test_a_blend_is_the_weighted_mean_of_logits() -> None:
    p = np.array([[0.2, 0.9], [0.5, 0.5]])
    odds = (0.2 / 0.8) ** 0.25 * (0.9 / 0.1) ** 0.75
    assert blend(p, np.array([0.25, 0.75])) == pytest.approx([odds / (1 + odds), 0.5])


def test_a_member_that_guesses_gets_no_weight() -> None:
    labels, probabilities = drawn(2, seed=3)
    guessed = np.random.default_rng(1).uniform(0.2, 0.8, len(labels))
    weights = fit_weights(labels, np.column_stack([probabilities, guessed, 1 - probabilities[:, 0]]))
    assert weights[2:] == pytest.approx([0, 0], abs=0.02)
    assert weights[3] < 1e-6  # says the opposite


def test_equal_members_blend_to_what_each_says() -> None:
    labels, probabilities = drawn(1, seed=4)
    three = np.repeat(probabilities, 3, axis=1)
    assert fit_weights(labels, three) == pytest.approx(equal_weights(3))
    assert blend(three, fit_weights(labels, three)) == pytest.approx(probabilities[:, 0], abs=1e-12)


def test_zero_and_one_count_as_a_little_away() -> None:
    p = np.array([[1.0, 0.01], [0.0, 0.99]])
    said = blend(p, equal_weights(2))
    assert said == pytest.approx(blend(np.clip(p, 1e-7, 1 - 1e-7), equal_weights(2)))
    assert np.isfinite(said).all()
    labels, probabilities = drawn(2, seed=5)
    probabilities[:5, 0] = labels[:5] == 0  # sure, and wrong
    weights = fit_weights(labels, probabilities)
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1)


def test_a_patch_is_blended_by_weights_that_never_saw_its_fold() -> None:
    labels, probabilities = drawn(3, seed=6)
    folds = np.arange(len(labels)) % 4
    before, weights = cross_blend(labels, probabilities, folds)
    inside = folds == 2
    assert before[inside] == pytest.approx(
        blend(probabilities[inside], fit_weights(labels[~inside], probabilities[~inside]))
    )
    turned = np.where(inside, 1 - labels, labels).astype(np.int8)
    after, others = cross_blend(turned, probabilities, folds)
    assert weights.shape == (4, 3)
    assert after[inside].tolist() == before[inside].tolist()
    assert others[2].tolist() == weights[2].tolist()
    assert not np.array_equal(others[0], weights[0])


def test_one_class_alone_fits_nothing() -> None:
    with pytest.raises(DataError, match="both classes"):
        fit_weights(np.ones(4, np.int8), np.full((4, 2), 0.5))
