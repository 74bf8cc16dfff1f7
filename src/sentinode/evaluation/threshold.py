"""Operating points: the threshold on the probability at which a patch counts as positive, and what it costs.

Chosen on validation patches, never on those that are scored. A probability above the threshold counts
as positive, as in `metrics.confusion`. The thresholds tried lie half-way between neighbouring
probabilities (the ends of the scale, 0 and 1, count as neighbours), so equal probabilities always fall
on one side and small differences between machines change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from sentinode.errors import DataError

PointName = Literal["youden", "sensitivity", "cost"]
POINTS: Final[tuple[PointName, ...]] = get_args(PointName)

_EQUAL_COST = 1e-12  # relative: sums in another order differ by so much


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, the rule that chose it in words, and what it gave on the patches it was chosen on."""

    rule: str
    threshold: float
    sensitivity: float
    specificity: float


def youden(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> OperatingPoint:
    """The largest sensitivity + specificity - 1 (Youden 1950); of equals, the more sensitive.

    Raises DataError where a class is absent, as the other rules do.
    """
    tried = _Tried.of(labels, probabilities)
    # Counts, not rates, are compared: equals are then equal to the last bit.
    gain = tried.true_positive * tried.negatives + tried.true_negative * tried.positives
    return tried.point("Youden: largest sensitivity + specificity", int(np.argmax(gain)))


def fixed_sensitivity(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], sensitivity: float
) -> OperatingPoint:
    """The most specific threshold whose sensitivity is at least the one wanted, in (0, 1]."""
    tried = _Tried.of(labels, probabilities)
    reached = tried.true_positive / tried.positives >= sensitivity
    return tried.point(f"sensitivity of at least {sensitivity:g}", int(np.flatnonzero(reached)[-1]))


def least_cost(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    cost_of_miss: float,
    prevalence: float | None = None,
) -> OperatingPoint:
    """The least expected cost of a patch; of equals, the more sensitive.

    `cost_of_miss`, 0 or more, is in false alarms. `prevalence` is the share of positives where the model will be used,
    in [0, 1]; by default that of these patches.
    """
    tried = _Tried.of(labels, probabilities)
    share = tried.positives / (tried.positives + tried.negatives) if prevalence is None else prevalence
    cost = cost_of_miss * share * (1 - tried.true_positive / tried.positives)
    cost += (1 - share) * (1 - tried.true_negative / tried.negatives)
    as_here = " as on validation" if prevalence is None else ""
    rule = f"least cost: a miss costs {cost_of_miss:g}, a false alarm 1, prevalence {share:.3g}{as_here}"
    return tried.point(rule, int(np.argmax(cost <= cost.min() + _EQUAL_COST * max(cost_of_miss, 1.0))))


@dataclass(frozen=True, eq=False)
class _Tried:
    """All thresholds that tell patches apart differently, rising, with the counts at each."""

    thresholds: Float[np.ndarray, " k"]
    true_positive: Int[np.ndarray, " k"]
    true_negative: Int[np.ndarray, " k"]
    positives: int
    negatives: int

    @classmethod
    def of(cls, labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> _Tried:
        distinct, at = np.unique(probabilities.astype(np.float64), return_inverse=True)
        positive = np.bincount(at[labels == 1], minlength=len(distinct))
        negative = np.bincount(at[labels == 0], minlength=len(distinct))
        if not positive.sum() or not negative.sum():
            raise DataError(
                f"a threshold cannot be chosen on {negative.sum()} negative and {positive.sum()} positive patches",
                remedy="Choose it on patches of both classes.",
            )
        return cls(
            _half_way(distinct),
            positive.sum() - np.r_[0, np.cumsum(positive)],
            np.r_[0, np.cumsum(negative)],
            int(positive.sum()),
            int(negative.sum()),
        )

    def point(self, rule: str, at: int) -> OperatingPoint:
        return OperatingPoint(
            rule,
            float(self.thresholds[at]),
            float(self.true_positive[at] / self.positives),
            float(self.true_negative[at] / self.negatives),
        )


def _half_way(distinct: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d+1"]:
    # Only a threshold below 0 lets a probability of exactly 0 count as positive.
    lowest = 0.0 if distinct[0] > 0 else -1.0
    below, above = np.r_[lowest, distinct], np.r_[distinct, 1.0]
    middle = below + (above - below) / 2
    # Between two floats that touch there is no middle: rounding must not lift it to the upper one.
    return np.asarray(np.where(middle < above, middle, below))
