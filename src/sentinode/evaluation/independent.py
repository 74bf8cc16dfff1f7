"""Tests that take patches as independent: beside the bootstrap, never instead of it.

Patches of one slide resemble each other, so these p-values are too small on most histology; `bootstrap` draws slides.
They are here because readers know them and other tools print them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import stats

from sentinode.evaluation.bootstrap import Interval

ASSUMPTION: Final = "assumes independent patches"
FEW_DISCORDANT: Final = 25


@dataclass(frozen=True)
class DeLong:
    """DeLong's test of two correlated AUCs; assumes independent patches."""

    auc_a: float
    auc_b: float
    difference: Interval  # a minus b
    standard_error: float  # of the difference
    z: float
    p_value: float  # two-sided


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two classifiers' errors; assumes independent patches."""

    only_a_right: int
    only_b_right: int
    chi_square: float | None  # None where the test is exact
    p_value: float  # two-sided


def delong(
    labels: Int[np.ndarray, " n"],
    scores_a: Float[np.ndarray, " n"],
    scores_b: Float[np.ndarray, " n"],
    level: float = 0.95,
) -> DeLong:
    """Compare two AUCs on the same patches, taken as independent (DeLong et al. 1988; Sun and Xu 2014).

    Curves that never differ give z = 0 and p = 1. NaN where a class has fewer than two patches.
    """
    aucs, covariance = _aucs(labels, np.stack([scores_a, scores_b]))
    difference = float(aucs[0] - aucs[1])
    error = float(np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0)))
    with np.errstate(divide="ignore"):
        z = float(np.divide(difference, error)) if difference else 0.0
    reach = float(stats.norm.ppf((1 + level) / 2)) * error
    return DeLong(
        auc_a=float(aucs[0]),
        auc_b=float(aucs[1]),
        difference=Interval(difference, difference - reach, difference + reach, level),
        standard_error=error,
        z=z,
        p_value=float(2 * stats.norm.sf(abs(z))),
    )


def mcnemar(labels: Int[np.ndarray, " n"], said_a: Bool[np.ndarray, " n"], said_b: Bool[np.ndarray, " n"]) -> McNemar:
    """Whether one classifier is right more often where only one is, patches taken as independent (McNemar 1947).

    Exact (binomial, two-sided) below 25 such patches; from there on chi-square with the continuity correction
    (|b - c| - 1)^2 / (b + c) of Edwards (1948).
    """
    right_a, right_b = said_a == (labels == 1), said_b == (labels == 1)
    b, c = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    if b + c < FEW_DISCORDANT:
        p_value = float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0
        return McNemar(b, c, None, p_value)
    chi_square = max(abs(b - c) - 1, 0) ** 2 / (b + c)
    return McNemar(b, c, chi_square, float(stats.chi2.sf(chi_square, df=1)))


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
