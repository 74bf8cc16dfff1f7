"""Runs -> the curves that are drawn of them: one a seed, and their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sentinode.evaluation.metrics import roc_curve
from sentinode.experiments.run import Run
from sentinode.report.score_figures import Curve, Curves

_ROC_POINTS = 201


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


def roc(label: str, colour: str, runs: Sequence[Run]) -> Curves:
    """ROC curves of the validation side; the mean is that of the sensitivities at each false positive rate."""
    curves = [roc_curve(run.predictions.labels, run.predictions.probabilities) for run in runs]
    each = tuple(Curve(curve.false_positive_rate, curve.sensitivity) for curve in curves)
    if len(each) == 1:
        return Curves(label, colour, each, each[0])
    rates = np.linspace(0.0, 1.0, _ROC_POINTS)
    mean = np.mean([np.interp(rates, curve.x, curve.y) for curve in each], axis=0)
    return Curves(label, colour, each, Curve(np.r_[0.0, rates], np.r_[0.0, mean]))


def common_limits(families: Sequence[Curves]) -> tuple[float, float] | None:
    """One range for panels that are to be compared; None where nothing is finite."""
    values = np.concatenate([np.r_[curve.y] for family in families for curve in family.each])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin
