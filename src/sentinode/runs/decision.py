"""What the validation set decided, as a record: calibration maps, operating points, and what both are worth.

decision.json stands in a run's folder for that run, in a study's for the mean of its chosen variant's
runs. The maps and thresholds in it are fitted on all validation patches, for use on new ones. What they
are worth is measured on patches of other slides or groups than those they were fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from pydantic import Field

from sentinode.config.run import DecisionConfig
from sentinode.errors import DataError, SplitError
from sentinode.evaluation import metrics
from sentinode.evaluation.calibration import (
    METHODS,
    Calibration,
    Method,
    Reliability,
    cross_calibrate,
    cross_folds,
    fit_calibration,
    reliability,
)
from sentinode.evaluation.clusters import CLUSTER_NAMES, ClusterKind, cluster_numbers
from sentinode.evaluation.metrics import OwnMetric
from sentinode.evaluation.threshold import POINTS, OperatingPoint, PointName, fixed_sensitivity, least_cost, youden
from sentinode.inference.predictions import Predictions
from sentinode.randomness import Purpose
from sentinode.records import Number, read_record
from sentinode.runs.run_record import OwnScore

DECISION: Final = "decision.json"
Scale = Literal["raw", "temperature", "isotonic"]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well the probabilities of one scale agree with the labels; lower scores are better."""

    ece: Number
    brier_score: Number
    log_loss: Number
    reliability: Reliability

    @classmethod
    def of(
        cls,
        labels: Int[np.ndarray, " n"],
        probabilities: Float[np.ndarray, " n"],
        clusters: Shaped[np.ndarray, " n"],
        rng: np.random.Generator,
    ) -> Agreement:
        """Of labels that are known; `clusters` names the slide or group of each patch, "" for one on its own."""
        return cls(
            metrics.expected_calibration_error(labels, probabilities),
            metrics.brier_score(labels, probabilities),
            metrics.log_loss(labels, probabilities),
            reliability(labels, probabilities, clusters, rng=rng),
        )


@dataclass(frozen=True)
class Rates:
    """Shares of patches called rightly, in [0, 1]."""

    sensitivity: Number
    specificity: Number


@dataclass(frozen=True, eq=False)
class Decision:
    """Calibrations and operating points of one model, from its validation patches."""

    patches: int
    clusters: int
    """Slides or groups among the patches; a patch on its own is one."""
    calibrations: dict[Method, Annotated[Calibration, Field(discriminator="method")]]
    """Fitted on all validation patches."""
    points: dict[PointName, OperatingPoint]
    """Chosen on all validation patches; thresholds are on the raw scale."""
    agreements: dict[Scale, Agreement]
    """Raw, and calibrated by maps that were fitted on other slides or groups."""
    cross_fitted: dict[PointName, Rates]
    """With the threshold of each patch chosen on other slides or groups, by the same rule."""
    not_fitted: str = ""
    """Why there are no calibrations and points, if so."""
    not_cross_fitted: str = ""
    """Why only the raw scale is scored, if so."""


def open_decision(folder: Path) -> Decision:
    """The decision of a finished run or study; raises RunError where its folder holds none, or a damaged one."""
    return read_record(folder / DECISION, Decision)


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

    try:
        calibrations = {method: fit_calibration(labels, raw, method) for method in METHODS}
        points = _points(labels, raw, config)
    except DataError as error:
        not_fitted = error.what
    try:
        folds = cross_folds(labels, clusters, folds=config.calibration_folds, rng=Purpose.CROSS_FITTING.rng(seed))
        scales |= {method: cross_calibrate(labels, raw, folds, method) for method in METHODS}
        cross_fitted = _cross_fitted(labels, raw, folds, config)
    except (DataError, SplitError) as error:
        not_cross_fitted = error.what
    return Decision(
        len(predictions),
        len(np.unique(cluster_numbers(clusters))),
        calibrations,
        points,
        {
            scale: Agreement.of(labels, values, clusters, Purpose.RELIABILITY.rng(seed))
            for scale, values in scales.items()
        },
        cross_fitted,
        not_fitted,
        not_cross_fitted,
    )


def own_scores(
    predictions: Predictions,
    clusters: Shaped[np.ndarray, " n"],
    kind: ClusterKind,
    own: Mapping[str, OwnMetric],
    *,
    seed: int,
) -> dict[str, OwnScore]:
    """Each score of the user's own on these patches, from a bootstrap of their clusters."""
    if not own:
        return {}
    from sentinode.evaluation.bootstrap import bootstrap  # here: it takes SciPy, a prediction does not

    found = bootstrap(
        predictions.labels,
        predictions.probabilities[None, None],
        clusters,
        rng=Purpose.OWN_METRICS.rng(seed),
        metrics=(),
        unit=CLUSTER_NAMES[kind],
        own=own,
    )
    each = {name: found.interval(0, name) for name in own}
    return {name: OwnScore(of.estimate, of.low, of.high, of.reason) for name, of in each.items()}


def _points(
    labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], config: DecisionConfig
) -> dict[PointName, OperatingPoint]:
    return {
        "youden": youden(labels, probabilities),
        "sensitivity": fixed_sensitivity(labels, probabilities, config.sensitivity),
        "cost": least_cost(labels, probabilities, config.cost_of_miss, config.prevalence),
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
