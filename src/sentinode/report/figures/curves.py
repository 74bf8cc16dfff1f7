"""Runs -> the curves that are drawn of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sentinode.evaluation.metrics import roc_curve
from sentinode.report.figures.scores import Curve, Curves
from sentinode.runs.run import Run


def by_epoch(label: str, colour: str, runs: Sequence[Run], column: str, *, dashed: bool = False) -> Curves:
    """A column of the histories; the mean ends where the first run stopped, so it is always over all runs."""
    histories = [run.history.set_index("epoch")[column] for run in runs]
    together = pd.concat(histories, axis=1, join="inner")
    return Curves(
        label,
        colour,
        each=tuple(Curve(history.index.to_numpy(), history.to_numpy()) for history in histories),
        mean=Curve(together.index.to_numpy(), together.mean(axis=1, skipna=False).to_numpy()),
        dashed=dashed,
    )


def roc(run: Run) -> Curve:
    """The ROC curve of a run's validation side."""
    curve = roc_curve(run.predictions.labels, run.predictions.probabilities)
    return Curve(curve.false_positive_rate, curve.sensitivity)


def common_limits(families: Sequence[Curves]) -> tuple[float, float] | None:
    """One range for panels that are to be compared; None where nothing is finite."""
    values = np.concatenate([np.r_[curve.y] for family in families for curve in family.each])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin
