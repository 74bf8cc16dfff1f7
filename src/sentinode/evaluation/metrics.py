"""Scores of tumour probabilities against labels: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sentinode.errors import ConfigError

METRIC_NAMES: Final = {
    "auc": "AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "log_loss": "log loss",
    "brier_score": "Brier score",
    "ece": "calibration error",
}
"""All scores, and what a reader sees of their names."""
LOWER_IS_BETTER: Final = frozenset({"brier_score", "log_loss", "ece"})

_LONGEST_NAME: Final = 40
_SMALLEST = 1e-7
_SHARE_TOLERANCE = 1e-9  # 1 - 0.95 is a little more than 0.05: 5 of 100 must count as 5 %


Score = Callable[[Int[np.ndarray, " n"], Float[np.ndarray, " n"]], float]
"""A function of labels, 0 or 1, and tumour probabilities, (n,) each, whose order means nothing."""


@dataclass(frozen=True)
class OwnMetric:
    """A score of a user's own, bootstrapped like the built-in ones.

    Without a form for weights it is computed anew on each resample of the patches: 2,000 times for each variant, seed
    and fold. Of a function that takes 5 ms this is a minute for two variants and three seeds.
    """

    function: Score
    lower_is_better: bool = False
    share: bool = False
    """Whether it lies between 0 and 1, so that its interval may not leave them."""
    verdict: bool = False
    """Whether a comparison gives a verdict on it, which counts as a further question in Holm's correction."""

    @property
    def gain(self) -> Literal[1, -1]:
        return -1 if self.lower_is_better else 1


def own_metrics(given: Mapping[str, Score | OwnMetric] | None) -> dict[str, OwnMetric]:
    """Scores of a user's own by name, each tried on four patches; ConfigError for what is none, or a name taken."""
    found = {}
    for name, metric in (given or {}).items():
        known = {*METRIC_NAMES, *METRIC_NAMES.values()}
        if name in known or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            told = f"{name!r} is already a metric" if name in known else f"{name[:60]!r} is not a name for a metric"
            remedy = f"Give it another name, of {_LONGEST_NAME} letters at most."
            raise ConfigError(told, where="metrics", remedy=remedy)
        found[name] = metric if isinstance(metric, OwnMetric) else OwnMetric(metric)
        own_score(name, found[name], np.array([0, 1, 0, 1], np.int8), np.array([0.1, 0.4, 0.6, 0.9]))
    return found


def own_score(
    name: str, metric: OwnMetric, labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]
) -> float:
    """What a user's own metric says; raises ConfigError where it fails or gives no number."""
    try:
        return float(metric.function(labels, probabilities))
    except Exception as error:
        raise ConfigError(
            f"the metric {name!r} failed on {len(labels):,} patches ({type(error).__name__}: {error})",
            where="metrics",
            remedy="Let it give one number, or nan where it has none.",
        ) from error


def gain(metric: str) -> Literal[1, -1]:
    """1 where more of the metric is better, -1 where less is."""
    return -1 if metric in LOWER_IS_BETTER else 1


def auc(labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    From the Mann-Whitney statistic. NaN where one of the classes is absent or a score is NaN.
    """
    positives = int(np.sum(labels == 1))
    negatives = len(labels) - positives
    if not positives or not negatives or np.isnan(scores).any():
        return float("nan")
    rank_sum = float(_mean_ranks(scores)[labels == 1].sum())
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


def balanced_accuracy(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], threshold: float = 0.5
) -> float:
    """Mean of sensitivity and specificity at the threshold; NaN where one of the classes is absent."""
    found = confusion(labels, probabilities, threshold)
    return (found.sensitivity + found.specificity) / 2


def sensitivity_at_specificity(
    labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"], specificity: float = 0.95
) -> float:
    """The largest sensitivity among the thresholds whose specificity is at least the given one.

    Thresholds are the observed scores and one above them all; equal scores fall on one side together, and
    nothing is interpolated. 0 where every threshold at or below a positive loses too much specificity; NaN where
    one of the classes is absent.
    """
    positives, negatives = int(np.sum(labels == 1)), int(np.sum(labels == 0))
    if not positives or not negatives:
        return float("nan")
    curve = roc_curve(labels, scores)
    return float(curve.sensitivity[curve.false_positive_rate <= 1 - specificity + _SHARE_TOLERANCE].max())


def expected_calibration_error(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], bins: int = 15
) -> float:
    """Mean distance of the share of positives and the mean probability over equal-width bins, in [0, 1].

    Bins are [0, 1/bins), ..., [1 - 1/bins, 1], weighted by their patches (Naeini et al. 2015; Guo et al. 2017), of
    the tumour probability itself, not of the probability of the predicted class.
    """
    gaps = np.bincount(calibration_bin(probabilities, bins), weights=(labels == 1) - probabilities, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def calibration_bin(probabilities: Float[np.ndarray, " n"], bins: int = 15) -> Int[np.ndarray, " n"]:
    """The equal-width bin of each probability, 0 to `bins - 1`; 1.0 falls in the last."""
    found: NDArray[np.int64] = np.clip(np.floor(probabilities * bins), 0, bins - 1).astype(np.int64)
    return found


def log_loss(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> float:
    """Mean negative log-likelihood in nats; probabilities are kept 1e-7 away from 0 and 1."""
    return float(np.mean(log_losses(labels, probabilities)))


def log_losses(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The negative log-likelihood of each patch, in nats."""
    p = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    losses: NDArray[np.float64] = -np.where(labels == 1, np.log(p), np.log1p(-p))
    return losses


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


_SCORES: Final[dict[str, Score]] = {
    "auc": auc,
    "average_precision": average_precision,
    "accuracy": accuracy,
    "sensitivity": lambda labels, probabilities: confusion(labels, probabilities).sensitivity,
    "specificity": lambda labels, probabilities: confusion(labels, probabilities).specificity,
    "log_loss": log_loss,
    "brier_score": brier_score,
    "balanced_accuracy": balanced_accuracy,
    "sensitivity_at_95_specificity": sensitivity_at_specificity,
    "ece": expected_calibration_error,
}


def scores(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], names: Collection[str] = METRIC_NAMES
) -> dict[str, float]:
    """These scores by name; labels must be known (0 or 1)."""
    return {name: score(labels, probabilities) for name, score in _SCORES.items() if name in names}


def _mean_ranks(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The rank of each score, from 1; equal scores share the mean of their ranks."""
    _, at, ties = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(ties) - (ties - 1) / 2)[at]
    return ranks


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
