"""Fitting calibration maps: on all patches, or for each patch on the patches of other groups.

Labels must be known (0 or 1) throughout. Apart from the maps, because fitting takes SciPy and scikit-learn, for which a
prediction need not wait.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression

from sentinode.errors import DataError, SplitError
from sentinode.evaluation.calibration import TEMPERATURES, Calibration, Isotonic, Method, Temperature, logits
from sentinode.evaluation.clusters import cluster_numbers
from sentinode.splits.allocation import assign_units


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
    _need_both_classes(labels)
    # The logit of the true label: its log loss is log(1 + exp(-x)), which never overflows.
    true_logits = logits(probabilities) * np.where(labels == 1, 1.0, -1.0)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -true_logits / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-8})
    return Temperature(float(np.exp(found.x)))


def fit_isotonic(labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"]) -> Isotonic:
    """Pool adjacent violators; raises DataError where a class is absent."""
    _need_both_classes(labels)
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(probabilities, labels == 1)
    return Isotonic(np.asarray(fitted.X_thresholds_, np.float64), np.asarray(fitted.y_thresholds_, np.float64))


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
