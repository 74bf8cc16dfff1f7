"""Figures of runs: learning curves, scores by seed, differences, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sentinode.evaluation.bands import Band
from sentinode.report.figures.style import INK, MUTED, RULE, SURFACE, VARIANTS, panel
from sentinode.runs.run import Run

_UNIT_SQUARE: Final[dict[str, Any]] = {"xlim": (-0.01, 1.01), "ylim": (-0.01, 1.01), "aspect": "equal"}
_INSIDE: Final[dict[str, Any]] = {"handlelength": 1.2, "labelspacing": 0.35}
_DECADES: Final = 100  # largest to smallest value, beyond which a scale is logarithmic
_FEW_VALUES: Final = 6  # that are all named on the axis


@dataclass(frozen=True, eq=False)
class Curve:
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, eq=False)
class Curves:
    """One curve a seed, drawn thin, and their mean, drawn bold; a single seed is its own mean."""

    label: str
    colour: str
    each: tuple[Curve, ...]
    mean: Curve
    dashed: bool = False


def learning_curves(
    name: str, quantity: str, families: Sequence[Curves], *, limits: tuple[float, float] | None = None
) -> Markup:
    """A quantity by epoch."""
    labels = ", ".join(family.label for family in families)
    with panel(name, f"Line chart: {quantity} by epoch: {labels}") as p:
        for family in families:
            style = "--" if family.dashed else "-"
            if len(family.each) > 1:
                for curve in family.each:
                    p.axes.plot(curve.x, curve.y, style, color=family.colour, linewidth=0.8, alpha=0.45)
            few = len(family.mean.x) <= 8
            p.axes.plot(
                family.mean.x,
                family.mean.y,
                style,
                color=family.colour,
                linewidth=2.1,
                marker="o" if few else None,
                markersize=4,
                label=family.label,
            )
        p.axes.set(xlabel="epoch", ylabel=quantity, ylim=limits)
        p.axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        p.axes.yaxis.set_major_locator(MaxNLocator(6))
        p.legend(columns=2)
    return p.svg


def scores_by_seed(name: str, quantity: str, variants: Sequence[tuple[str, str, Sequence[float]]]) -> Markup:
    """Label, colour and one score a seed for each variant: a dot a seed, joined across variants, and the mean."""
    height = 0.85 + 0.27 * len(variants)
    with panel(name, f"Dot chart: {quantity} of each seed by variant", height_in=height) as p:
        rows = np.arange(len(variants))[::-1]
        for of_seed in zip(*(values for _, _, values in variants), strict=True):
            p.axes.plot(of_seed, rows, color=MUTED, linewidth=0.6, alpha=0.6, zorder=1)
        for row, (_, colour, values) in zip(rows, variants, strict=True):
            p.axes.scatter(values, np.full(len(values), row), s=34, color=colour, edgecolors=SURFACE, linewidths=0.8)
            if len(values) > 1:
                p.axes.plot([np.mean(values)] * 2, [row - 0.26, row + 0.26], color=INK, linewidth=2.0, zorder=3)
        p.axes.set_yticks(rows, [label for label, _, _ in variants], color=INK)
        p.axes.set(xlabel=quantity, ylim=(-0.6, len(variants) - 0.4))
        p.axes.xaxis.set_major_locator(MaxNLocator(5))
        p.axes.tick_params(axis="y", length=0)
        p.axes.spines["left"].set_visible(False)
        p.axes.grid(visible=False, axis="y")
    return p.svg


def scores_by_parameter(
    name: str,
    parameter: str,
    quantity: str,
    values: Sequence[Any],
    scores: Sequence[Sequence[float]],
    best: int,
) -> Markup:
    """Scores of trials against one of their settings: a dot a seed, the means joined in order, the best one ringed.

    Numbers lie on a scale, logarithmic where they span more than two decades; other values stand side by side.
    """
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    order = list(dict.fromkeys(sorted(values) if numeric else values))
    x = [float(value) if numeric else float(order.index(value)) for value in values]
    means = [float(np.mean(of_trial)) for of_trial in scores]
    with panel(name, f"Dot chart: {quantity} of each trial against {parameter}", height_in=2.4) as p:
        for at, of_trial in zip(x, scores, strict=True):
            p.axes.scatter([at] * len(of_trial), of_trial, s=18, color=VARIANTS[0], alpha=0.55, linewidths=0)
        if len(set(x)) == len(x):
            along = np.argsort(x)
            p.axes.plot(np.array(x)[along], np.array(means)[along], color=VARIANTS[0], linewidth=2.0)
        p.axes.scatter(x, means, s=34, color=VARIANTS[0], edgecolors=SURFACE, linewidths=0.8, zorder=3)
        p.axes.scatter([x[best]], [means[best]], s=120, facecolors="none", edgecolors=INK, linewidths=1.6, zorder=4)
        if numeric and min(x) > 0 and max(x) / min(x) > _DECADES:
            p.axes.set_xscale("log")
        if not numeric or len(order) <= _FEW_VALUES:
            p.axes.set_xticks(sorted(set(x)), [str(value) for value in order])
            p.axes.minorticks_off()
        p.axes.set(xlabel=parameter, ylabel=quantity)
        p.axes.yaxis.set_major_locator(MaxNLocator(5))
    return p.svg


@dataclass(frozen=True)
class Effect:
    """A difference and its interval, one row of a forest plot; where the interval is unknown its ends are NaN."""

    label: str
    colour: str
    difference: float
    low: float
    high: float


def forest(name: str, quantity: str, effects: Sequence[Effect], *, smallest_effect: float) -> Markup:
    """Differences with their intervals; the band holds differences too small to matter."""
    height = 0.85 + 0.24 * len(effects)
    with panel(name, f"Forest plot: differences in {quantity}", height_in=height) as p:
        p.axes.axvspan(-smallest_effect, smallest_effect, color=RULE, alpha=0.5, linewidth=0)
        p.axes.axvline(0, color=MUTED, linewidth=1.0)
        for row, effect in enumerate(reversed(effects)):
            p.axes.plot([effect.low, effect.high], [row, row], color=effect.colour, linewidth=2.1)
            unknown = np.isnan(effect.low)
            fill = SURFACE if unknown else effect.colour
            edge = effect.colour if unknown else SURFACE
            p.axes.scatter([effect.difference], [row], s=44, color=fill, edgecolors=edge, zorder=3)
        p.axes.set_yticks(range(len(effects)), [effect.label for effect in reversed(effects)], color=INK)
        p.axes.set(xlabel=f"difference in {quantity}", ylim=(-0.6, len(effects) - 0.4))
        p.axes.xaxis.set_major_locator(MaxNLocator(5))
        p.axes.tick_params(axis="y", length=0)
        p.axes.spines["left"].set_visible(False)
        p.axes.grid(visible=False, axis="y")
    return p.svg


@dataclass(frozen=True, eq=False)
class Banded:
    """A variant's mean curve and its 95 % band."""

    label: str
    colour: str
    band: Band


def roc_bands(name: str, variants: Sequence[Banded]) -> Markup:
    with panel(name, f"ROC curves: {', '.join(v.label for v in variants)}", height_in=3.5) as p:
        p.axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1.0)
        _draw_bands(p.axes, variants)
        p.axes.set(xlabel="false positive rate (1 - specificity)", ylabel="sensitivity", **_UNIT_SQUARE)
        p.axes.legend(loc="lower right", **_INSIDE)
    return p.svg


def precision_bands(name: str, variants: Sequence[Banded], positive_share: float) -> Markup:
    with panel(name, f"Precision-recall curves: {', '.join(v.label for v in variants)}", height_in=3.5) as p:
        p.axes.axhline(positive_share, linestyle=":", color=MUTED, linewidth=1.0)
        _draw_bands(p.axes, variants)
        p.axes.set(xlabel="recall (sensitivity)", ylabel="precision", **_UNIT_SQUARE)
        p.axes.legend(loc="lower left", **_INSIDE)
    return p.svg


def _draw_bands(axes: Axes, variants: Sequence[Banded]) -> None:
    for variant in variants:
        band = variant.band
        axes.fill_between(band.x, band.low, band.high, color=variant.colour, alpha=0.14, linewidth=0)
        axes.plot(band.x, band.mean, color=variant.colour, linewidth=1.8, label=variant.label)


def banded_curve(
    name: str, along: str, quantity: str, x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Markup:
    """One curve with its 95 % band about zero; a band that is not known is left out."""
    with panel(name, f"Line chart: {quantity} along {along}", height_in=1.9) as p:
        p.axes.axhline(0, color=MUTED, linewidth=1.0)
        p.axes.fill_between(x, low, high, color=VARIANTS[3], alpha=0.16, linewidth=0)
        p.axes.plot(x, y, color=VARIANTS[3], linewidth=2.0)
        p.axes.set(xlabel=along, ylabel=quantity)
        p.axes.xaxis.set_major_locator(MaxNLocator(5))
        p.axes.yaxis.set_major_locator(MaxNLocator(5))
    return p.svg


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


def common_limits(families: Sequence[Curves]) -> tuple[float, float] | None:
    """One range for panels that are to be compared; None where nothing is finite."""
    values = np.concatenate([np.r_[curve.y] for family in families for curve in family.each])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin
