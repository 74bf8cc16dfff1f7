"""What the validation side decided, as a record: calibration maps, operating points, and what both are worth.

decision.json stands in a run's folder for that run, in a study's for the mean of its chosen variant's
runs. The maps and thresholds in it are fitted on all validation patches, for use on new ones. What they
are worth is measured on patches of other slides or groups than those they were fitted on. `decide` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from pydantic import Field

from sentinode.evaluation import metrics
from sentinode.evaluation.calibration import Calibration, Method, Reliability, reliability
from sentinode.evaluation.threshold import OperatingPoint, PointName
from sentinode.records import Number, read_record

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
