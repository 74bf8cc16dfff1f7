"""Tests that take patches as independent: beside the bootstrap, never instead of it.

Patches of one slide resemble each other, so these p-values are too small on most histology; `bootstrap` draws slides.
They are here because readers know them and other tools print them.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats

FEW_DISCORDANT: Final = 25


def delong(
    labels: Int[np.ndarray, " n"], scores_a: Float[np.ndarray, " n"], scores_b: Float[np.ndarray, " n"]
) -> float:
    """The two-sided p-value of two AUCs on the same patches (DeLong et al. 1988; Sun and Xu 2014).

    Positive where `a` has the higher one; 1 for curves that never differ, NaN where a class has fewer than two patches.
    """
    aucs, covariance = _aucs(labels, np.stack([scores_a, scores_b]))
    difference = float(aucs[0] - aucs[1])
    error = float(np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0)))
    with np.errstate(divide="ignore"):
        z = float(np.divide(difference, error)) if difference else 0.0
    return math.copysign(float(2 * stats.norm.sf(abs(z))), z)


def mcnemar(labels: Int[np.ndarray, " n"], said_a: Bool[np.ndarray, " n"], said_b: Bool[np.ndarray, " n"]) -> float:
    """The p-value of whether one classifier is right more often where only one is (McNemar 1947).

    Positive where `a` is, or neither. Exact (binomial, two-sided) below 25 such patches; from there on chi-square with
    the continuity correction (|b - c| - 1)^2 / (b + c) of Edwards (1948).
    """
    right_a, right_b = said_a == (labels == 1), said_b == (labels == 1)
    b, c = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    if b + c >= FEW_DISCORDANT:
        p_value = float(stats.chi2.sf(max(abs(b - c) - 1, 0) ** 2 / (b + c), df=1))
    else:
        p_value = float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0
    return p_value if b >= c else -p_value


def _aucs(
    labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, "k n"]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The AUCs and their covariance (k, k), from midranks: O(n log n) where the definition needs all pairs."""
    positive = labels == 1
    positives, negatives = int(np.sum(positive)), int(np.sum(~positive))
    if min(positives, negatives) < 2:
        k = len(scores)
        return np.full(k, np.nan), np.full((k, k), np.nan)
    overall = stats.rankdata(scores, axis=1)
    # For each positive the share of negatives below it, for each negative the share of positives above it.
    above = (overall[:, positive] - stats.rankdata(scores[:, positive], axis=1)) / negatives
    below = 1 - (overall[:, ~positive] - stats.rankdata(scores[:, ~positive], axis=1)) / positives
    covariance = np.atleast_2d(np.cov(above)) / positives + np.atleast_2d(np.cov(below)) / negatives
    return above.mean(axis=1), covariance
