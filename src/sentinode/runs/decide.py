"""Deciding on the validation side: how probabilities are mended, where thresholds lie, and what both are worth.

Apart from `decision`, the record, because it takes what fits the maps, which a prediction does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from sentinode.config import DecisionConfig
from sentinode.errors import DataError, SplitError
from sentinode.evaluation.bootstrap import bootstrap
from sentinode.evaluation.calibration import METHODS, Calibration, Method
from sentinode.evaluation.calibration_fit import cross_calibrate, cross_folds, fit_calibration
from sentinode.evaluation.clusters import CLUSTER_NAMES, ClusterKind, cluster_numbers
from sentinode.evaluation.metrics import OwnMetric
from sentinode.evaluation.threshold import POINTS, OperatingPoint, PointName, fixed_sensitivity, least_cost, youden
from sentinode.inference.predictions import Predictions
from sentinode.inputs.batches import derive_seed
from sentinode.runs.decision import Agreement, Decision, Rates, Scale
from sentinode.runs.run_record import OwnScore
from sentinode.runs.variant import Variant

_PURPOSE: Final = 2  # of the numbers drawn here, among those that derive from a run's seed
_FOR_OWN: Final = 9  # beside the purposes in `decide`


def decide(
    predictions: Predictions, clusters: Shaped[np.ndarray, " n"], config: DecisionConfig, *, seed: int
) -> Decision:
    """Fit, choose and score on validation patches with known labels.

    `clusters` names the slide or group of each patch, "" for one on its own. What these patches cannot
    give is absent, and the decision says why.
    """
    labels, raw = predictions.labels, predictions.probabilities
    calibrations: dict[Method, Calibration] = {}
    points: dict[PointName, OperatingPoint] = {}
    scales: dict[Scale, np.ndarray] = {"raw": raw}
    cross_fitted: dict[PointName, Rates] = {}
    not_fitted = not_cross_fitted = ""

    def rng(purpose: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(seed, _PURPOSE, purpose))

    try:
        calibrations = {method: fit_calibration(labels, raw, method) for method in METHODS}
        points = _points(labels, raw, config)
    except DataError as error:
        not_fitted = error.what
    try:
        folds = cross_folds(labels, clusters, folds=config.calibration_folds, rng=rng(0))
        scales |= {method: cross_calibrate(labels, raw, folds, method) for method in METHODS}
        cross_fitted = _cross_fitted(labels, raw, folds, config)
    except (DataError, SplitError) as error:
        not_cross_fitted = error.what
    return Decision(
        len(predictions),
        len(np.unique(cluster_numbers(clusters))),
        calibrations,
        points,
        {scale: Agreement.of(labels, values, clusters, rng(1)) for scale, values in scales.items()},
        cross_fitted,
        not_fitted,
        not_cross_fitted,
    )


def own_scores(
    predictions: Predictions,
    clusters: Shaped[np.ndarray, " n"],
    kind: ClusterKind,
    metrics: Mapping[str, OwnMetric],
    *,
    seed: int,
) -> dict[str, OwnScore]:
    """Each score of the user's own on these patches, from a bootstrap of their clusters."""
    if not metrics:
        return {}
    found = bootstrap(
        predictions.labels,
        predictions.probabilities[None, None],
        clusters,
        rng=np.random.default_rng(derive_seed(seed, _PURPOSE, _FOR_OWN)),
        metrics=(),
        unit=CLUSTER_NAMES[kind],
        own=metrics,
    )
    each = {name: found.interval(0, name) for name in metrics}
    return {name: OwnScore(of.estimate, of.low, of.high, of.reason) for name, of in each.items()}


def decide_together(variant: Variant) -> Decision:
    """Calibrations and operating points for the mean of all of a variant's runs."""
    cluster_of = {patch: cluster for run in variant.runs for patch, cluster in run.clusters_by_id.items()}
    predictions, config = variant.predictions, variant.runs[0].config
    clusters = np.array([cluster_of[patch] for patch in predictions.ids.tolist()])
    return decide(predictions, clusters, config.decision, seed=config.fit.seed)


def _points(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], config: DecisionConfig
) -> dict[PointName, OperatingPoint]:
    return {
        "youden": youden(labels, probabilities),
        "sensitivity": fixed_sensitivity(labels, probabilities, config.sensitivity),
        "cost": least_cost(labels, probabilities, config.cost_of_miss, 1.0, config.prevalence),
    }


def _cross_fitted(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    folds: Int[np.ndarray, " n"],
    config: DecisionConfig,
) -> dict[PointName, Rates]:
    called = {name: np.empty(len(labels), bool) for name in POINTS}
    for fold in np.unique(folds):
        inside = folds == fold
        for name, point in _points(labels[~inside], probabilities[~inside], config).items():
            called[name][inside] = probabilities[inside] > point.threshold
    return {
        name: Rates(float(positive[labels == 1].mean()), float(1 - positive[labels == 0].mean()))
        for name, positive in called.items()
    }
