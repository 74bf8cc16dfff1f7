"""Probabilities that mean what they say: calibration maps, how they are fitted, and the reliability diagram in numbers.

Maps are fitted on all patches, or for each patch on the patches of other groups. Labels must be known (0 or 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Shaped
from pydantic import Field

from sentinode.errors import DataError, SplitError
from sentinode.evaluation.clusters import cluster_numbers
from sentinode.records import Numbers
from sentinode.splits.allocation import assign_units

Method = Literal["temperature", "isotonic"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

SMALLEST: Final = 1e-12
"""A probability of exactly 0 or 1 has no logit: it counts as so far away."""
TEMPERATURES: Final = (0.05, 20.0)  # the range in which one is fitted
_BAND_PERCENT = (2.5, 97.5)
_DRAWN_AT_ONCE: Final = 2**18  # groups, in all replicates that are drawn together


@dataclass(frozen=True)
class Temperature:
    """Divide the logit by a temperature (Guo et al. 2017): above 1 where the network was over-confident, else below.

    The order of the probabilities and their side of 0.5 stay as they are; 0 and 1 count as 1e-12 away.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    method: Literal["temperature"] = "temperature"

    def apply(self, probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        # By hand, for SciPy's logit and expit take long to import; logits end at 28, so nothing overflows.
        return np.asarray(1 / (1 + np.exp(-logits(probabilities) / self.temperature)))


@dataclass(frozen=True, eq=False)
class Isotonic:
    """The rising step-like map nearest to the labels (Zadrozny and Elkan 2002), linear between its knots.

    It may give 0 and 1 exactly and makes ties, so the area under the ROC curve can change; it asks for
    more patches than a temperature does.
    """

    probabilities: Annotated[Float[np.ndarray, " knots"], Numbers()]
    calibrated: Annotated[Float[np.ndarray, " knots"], Numbers()]
    method: Literal["isotonic"] = "isotonic"

    def __post_init__(self) -> None:
        if not 0 < len(self.probabilities) == len(self.calibrated):
            raise ValueError(f"{len(self.probabilities)} knots with {len(self.calibrated)} values make no map")

    def apply(self, probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Probabilities beyond the outermost knots get the value of the nearest."""
        return np.asarray(np.interp(probabilities, self.probabilities, self.calibrated))


Calibration = Temperature | Isotonic


def fit_calibration(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], method: Method
) -> Calibration:
    match method:
        case "temperature":
            return fit_temperature(labels, probabilities)
        case "isotonic":
            return fit_isotonic(labels, probabilities)


def fit_temperature(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> Temperature:
    """The temperature between 0.05 and 20 of least log loss; raises DataError where a class is absent."""
    from scipy.optimize import minimize_scalar  # here and below: predictions do without

    _need_both_classes(labels)
    # The logit of the true label: its log loss is log(1 + exp(-x)), which never overflows.
    true_logits = logits(probabilities) * np.where(labels == 1, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -true_logits / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-8})
    return Temperature(float(np.exp(found.x)))


def fit_isotonic(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> Isotonic:
    """Pool adjacent violators; raises DataError where a class is absent."""
    from scipy.optimize import isotonic_regression  # as scikit-learn's, without its half second

    _need_both_classes(labels)
    at, place, count = np.unique(probabilities, return_inverse=True, return_counts=True)
    fitted = isotonic_regression(np.bincount(place, labels == 1) / count, weights=count).x
    level = fitted[1:] == fitted[:-1]
    ends = ~(np.append(False, level) & np.append(level, False))  # between its ends a level says nothing more
    return Isotonic(np.asarray(at[ends], np.float64), np.asarray(fitted[ends], np.float64))


def cross_calibrate(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    folds: Int[np.ndarray, " n"],
    method: Method,
) -> Float[np.ndarray, " n"]:
    """Calibrate each patch by a map fitted on the other folds only, such as those of `cross_folds`.

    Raises DataError where the rest of a fold has one class only.
    """
    calibrated = np.empty(len(labels))
    for held_out in np.unique(folds):
        inside = folds == held_out
        calibration = fit_calibration(labels[~inside], probabilities[~inside], method)
        calibrated[inside] = calibration.apply(probabilities[inside])
    return calibrated


def cross_folds(
    labels: Int[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"], *, folds: int, rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """The fold of each patch: no group is cut, and each fold has about its share of both classes.

    `groups` are slides or clusters by name; a patch with the name "" stands alone. With fewer groups
    than folds, each group is a fold. Raises SplitError for fewer than two groups.
    """
    units = cluster_numbers(groups)
    parts = min(folds, len(np.unique(units)))
    if parts < 2:
        raise SplitError(
            f"calibration on other groups needs at least two groups and folds, not {parts}",
            remedy="Score patches of more slides or groups, or ask for more folds.",
        )
    return assign_units(labels, units, np.full(parts, 1.0 / parts), rng)


def _need_both_classes(labels: np.ndarray) -> None:
    if len(classes := np.unique(labels)) < 2:
        have = f"only the class {classes[0]}" if len(classes) else "no patch"
        raise DataError(f"calibration has {have} to fit on", remedy="Fit it on patches of both classes.")


@dataclass(frozen=True, eq=False)
class Reliability:
    """What was said and what was so, by bins of equal width; NaN where a bin is empty.

    A bin holds the probabilities above its lower edge up to its upper one, the first also 0.
    `lower` and `upper` bound a 95 % band of the observed share from a bootstrap over groups; NaN where
    the bin's patches come from a single group, whose spread is not known.
    """

    edges: Annotated[Float[np.ndarray, " edges"], Numbers()]
    """One more than bins, from 0 to 1."""
    mean_probability: Annotated[Float[np.ndarray, " bins"], Numbers()]
    observed_share: Annotated[Float[np.ndarray, " bins"], Numbers()]
    count: Annotated[Int[np.ndarray, " bins"], Numbers()]
    lower: Annotated[Float[np.ndarray, " bins"], Numbers()]
    upper: Annotated[Float[np.ndarray, " bins"], Numbers()]


def reliability(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    bins: int = 10,
    replicates: int = 1000,
    rng: np.random.Generator,
) -> Reliability:
    """The reliability diagram in numbers; groups as for `cross_folds`. Labels must be known."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    units, at = cluster_numbers(groups), np.searchsorted(edges[1:-1], probabilities)
    # Sums by group and bin are all that a replicate needs.
    counts = _by_group_and_bin(units, at, np.ones(len(labels)), bins)
    positives = _by_group_and_bin(units, at, (labels == 1).astype(float), bins)
    count, said = counts.sum(axis=0), np.bincount(at, probabilities, bins)
    lower, upper = _band(counts, positives, replicates, rng)
    return Reliability(
        edges, _share(said, count), _share(positives.sum(axis=0), count), count.astype(np.int64), lower, upper
    )


def logits(probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """log(p / (1 - p)); 0 and 1 count as 1e-12 away."""
    p = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(p) - np.log1p(-p))


def probabilities_of(logit: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """1 / (1 + exp(-logit)); what `logits` is the inverse of."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logit)))


def _band(
    counts: np.ndarray, positives: np.ndarray, replicates: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    groups, bins = counts.shape
    shares = np.empty((replicates, bins))
    at_once = max(_DRAWN_AT_ONCE // groups, 1)
    for first in range(0, replicates, at_once):
        some = min(at_once, replicates - first)
        places = rng.integers(groups, size=(some, groups)) + groups * np.arange(some)[:, None]
        drawn = np.bincount(places.ravel(), minlength=some * groups).reshape(some, groups).astype(float)
        shares[first : first + some] = _share(drawn @ positives, drawn @ counts)
    lower, upper = np.full(bins, np.nan), np.full(bins, np.nan)
    spread_known = (counts > 0).sum(axis=0) > 1
    if spread_known.any():
        lower[spread_known], upper[spread_known] = np.nanpercentile(shares[:, spread_known], _BAND_PERCENT, axis=0)
    return lower, upper


def _by_group_and_bin(units: np.ndarray, at: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    groups = int(units.max(initial=-1)) + 1
    return np.bincount(units * bins + at, weights, groups * bins).reshape(groups, bins)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0))
