"""A decision -> what a page shows of it: calibration and operating points, in words, tables and charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sentinode.evaluation.calibration import TEMPERATURES, Temperature
from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.experiments.decision import Decision, Scale
from sentinode.report.charts import Chart
from sentinode.report.decision_figures import Believed, reliability_diagram
from sentinode.report.figures import INK, VARIANTS
from sentinode.report.tables import Table, number

LOOKS: Final[dict[Scale, tuple[str, str]]] = {
    "raw": (INK, "o"),
    "temperature": (VARIANTS[4], "s"),
    "isotonic": (VARIANTS[1], "D"),
}
AGREEMENT_SCORES: Final = ("ece", "brier_score", "log_loss")


@dataclass(frozen=True)
class DecisionPart:
    """What the macros of decision.html show."""

    temperature: str
    """What the fitted temperature says, in a sentence; "" where none could be fitted."""
    agreements: Table
    diagrams: Sequence[Chart]
    points: Table | None
    absent: Sequence[str]
    """What the validation side could not give, and why, a sentence each."""


def decision_part(key: str, decision: Decision) -> DecisionPart:
    """`key` names the figures, a different one for each decision of a page."""
    absent = []
    if decision.not_fitted:
        absent.append(f"No calibration was fitted and no operating point chosen: {decision.not_fitted}.")
    if decision.not_cross_fitted:
        absent.append(
            f"Nothing was calibrated or chosen on other slides or groups than those scored: "
            f"{decision.not_cross_fitted}."
        )
    return DecisionPart(
        _temperature_in_words(decision), _agreements(decision), _diagrams(key, decision), _points(decision), absent
    )


def _temperature_in_words(decision: Decision) -> str:
    match decision.calibrations.get("temperature"):
        case Temperature(temperature):
            told = f"Fitted on the whole validation side, T = {temperature:.2f}"
            if not TEMPERATURES[0] * 1.01 < temperature < TEMPERATURES[1] * 0.99:
                return f"{told}, the end of the range that is tried: no temperature calibrates these probabilities."
            if f"{temperature:.2f}" == "1.00":
                return f"{told}: the model is well calibrated."
            if temperature > 1:
                return f"{told}: above 1 the model is over-confident, and its probabilities move towards 0.5."
            return f"{told}: below 1 the model is under-confident, and its probabilities move away from 0.5."
        case _:
            return ""


def _agreements(decision: Decision) -> Table:
    rows = [
        [scale, *(number(getattr(agreement, score)) for score in AGREEMENT_SCORES)]
        for scale, agreement in decision.agreements.items()
    ]
    others = ", each map fitted on other slides or groups than those scored" if len(rows) > 1 else ""
    return Table(
        f"Agreement of probabilities and labels on the validation side{others}. Lower is better.",
        ["probabilities", *(METRIC_NAMES[score] for score in AGREEMENT_SCORES)],
        rows,
        swatches=[LOOKS[scale][0] for scale in decision.agreements],
    )


def _diagrams(key: str, decision: Decision) -> list[Chart]:
    """The raw scale, and beside it both calibrated ones."""
    believed = {
        scale: Believed(scale, *LOOKS[scale], agreement.reliability) for scale, agreement in decision.agreements.items()
    }
    raw = believed.pop("raw")
    charts = [
        Chart(
            "Reliability of the raw probabilities",
            reliability_diagram(f"{key}-reliability-raw", [raw]),
            "On the dotted line probabilities equal the share of tumour; below it they are too high. A "
            f"bar is a 95 % band from a bootstrap over {decision.clusters:,} slides or groups.",
        )
    ]
    if believed:
        charts.append(
            Chart(
                "Reliability after calibration",
                reliability_diagram(f"{key}-reliability-calibrated", list(believed.values())),
                "The same patches, each calibrated by a map that was fitted on other slides or groups.",
            )
        )
    return charts


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
        "Operating points on the raw probability: what they gave where they were chosen, and cross-fitted.",
        ["name", "threshold", *rates_head, "rule"],
        rows,
        frozenset({"rule"}),
    )
