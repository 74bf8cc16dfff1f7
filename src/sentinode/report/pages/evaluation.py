"""A model scored on labelled patches -> what its page shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sentinode.evaluation.clusters import STAIN_CAUTION, ClusterKind
from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.inference.predictions import Predictions
from sentinode.report.figures import charts
from sentinode.report.figures.charts import Chart
from sentinode.report.figures.scores import Banded
from sentinode.report.figures.style import VARIANTS
from sentinode.report.prose.cautions import NO_CLINIC
from sentinode.report.prose.numbers import number
from sentinode.report.sections import patches as parts
from sentinode.report.sections.decision import agreements, reliability_charts
from sentinode.report.sections.patches import Answer
from sentinode.report.sections.tables import Table, between, one_prediction
from sentinode.runs.evaluate import Evaluation, ScoresOfSlide

_COVERS: Final = (
    "The intervals cover other slides like these, but not another training run, another scanner or another hospital."
)
_STAND_INS: Final[dict[ClusterKind, str]] = {
    "slide": "",
    "patient": "",
    "slide+group": " Patches without a known slide are taken in groups instead: if a group is smaller than a slide, "
    "the intervals are too narrow.",
    "slide+stain": f" {STAIN_CAUTION}",
    "stain": f" {STAIN_CAUTION}",
    "group": " Slides are not known, so groups of patches are used: if a group is smaller than a slide, the intervals "
    "are too narrow.",
}


def evaluation_context(folder: Path, found: Evaluation, predictions: Predictions) -> dict[str, Any]:
    share = found.positive / found.patches
    whose = "one network" if found.networks == 1 else f"{found.networks} networks averaged"
    slides = sum(slide.slide != "unknown" for slide in found.slides)
    drawn = _curves(found)
    return {
        "title": f"{found.model} on {found.labels}",
        "note": found.note,
        "sections": {
            "conclusion": "Answer",
            "scores": "Scores",
            **({"slides": "Slide by slide"} if found.slides else {}),
            "decision": "Calibration and operating points",
            "mistakes": "Worst mistakes",
        },
        "facts": [
            f"{found.patches:,} patches, {share:.0%} positive",
            *([f"{slides:,} slides"] if slides else []),
            whose,
        ],
        "answers": [_answer(found, drawn)],
        "warnings": found.notices,
        "cautions": [NO_CLINIC],
        "scores_table": one_prediction(f"Scores on {found.patches:,} patches", found.intervals),
        "covers": _COVERS + _STAND_INS[found.intervals.cluster_kind],
        "slides_table": _slides(found.slides) if found.slides else None,
        "curves": drawn,
        "matrix": parts.matrix(f"{found.model} on these patches", predictions),
        "agreements": agreements("Calibration scores on these patches", found.agreements),
        "reliability": reliability_charts("evaluation", found.agreements),
        "points": _points(found) if found.points else None,
        "mistakes": parts.mistakes(folder, predictions),
    }


def _answer(found: Evaluation, drawn: Sequence[Chart]) -> Answer:
    auc, accuracy = found.scores["auc"], found.scores["accuracy"]
    known = f"{found.seen.flattering:,} of {found.patches:,} patches are known from training: the score is too good."
    sure = [f"95 % interval of the AUC {between(auc)}, of the accuracy {between(accuracy)}."]
    if found.seen.flattering:
        sure.append(known)
    elif not found.seen.any:
        sure.append("These patches were used neither for training nor for any choice.")
    return Answer(
        f"How well does “{found.model}” find tumour in these patches?",
        f"AUC {number(auc.estimate, 3)}; accuracy at threshold 0.5: {number(accuracy.estimate, 3)}.",
        sure,
        drawn[:1],
        "scores",
    )


def _slides(slides: Sequence[ScoresOfSlide]) -> Table:
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
    return Table("Each slide alone. A slide whose patches are all of one class has no AUC.", head, rows)


def _curves(found: Evaluation) -> list[Chart]:
    if not found.curves:
        return []
    auc, precision = found.scores["auc"].estimate, found.scores["average_precision"].estimate
    roc = Banded(f"AUC {auc:.3f}", VARIANTS[0], found.curves.roc)
    recall = Banded(f"average precision {precision:.3f}", VARIANTS[0], found.curves.precision_recall)
    return charts.bands_of("evaluation", [found.model], [roc], [recall], found.positive / found.patches)


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
        "validation sensitivity",
        "validation specificity",
    ]
    return Table("Operating points chosen on the validation set, and what they give here.", head, rows, wraps=True)
