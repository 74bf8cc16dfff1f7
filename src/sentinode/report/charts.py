"""Records and runs -> the charts of a page, each with its title and caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from sentinode.evaluation.metrics import METRIC_NAMES
from sentinode.experiments.comparison import Variant
from sentinode.experiments.evidence import Evidence
from sentinode.experiments.run import Run
from sentinode.report import curves, data_figures, score_figures
from sentinode.report.figures import MUTED, VARIANTS
from sentinode.report.score_figures import Curves

_QUANTITY_NAMES: Final = {
    "red": "Mean red, 0 to 255",
    "green": "Mean green, 0 to 255",
    "blue": "Mean blue, 0 to 255",
    "brightness": "Brightness, 0 to 255",
    "contrast": "Contrast, grey levels",
    "saturation": "Saturation, 0 to 1",
    "optical_density": "Optical density: more stain, more density",
    "centre_brightness": "Brightness of the centre square, 0 to 255",
}
_MOST_COLOURED: Final = len(VARIANTS)


@dataclass(frozen=True)
class Chart:
    title: str
    svg: Markup
    caption: str = ""


def colours(variants: Sequence[Variant]) -> list[str]:
    """One colour a variant; a long search shows its later trials in grey."""
    return [VARIANTS[k] if k < _MOST_COLOURED else MUTED for k in range(len(variants))]


def _labels(variants: Sequence[Variant]) -> list[str]:
    """Names for a legend, the grey ones under one entry; matplotlib leaves "_" out."""
    names = [variant.name for variant in variants[:_MOST_COLOURED]]
    others = len(variants) - len(names)
    return names + ([f"{others} others", *["_"] * (others - 1)] if others > 0 else [])


def appearance(explored: Mapping[str, Any]) -> list[Chart]:
    """Every quantity's distribution in each class, as shares of the class."""

    def shares(counts: Sequence[int]) -> list[float]:
        return [100 * count / max(sum(counts), 1) for count in counts]

    charts = []
    for name, histogram in explored["quantities"].items():
        title = _QUANTITY_NAMES.get(name, name)
        svg = data_figures.distributions(
            f"distribution-{name}",
            title,
            histogram["edges"],
            shares(histogram["negative"]),
            shares(histogram["positive"]),
        )
        charts.append(Chart(title, svg))
    return charts


def by_slide(explored: Mapping[str, Any]) -> list[Chart]:
    """Counts and colours of each slide, from the darkest to the lightest; nothing where slides are unknown."""
    slides = sorted(explored["slides"], key=lambda slide: float(slide["brightness"]))
    if not slides:
        return []
    names = [str(slide["slide"]) for slide in slides]
    positive = [slide["patches"] * slide["tumour_fraction"] for slide in slides]
    negative = [slide["patches"] - of_slide for slide, of_slide in zip(slides, positive, strict=True)]
    channels = {channel: [slide[channel] for slide in slides] for channel in ("red", "green", "blue")}
    return [
        Chart("Classes of each slide", data_figures.slide_counts("slide-counts", names, negative, positive)),
        Chart(
            "Mean colour of each slide",
            data_figures.slide_colours("slide-colours", names, channels, [slide["brightness"] for slide in slides]),
        ),
    ]


def training_and_validation(variants: Sequence[Variant], first_plot: int) -> list[Chart]:
    """The notebook's plots 1 to 4: accuracy, then loss, for each variant that has epochs, on common axes."""
    families = {
        (variant.name, quantity): _both_sides(variant.runs, colour, quantity)
        for variant, colour in zip(variants, colours(variants), strict=True)
        for quantity in ("accuracy", "loss")
        if not variant.blends
    }
    if not families:
        return []
    limits = {
        quantity: curves.common_limits([f for (_, q), pair in families.items() if q == quantity for f in pair])
        for quantity in ("accuracy", "loss")
    }
    return [
        Chart(
            f"Plot {plot}. “{name}”: {quantity}",
            score_figures.learning_curves(f"plot-{plot}", quantity, pair, limits=limits[quantity]),
        )
        for plot, ((name, quantity), pair) in enumerate(families.items(), first_plot)
    ]


def of_run(run: Run) -> list[Chart]:
    """Training and validation of a single run, in three quantities."""
    return [
        Chart(
            title,
            score_figures.learning_curves(
                f"run-{quantity}", METRIC_NAMES.get(quantity, quantity), _both_sides([run], VARIANTS[0], quantity)
            ),
        )
        for quantity, title in {"accuracy": "Accuracy", "loss": "Loss", "auc": "AUC"}.items()
    ]


def _both_sides(runs: Sequence[Run], colour: str, quantity: str) -> list[Curves]:
    return [
        curves.by_epoch("training", MUTED, runs, f"training_{quantity}", dashed=True),
        curves.by_epoch("validation", colour, runs, f"validation_{quantity}"),
    ]


def together(key: str, variants: Sequence[Variant], titles: Mapping[str, str]) -> list[Chart]:
    """One chart a column of the histories with all variants' curves: plots 5 and 6; none of ensembles."""
    drawn = [
        (variant, label, colour)
        for variant, label, colour in zip(variants, _labels(variants), colours(variants), strict=True)
        if not variant.blends
    ]
    if not drawn:
        return []
    charts = []
    for column, title in titles.items():
        side, quantity = column.split("_")
        families = [curves.by_epoch(label, colour, variant.runs, column) for variant, label, colour in drawn]
        name = f"{side} {METRIC_NAMES.get(quantity, quantity)}"
        charts.append(Chart(title, score_figures.learning_curves(f"{key}-{side}-{quantity}", name, families)))
    return charts


def by_seed(key: str, variants: Sequence[Variant], metric: str, *, side: str = "validation ") -> Chart:
    rows = [(v.name, colour, v.scores(metric).tolist()) for v, colour in zip(variants, colours(variants), strict=True)]
    name = METRIC_NAMES[metric]
    several = len(variants[0].repeats) > 1
    return Chart(
        f"{name} of the kept weights, seed by seed",
        score_figures.scores_by_seed(f"{key}-seeds-{metric}", f"{side}{name}", rows),
        "A dot is a seed, a grey line joins the same seed's dots, a bar marks the mean."
        if several
        else "One seed each: the distance between two dots may be luck.",
    )


def forest(key: str, evidence: Evidence, variants: Sequence[Variant], *, better: str = "is better than") -> Chart:
    """Every verdict's difference and interval."""
    colour_of = {variant.name: colour for variant, colour in zip(variants, colours(variants), strict=True)}
    first = evidence.verdicts[0]
    effects = [score_figures.Effect(v.a, colour_of[v.a], v.difference, v.low, v.high) for v in evidence.verdicts]
    side = "Right" if first.gain > 0 else "Left"
    unknown = ", an empty dot has none that is known" if any(np.isnan(effect.low) for effect in effects) else ""
    return Chart(
        f"{first.metric}, difference to “{first.b}”",
        score_figures.forest(f"{key}-forest", first.metric, effects, smallest_effect=first.smallest_effect),
        f"{side} of zero {better} “{first.b}”. A line is a 95 % interval{unknown}; within the grey band a "
        f"difference is smaller than {first.smallest_effect:g}, the smallest that matters.",
    )


def roc_and_precision(key: str, evidence: Evidence, variants: Sequence[Variant], title: str) -> list[Chart]:
    """ROC and precision-recall curves with their bands."""
    roc, precision = [], []
    for variant, label, colour in zip(variants, _labels(variants), colours(variants), strict=True):
        bands = evidence.curves[variant.name]
        roc.append(score_figures.Banded(label, colour, bands.roc))
        precision.append(score_figures.Banded(label, colour, bands.precision_recall))
    labels = variants[0].predictions.labels
    share = float((labels == 1).mean())
    return [
        Chart(f"{title}: ROC", score_figures.roc_bands(f"{key}-roc", roc)),
        Chart(
            f"{title}: precision and recall",
            score_figures.precision_bands(f"{key}-precision", precision, share),
            f"The dotted line is guessing: {share:.0%} of these patches are positive.",
        ),
    ]


def roc_of_run(run: Run) -> Chart:
    curve = curves.roc(run)
    return Chart("ROC curve", score_figures.roc_curve_of("run-roc", f"AUC {run.scores['auc']:.3f}", VARIANTS[0], curve))
