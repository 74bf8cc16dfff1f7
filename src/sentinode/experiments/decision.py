"""What the validation side decided, as a record: calibration maps, operating points, and what both are worth.

decision.json stands in a run's folder for that run, in a study's for the mean of its chosen variant's
runs. The maps and thresholds in it are fitted on all validation patches, for use on new ones. What they
are worth is measured on patches of other slides or groups than those they were fitted on. `decide` makes it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from pydantic import TypeAdapter

from sentinode.errors import ConfigError, DataError, RunError
from sentinode.evaluation import metrics
from sentinode.evaluation.calibration import Calibration, Method, Reliability, calibration_from_json, reliability
from sentinode.evaluation.threshold import OperatingPoint
from sentinode.files import read_record

DECISION: Final = "decision.json"
_ANY_RECORD: Final = TypeAdapter(dict[str, Any])
Scale = Literal["raw", "temperature", "isotonic"]
PointName = Literal["youden", "sensitivity", "cost"]

METHODS: Final[tuple[Method, ...]] = ("temperature", "isotonic")
POINTS: Final[tuple[PointName, ...]] = ("youden", "sensitivity", "cost")


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well the probabilities of one scale agree with the labels; lower scores are better."""

    ece: float
    brier_score: float
    log_loss: float
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

    def to_json(self) -> dict[str, Any]:
        scores = {"ece": self.ece, "brier_score": self.brier_score, "log_loss": self.log_loss}
        return {**scores, "reliability": self.reliability.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Agreement:
        ece, brier_score, log_loss = (float(record[name]) for name in ("ece", "brier_score", "log_loss"))
        return cls(ece, brier_score, log_loss, Reliability.from_json(record["reliability"]))


@dataclass(frozen=True)
class Rates:
    """Shares of patches called rightly, in [0, 1]."""

    sensitivity: float
    specificity: float


@dataclass(frozen=True, eq=False)
class Decision:
    """Calibrations and operating points of one model, from its validation patches."""

    patches: int
    clusters: int
    """Slides or groups among the patches; a patch on its own is one."""
    calibrations: dict[Method, Calibration]
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

    def point(self, name: str, *, where: Path | None = None) -> OperatingPoint:
        """The operating point of that name; raises ConfigError for another name or one that could not be chosen."""
        if name not in POINTS:
            known = f"{', '.join(POINTS[:-1])} or {POINTS[-1]}"
            raise ConfigError(f"unknown operating point {name!r}", remedy=f"Give {known}, or a number between 0 and 1.")
        if name not in self.points:
            raise ConfigError(
                f"holds no operating point {name!r}: {self.not_fitted}",
                where=where,
                remedy="Give a number between 0 and 1.",
            )
        return self.points[name]

    def calibration(self, method: str, *, where: Path | None = None) -> Calibration:
        """The map of that name; raises ConfigError for another name or one that could not be fitted."""
        if method not in METHODS:
            raise ConfigError(f"unknown calibration {method!r}", remedy=f"Give {' or '.join(METHODS)}.")
        if method not in self.calibrations:
            raise ConfigError(
                f"holds no calibration {method!r}: {self.not_fitted}",
                where=where,
                remedy="Predict without a calibration.",
            )
        return self.calibrations[method]

    def to_json(self) -> dict[str, Any]:
        return {
            "patches": self.patches,
            "clusters": self.clusters,
            "calibrations": {method: found.to_json() for method, found in self.calibrations.items()},
            "points": {name: point.to_json() for name, point in self.points.items()},
            "agreements": {scale: agreement.to_json() for scale, agreement in self.agreements.items()},
            "cross_fitted": {name: asdict(rates) for name, rates in self.cross_fitted.items()},
            "not_fitted": self.not_fitted,
            "not_cross_fitted": self.not_cross_fitted,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Decision:
        return cls(
            int(record["patches"]),
            int(record["clusters"]),
            {method: calibration_from_json(found) for method, found in record["calibrations"].items()},
            {name: OperatingPoint.from_json(point) for name, point in record["points"].items()},
            {scale: Agreement.from_json(agreement) for scale, agreement in record["agreements"].items()},
            {name: Rates(**rates) for name, rates in record["cross_fitted"].items()},
            str(record["not_fitted"]),
            str(record["not_cross_fitted"]),
        )


def open_decision(folder: Path) -> Decision:
    """The decision of a finished run or study; raises RunError where its folder holds none, or a damaged one."""
    path = folder / DECISION
    try:
        return Decision.from_json(read_record(path, _ANY_RECORD))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, DataError) as error:
        raise RunError(
            f"is not a decision record ({error})", where=path, remedy="Restore it, or train the run again."
        ) from error
