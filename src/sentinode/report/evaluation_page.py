"""A model scored on labelled patches -> what its page shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sentinode.evaluation.clusters import STAIN_CAUTION, ClusterKind
from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.experiments.decision import Scale
from sentinode.experiments.evaluate import Evaluation, SlideScores
from sentinode.inference.probabilities import Predictions
from sentinode.report import parts, score_figures
from sentinode.report.charts import Chart
from sentinode.report.decision_figures import Believed, reliability_diagram
from sentinode.report.decision_part import AGREEMENT_SCORES, LOOKS
from sentinode.report.figures import VARIANTS
from sentinode.report.tables import Table, between, number, one_prediction
from sentinode.report.words import NO_CLINIC

_COVERS: Final = (
    "The intervals say what other slides like these would give. They do not cover another training, another scanner or "
    "another hospital."
)
_STAND_INS: Final[dict[ClusterKind, str]] = {
    "slide": "",
    "patient": "",
    "slide+group": " Where slides are not known, groups of patches stand in for them: where a group is less than a "
    "slide, the intervals are too narrow.",
    "slide+stain": f" {STAIN_CAUTION}",
    "stain": f" {STAIN_CAUTION}",
    "group": " Slides are not known, and groups of patches stand in for them: where a group is less than a slide, the "
    "intervals are too narrow.",
}


def evaluation_context(folder: Path, found: Evaluation, predictions: Predictions) -> dict[str, Any]:
    share = found.positive / found.patches
    whose = "one network" if found.networks == 1 else f"{found.networks} networks together"
    slides = sum(slide.slide != "unknown" for slide in found.slides)
    return {
        "title": f"{found.model} on {found.labels}",
        "note": found.note,
        "sections": {
            "scores": "Scores",
            **({"slides": "Slide by slide"} if found.slides else {}),
            **({"curves": "ROC and precision"} if found.curves else {}),
            "errors": "Errors",
            "decision": "Calibration and operating points",
            "mistakes": "Worst mistakes",
        },
        "facts": [
            f"{found.patches:,} patches, {share:.0%} positive",
            *([f"{slides:,} slides"] if slides else []),
            whose,
        ],
        "cards": [
            (
                METRIC_NAMES["auc"],
                number(found.scores["auc"].estimate, 3),
                f"95 % interval {between(found.scores['auc'])}",
            ),
            (
                "Accuracy at 0.5",
                number(found.scores["accuracy"].estimate, 3),
                f"95 % interval {between(found.scores['accuracy'])}",
            ),
            (
                "Known from training",
                f"{found.seen.flattering:,}",
                f"of {found.patches:,} patches" + (": the score flatters" if found.seen.flattering else ""),
            ),
        ],
        "warnings": found.notices,
        "unseen": not found.seen.any,
        "scores_table": one_prediction(f"Scores on {found.patches:,} patches", found.intervals),
        "covers": _COVERS + _STAND_INS[found.intervals.cluster_kind],
        "slides_table": _slides(found.slides) if found.slides else None,
        "curves": _curves(found),
        "matrix": parts.matrix(f"{found.model} on these patches", predictions),
        "agreements": _agreements(found),
        "reliability": _reliability(found),
        "points": _points(found) if found.points else None,
        "mistakes": parts.mistakes(folder, predictions),
        "no_clinic": NO_CLINIC,
    }


def _slides(slides: Sequence[SlideScores]) -> Table:
    rows = [
        [
            slide.slide,
            f"{slide.patches:,}",
            f"{slide.positive / slide.patches:.0%}",
            number(slide.mean_probability, 3),
            number(slide.auc, 3),
            number(slide.accuracy, 3),
        ]
        for slide in slides
    ]
    head = ["slide", "patches", "tumour", "mean probability", METRIC_NAMES["auc"], "accuracy at 0.5"]
    return Table("Each slide by itself; a slide whose patches are all of one class has no AUC.", head, rows)


def _curves(found: Evaluation) -> list[Chart]:
    if not found.curves:
        return []
    share = found.positive / found.patches
    label = f"AUC {found.scores['auc'].estimate:.3f}"
    roc = score_figures.Banded(label, VARIANTS[0], found.curves.roc)
    precision = score_figures.Banded(
        f"average precision {found.scores['average_precision'].estimate:.3f}",
        VARIANTS[0],
        found.curves.precision_recall,
    )
    return [
        Chart("ROC", score_figures.roc_bands("evaluation-roc", [roc])),
        Chart(
            "Precision and recall",
            score_figures.precision_bands("evaluation-precision", [precision], share),
            f"The dotted line is guessing: {share:.0%} of these patches are positive.",
        ),
    ]


def _agreements(found: Evaluation) -> Table:
    rows = [
        [scale, *(number(getattr(agreement, score)) for score in AGREEMENT_SCORES)]
        for scale, agreement in found.agreements.items()
    ]
    return Table(
        "Agreement of probabilities and labels on these patches. Lower is better.",
        ["probabilities", *(METRIC_NAMES[score] for score in AGREEMENT_SCORES)],
        rows,
        swatches=[LOOKS[scale][0] for scale in found.agreements],
    )


def _reliability(found: Evaluation) -> list[Chart]:
    def diagram(name: str, title: str, scales: Sequence[Scale], caption: str) -> Chart:
        families = [Believed(scale, *LOOKS[scale], found.agreements[scale].reliability) for scale in scales]
        return Chart(title, reliability_diagram(f"evaluation-{name}", families), caption)

    calibrated = [scale for scale in found.agreements if scale != "raw"]
    charts = [
        diagram(
            "raw",
            "Reliability of the raw probabilities",
            ["raw"],
            "On the dotted line probabilities mean what they say; below it they promise more tumour than there is. A "
            "bar is a 95 % band.",
        )
    ]
    if calibrated:
        told = "The same patches, calibrated by the maps that were fitted on the validation side."
        charts.append(diagram("calibrated", "Reliability after calibration", calibrated, told))
    return charts


def _points(found: Evaluation) -> Table:
    rows = [
        [
            point.name,
            number(point.threshold),
            f"{point.called_positive:,}",
            *(f"{number(of.estimate, 3)} ({between(of)})" for of in (point.sensitivity, point.specificity)),
            number(point.validation_sensitivity, 3),
            number(point.validation_specificity, 3),
        ]
        for point in found.points
    ]
    head = [
        "name",
        "threshold",
        "called positive",
        "sensitivity",
        "specificity",
        "sensitivity, validation",
        "specificity, validation",
    ]
    return Table("Operating points that the validation side chose: here, and there.", head, rows, wraps=True)
