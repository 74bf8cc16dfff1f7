"""Scores of tumour probabilities against labels: pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

_SMALLEST = 1e-7


def auc(labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    From the Mann-Whitney statistic. NaN where one of the classes is absent.
    """
    positives = int(np.sum(labels == 1))
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = float(rankdata(scores)[labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> float:
    """Sum over thresholds of precision times the gain in recall, ties taken together; NaN without positives."""
    curve = roc_curve(labels, scores)
    positives, negatives = int(np.sum(labels == 1)), int(np.sum(labels == 0))
    if not positives:
        return float("nan")
    true, false = curve.sensitivity[1:] * positives, curve.false_positive_rate[1:] * negatives
    return float(np.sum(np.diff(curve.sensitivity) * true / (true + false)))


def accuracy(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], threshold: float = 0.5) -> float:
    """Share of patches on the right side of the threshold; a probability equal to it is negative, as in Keras."""
    return float(np.mean((probabilities > threshold) == (labels == 1)))


def log_loss(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> float:
    """Mean negative log-likelihood in nats; probabilities are kept 1e-7 away from 0 and 1."""
    p = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    return float(-np.mean(np.where(labels == 1, np.log(p), np.log1p(-p))))


def brier_score(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> float:
    """Mean squared distance of probability and label (Brier 1950), in [0, 1]."""
    return float(np.mean((probabilities - (labels == 1)) ** 2))


@dataclass(frozen=True)
class Confusion:
    """Counts at one threshold."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def sensitivity(self) -> float:
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float:
        return _ratio(self.true_negative, self.true_negative + self.false_positive)


def confusion(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], threshold: float = 0.5
) -> Confusion:
    said, positive = probabilities > threshold, labels == 1
    return Confusion(
        true_positive=int(np.sum(said & positive)),
        false_positive=int(np.sum(said & ~positive)),
        true_negative=int(np.sum(~said & ~positive)),
        false_negative=int(np.sum(~said & positive)),
    )


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Points of the ROC curve from (0, 0) to (1, 1), one for each distinct score."""

    false_positive_rate: Float[np.ndarray, " k"]
    sensitivity: Float[np.ndarray, " k"]


def roc_curve(labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> RocCurve:
    order = np.argsort(-scores, kind="stable")
    positive = (labels[order] == 1).astype(float)
    last_of_tie = np.r_[np.diff(scores[order]) != 0, True]
    true = np.r_[0.0, np.cumsum(positive)[last_of_tie]]
    false = np.r_[0.0, np.cumsum(1 - positive)[last_of_tie]]
    return RocCurve(false / max(false[-1], 1.0), true / max(true[-1], 1.0))


def scores(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> dict[str, float]:
    """All scores by name; labels must be known (0 or 1)."""
    at_half = confusion(labels, probabilities)
    return {
        "auc": auc(labels, probabilities),
        "average_precision": average_precision(labels, probabilities),
        "accuracy": accuracy(labels, probabilities),
        "sensitivity": at_half.sensitivity,
        "specificity": at_half.specificity,
        "log_loss": log_loss(labels, probabilities),
        "brier_score": brier_score(labels, probabilities),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
