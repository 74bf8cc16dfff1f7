"""A decision -> what a page shows of it: calibration and operating points, in words, tables and charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from sentinode.evaluation.calibration import TEMPERATURES, Reliability, Temperature
from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.report.figures.charts import Chart
from sentinode.report.figures.style import INK, MUTED, SURFACE, VARIANTS, panel
from sentinode.report.prose.numbers import number
from sentinode.report.sections.tables import Table
from sentinode.runs.decision import Agreement, Decision, Scale

LOOKS: Final[dict[Scale, tuple[str, str]]] = {
    "raw": (INK, "o"),
    "temperature": (VARIANTS[4], "s"),
    "isotonic": (VARIANTS[1], "D"),
}
_CLOSE: Final = 0.02  # of a mean probability to the share that was observed
_SCORES: Final = ("ece", "brier_score", "log_loss")


@dataclass(frozen=True)
class DecisionPart:
    """What the macros of decision.html show."""

    temperature: str
    """What the fitted temperature says, in a sentence; "" where none could be fitted."""
    agreements: Table
    diagrams: Sequence[Chart]
    points: Table | None
    absent: Sequence[str]
    """What the validation set could not give, and why, a sentence each."""


def decision_part(key: str, decision: Decision) -> DecisionPart:
    """`key` names the figures, a different one for each decision of a page."""
    absent = []
    if decision.not_fitted:
        absent.append(f"No calibration was fitted and no operating point chosen: {decision.not_fitted}.")
    if decision.not_cross_fitted:
        absent.append(f"There is no cross-fitted score: {decision.not_cross_fitted}.")
    found = decision.agreements
    others = ", with maps fitted on other slides or groups" if len(found) > 1 else ""
    return DecisionPart(
        _temperature_in_words(decision),
        agreements(f"Calibration scores on the validation set{others}", found),
        reliability_charts(key, found),
        _points(decision),
        absent,
    )


def _temperature_in_words(decision: Decision) -> str:
    match decision.calibrations.get("temperature"):
        case Temperature(temperature):
            told = f"Fitted on the whole validation set, T = {temperature:.2f}"
            if not TEMPERATURES[0] * 1.01 < temperature < TEMPERATURES[1] * 0.99:
                return f"{told}, the end of the tried range: no temperature calibrates these probabilities."
            if f"{temperature:.2f}" == "1.00":
                return f"{told}: the model is well calibrated."
            if temperature > 1:
                return f"{told}: above 1 the model is over-confident, and its probabilities move towards 0.5."
            return f"{told}: below 1 the model is under-confident, and its probabilities move away from 0.5."
        case _:
            return ""


def agreements(what: str, found: Mapping[Scale, Agreement]) -> Table:
    """A table of calibration scores; `what` begins its caption."""
    return Table(
        f"{what}; lower is better.",
        ["probabilities", *(METRIC_NAMES[score] for score in _SCORES)],
        [[scale, *(number(getattr(agreement, score)) for score in _SCORES)] for scale, agreement in found.items()],
        swatches=[LOOKS[scale][0] for scale in found],
    )


def reliability_charts(key: str, found: Mapping[Scale, Agreement]) -> list[Chart]:
    """The raw scale, and beside it both calibrated ones, each map fitted on other slides or groups."""
    titles = {"raw": "Reliability of the raw probabilities", "calibrated": "Reliability after calibration"}
    families: dict[str, dict[Scale, Reliability]] = {"raw": {}, "calibrated": {}}
    for scale, agreement in found.items():
        families["raw" if scale == "raw" else "calibrated"][scale] = agreement.reliability
    return [
        Chart(
            titles[name],
            reliability_diagram(f"{key}-reliability-{name}", family),
            " ".join(_believed(scale, of) for scale, of in family.items()),
        )
        for name, family in families.items()
        if family
    ]


def _believed(scale: Scale, found: Reliability) -> str:
    """Whether probabilities are too high or too low, on average over the patches."""
    filled = found.count > 0
    gap = float(np.average(found.mean_probability[filled] - found.observed_share[filled], weights=found.count[filled]))
    if abs(gap) < _CLOSE:
        return f"{scale.capitalize()}: on average right (within {_CLOSE:g} of the observed share of tumour)."
    how = "above the observed share of tumour: too high" if gap > 0 else "below the observed share of tumour: too low"
    return f"{scale.capitalize()}: on average {abs(gap):.2f} {how}."


def _points(decision: Decision) -> Table | None:
    if not decision.points:
        return None
    rows = []
    for name, point in decision.points.items():
        held_out = decision.cross_fitted.get(name)
        rates = [point.sensitivity, point.specificity]
        rates += [held_out.sensitivity, held_out.specificity] if held_out else [math.nan, math.nan]
        rows.append([name, number(point.threshold), *(number(rate, 3) for rate in rates), point.rule])
    rates_head = ["sensitivity", "specificity", "cross-fitted sensitivity", "cross-fitted specificity"]
    return Table(
        "Operating points on the raw probability: on the patches that chose them, and cross-fitted.",
        ["name", "threshold", *rates_head, "rule"],
        rows,
        frozenset({"rule"}),
    )


_ASIDE = 0.012  # of the scale: so that bars of two families stand side by side


def reliability_diagram(name: str, families: Mapping[Scale, Reliability]) -> Markup:
    """Observed share of tumour by mean probability, with 95 % bars, and above it the patches of each bin.

    A bin without patches is left out; one whose patches come from a single slide or group has no bar.
    """
    told = f"Reliability diagram: observed share of tumour by probability: {', '.join(families)}"
    with panel(name, told, height_in=4.3) as p:
        p.axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1.0)
        counts = p.axes.inset_axes((0, 1.03, 1, 0.16), sharex=p.axes)
        for place, (scale, found) in enumerate(families.items()):
            colour, marker = LOOKS[scale]
            aside = _ASIDE * (place - (len(families) - 1) / 2)
            filled = found.count > 0
            x, y = found.mean_probability[filled] + aside, found.observed_share[filled]
            p.axes.vlines(x, found.lower[filled], found.upper[filled], color=colour, linewidth=5.0, alpha=0.3)
            looks: dict[str, Any] = {
                "marker": marker,
                "markersize": 6,
                "markeredgecolor": SURFACE,
                "markeredgewidth": 0.7,
            }
            p.axes.plot(x, y, color=colour, linewidth=1.2, label=scale, **looks)
            width = 0.8 * np.diff(found.edges) / len(families)
            middle = (found.edges[:-1] + found.edges[1:]) / 2
            offset = width * (place - (len(families) - 1) / 2)
            counts.bar(middle + offset, found.count, width=width, color=colour, linewidth=0)
        counts.set_ylabel("patches", fontsize=8.5, labelpad=2)
        counts.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        counts.tick_params(labelbottom=False, bottom=False)
        counts.grid(visible=False, axis="x")
        p.axes.set(
            xlabel="probability of tumour",
            ylabel="observed share of tumour",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            aspect="equal",
        )
        p.legend(columns=len(families))
    return p.svg
