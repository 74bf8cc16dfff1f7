"""Probabilities that mean what they say: calibration maps, fitted on other groups, and the reliability diagram.

Labels must be known (0 or 1) throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from sentinode.data.parts import assign_units
from sentinode.errors import DataError, SplitError
from sentinode.evaluation.clusters import cluster_numbers

Method = Literal["temperature", "isotonic"]

_SMALLEST = 1e-12  # a probability of exactly 0 or 1 has no logit
TEMPERATURES: Final = (0.05, 20.0)  # the range that is searched
_BAND_PERCENT = (2.5, 97.5)


@dataclass(frozen=True)
class Temperature:
    """Divide the logit by a temperature: above 1 the network was too sure, below 1 not sure enough (Guo et al. 2017).

    The order of the probabilities and their side of 0.5 stay as they are; 0 and 1 count as 1e-12 away.
    """

    temperature: float

    @classmethod
    def fit(cls, labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> Temperature:
        """The temperature between 0.05 and 20 of least log loss; raises DataError where a class is absent."""
        _need_both_classes(labels)
        # The logit of the true label: its log loss is log(1 + exp(-x)), which never overflows.
        true_logits = _logits(probabilities) * np.where(labels == 1, 1.0, -1.0)

        def loss(log_temperature: float) -> float:
            return float(np.logaddexp(0.0, -true_logits / np.exp(log_temperature)).mean())

        found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-8})
        return cls(float(np.exp(found.x)))

    def apply(self, probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return np.asarray(expit(_logits(probabilities) / self.temperature))

    def to_json(self) -> dict[str, Any]:
        return {"method": "temperature", "temperature": self.temperature}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Temperature:
        return cls(float(record["temperature"]))


@dataclass(frozen=True, eq=False)
class Isotonic:
    """The rising step-like map nearest to the labels (Zadrozny and Elkan 2002), linear between its knots.

    It may give 0 and 1 exactly and makes ties, so the area under the ROC curve can change; it asks for
    more patches than a temperature does.
    """

    probabilities: Float[np.ndarray, " knots"]
    calibrated: Float[np.ndarray, " knots"]

    @classmethod
    def fit(cls, labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> Isotonic:
        """Pool adjacent violators; raises DataError where a class is absent."""
        _need_both_classes(labels)
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(probabilities, labels == 1)
        return cls(np.asarray(fitted.X_thresholds_, np.float64), np.asarray(fitted.y_thresholds_, np.float64))

    def apply(self, probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Probabilities beyond the outermost knots get the value of the nearest."""
        return np.asarray(np.interp(probabilities, self.probabilities, self.calibrated))

    def to_json(self) -> dict[str, Any]:
        return {
            "method": "isotonic",
            "probabilities": self.probabilities.tolist(),
            "calibrated": self.calibrated.tolist(),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Isotonic:
        return cls(np.array(record["probabilities"], np.float64), np.array(record["calibrated"], np.float64))


Calibration = Temperature | Isotonic


def fit_calibration(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], method: Method
) -> Calibration:
    match method:
        case "temperature":
            return Temperature.fit(labels, probabilities)
        case "isotonic":
            return Isotonic.fit(labels, probabilities)


def calibration_from_json(record: dict[str, Any]) -> Calibration:
    """What `to_json` of either map gave; raises DataError for anything else."""
    match record.get("method"):
        case "temperature":
            return Temperature.from_json(record)
        case "isotonic":
            return Isotonic.from_json(record)
        case other:
            raise DataError(f"{other!r} is no calibration", remedy="Use 'temperature' or 'isotonic'.")


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


@dataclass(frozen=True, eq=False)
class Reliability:
    """What was said and what was so, by bins of equal width; NaN where a bin is empty.

    A bin holds the probabilities above its lower edge up to its upper one, the first also 0.
    `lower` and `upper` bound a 95 % band of the observed share from a bootstrap over groups; NaN where
    the bin's patches come from a single group, whose spread is not known.
    """

    edges: Float[np.ndarray, " edges"]
    """One more than bins, from 0 to 1."""
    mean_probability: Float[np.ndarray, " bins"]
    observed_share: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]
    lower: Float[np.ndarray, " bins"]
    upper: Float[np.ndarray, " bins"]

    def to_json(self) -> dict[str, Any]:
        """Lists by name, None for NaN."""
        return {
            column.name: [None if value != value else value for value in getattr(self, column.name).tolist()]
            for column in fields(self)
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Reliability:
        arrays = {column.name: np.array(record[column.name], np.float64) for column in fields(cls)}
        return cls(**{**arrays, "count": arrays["count"].astype(np.int64)})


def reliability(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    bins: int = 10,
    replicates: int = 1000,
    rng: np.random.Generator,
) -> Reliability:
    """The reliability diagram in numbers; groups as for `cross_calibrate`."""
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


def _band(
    counts: np.ndarray, positives: np.ndarray, replicates: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    groups, bins = counts.shape
    shares = np.empty((replicates, bins))
    for replicate in range(replicates):
        drawn = np.bincount(rng.integers(groups, size=groups), minlength=groups).astype(float)
        shares[replicate] = _share(drawn @ positives, drawn @ counts)
    lower, upper = np.full(bins, np.nan), np.full(bins, np.nan)
    spread_known = (counts > 0).sum(axis=0) > 1
    if spread_known.any():
        lower[spread_known], upper[spread_known] = np.nanpercentile(shares[:, spread_known], _BAND_PERCENT, axis=0)
    return lower, upper


def _by_group_and_bin(units: np.ndarray, at: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    groups = int(units.max(initial=-1)) + 1
    return np.bincount(units * bins + at, weights, groups * bins).reshape(groups, bins)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)))


def _need_both_classes(labels: np.ndarray) -> None:
    if len(classes := np.unique(labels)) < 2:
        have = f"only the class {classes[0]}" if len(classes) else "no patch"
        raise DataError(f"calibration has {have} to fit on", remedy="Fit it on patches of both classes.")
