"""Records and runs -> the charts of a page, each with its title and caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from sentinode.audit.explore import Explored
from sentinode.evaluation.bands import Band
from sentinode.evaluation.metrics import METRIC_NAMES, gain, roc_curve
from sentinode.report.figures import data as data_figures
from sentinode.report.figures import scores as score_figures
from sentinode.report.figures.scores import Banded, Curves, Effect
from sentinode.report.figures.style import MUTED, VARIANTS
from sentinode.report.prose import verdicts as words
from sentinode.runs.run import Run
from sentinode.runs.variant import R, Variant
from sentinode.settings import short_name
from sentinode.studies.evidence import Evidence

_QUANTITY_NAMES: Final = {
    "red": "Mean red, 0 to 255",
    "green": "Mean green, 0 to 255",
    "blue": "Mean blue, 0 to 255",
    "brightness": "Brightness, 0 to 255",
    "contrast": "Contrast, grey levels",
    "saturation": "Saturation, 0 to 1",
    "optical_density": "Optical density (amount of stain)",
    "centre_brightness": "Brightness of the centre square, 0 to 255",
}
_MOST_COLOURED: Final = len(VARIANTS)
_ALIKE_AUC: Final = 0.55  # below it a quantity hardly separates the classes
_BALANCED: Final = 1.2  # patches of one class to one of the other
_CLOSE: Final = 0.02  # of an accuracy or a probability
_SPECIFICITY, _RECALL = 0.9, 0.8  # where captions read the curves


@dataclass(frozen=True)
class Chart:
    title: str
    svg: Markup
    caption: str
    """What to see in it, said by what is drawn."""


def colours(variants: Sequence[Variant[R]]) -> list[str]:
    """One colour a variant; a long search shows its later trials in grey."""
    return [VARIANTS[k] if k < _MOST_COLOURED else MUTED for k in range(len(variants))]


def _labels(variants: Sequence[Variant[R]]) -> list[str]:
    """Names for a legend, the grey ones under one entry; matplotlib leaves "_" out."""
    names = [variant.name for variant in variants[:_MOST_COLOURED]]
    others = len(variants) - len(names)
    return names + ([f"{others} others", *["_"] * (others - 1)] if others > 0 else [])


def class_counts(title: str, key: str, negative: int, positive: int, dropped: float = 0.0) -> Chart:
    """Patches of each class; `dropped` is the share of the negatives that balancing left out."""
    more, fewer = max(negative, positive), min(negative, positive)
    larger, smaller = ("Negative", "positive") if negative > positive else ("Positive", "negative")
    if not fewer:
        told = "All patches are of one class." if more else "There are no labelled patches."
    elif more / fewer < _BALANCED:
        told = "The classes are about equal in size."
    else:
        told = f"{larger} patches outnumber {smaller} ones {more / fewer:.1f} to 1."
    left_out = f" {dropped:.0%} of the negatives were dropped." if dropped else ""
    return Chart(title, data_figures.class_counts(key, negative, positive), f"{told}{left_out}")


def appearance(explored: Explored) -> list[Chart]:
    """Every quantity's distribution in each class, as shares of the class; what separates the classes best is first."""

    def shares(counts: Sequence[int]) -> list[float]:
        return [100 * count / max(sum(counts), 1) for count in counts]

    charts = []
    by_separation = sorted(explored.quantities.items(), key=lambda entry: -_separation(entry[1].auc))
    for name, histogram in by_separation:
        title = _QUANTITY_NAMES.get(name, name)
        svg = data_figures.distributions(
            f"distribution-{name}",
            title,
            histogram.edges,
            shares(histogram.negative),
            shares(histogram.positive),
        )
        charts.append(Chart(title, svg, _separated(histogram.auc)))
    return charts


def _separation(auc: float | None) -> float:
    """The AUC of the better direction."""
    return 0.5 if auc is None else max(auc, 1 - auc)


def _separated(auc: float | None) -> str:
    if auc is None:
        return "Only one class has labels."
    if _separation(auc) < _ALIKE_AUC:
        return f"About the same in both classes (AUC {_separation(auc):.2f})."
    how = "Higher" if auc > 0.5 else "Lower"
    return f"{how} in positive patches: this number alone has an AUC of {_separation(auc):.2f}."


def by_slide(explored: Explored) -> list[Chart]:
    """Counts and colours of each slide, from the darkest to the lightest; nothing where slides are unknown."""
    slides = sorted(explored.slides, key=lambda slide: slide.means["brightness"])
    if not slides:
        return []
    names = [slide.slide for slide in slides]
    positive = [slide.patches * slide.tumour_fraction for slide in slides]
    negative = [slide.patches - of_slide for slide, of_slide in zip(slides, positive, strict=True)]
    channels = {channel: [slide.means[channel] for slide in slides] for channel in ("red", "green", "blue")}
    brightness = [slide.means["brightness"] for slide in slides]
    shares = [slide.tumour_fraction for slide in slides]
    return [
        Chart(
            "Classes of each slide",
            data_figures.slide_counts("slide-counts", names, negative, positive),
            "There is one slide only."
            if len(slides) == 1
            else f"Between {min(shares):.0%} and {max(shares):.0%} of a slide's patches are positive.",
        ),
        Chart(
            "Mean colour of each slide",
            data_figures.slide_colours("slide-colours", names, channels, brightness),
            f"The darkest slide has a mean brightness of {brightness[0]:.0f}, the lightest of {brightness[-1]:.0f}.",
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
        quantity: score_figures.common_limits([f for (_, q), pair in families.items() if q == quantity for f in pair])
        for quantity in ("accuracy", "loss")
    }
    return [
        Chart(
            f"Plot {plot}. “{name}”: {quantity}",
            score_figures.learning_curves(f"plot-{plot}", quantity, pair, limits=limits[quantity]),
            _both_sides_seen(quantity, pair),
        )
        for plot, ((name, quantity), pair) in enumerate(families.items(), first_plot)
    ]


def of_run(run: Run) -> list[Chart]:
    """Training and validation of a single run, in three quantities."""
    shown = []
    for quantity, title in {"loss": "Loss", "auc": "AUC", "accuracy": "Accuracy"}.items():
        pair, name = _both_sides([run], VARIANTS[0], quantity), METRIC_NAMES.get(quantity, quantity)
        svg = score_figures.learning_curves(f"run-{quantity}", name, pair)
        shown.append(Chart(title, svg, _both_sides_seen(name, pair)))
    return shown


def _both_sides_seen(quantity: str, pair: Sequence[Curves]) -> str:
    """Whether validation follows training, and of a loss whether it still falls."""
    training, validation = (curves.mean for curves in pair)
    if not (np.isfinite(training.y).all() and np.isfinite(validation.y).all()):
        return f"The {quantity} is undefined in some epochs."
    if len(validation.y) == 1:
        return f"One epoch: training {training.y[0]:.2f}, validation {validation.y[0]:.2f}."
    if quantity == "loss":
        lowest, last = int(validation.x[validation.y.argmin()]), int(validation.x[-1])
        if lowest == last:
            return "Validation loss is lowest in the last epoch: longer training may still help."
        return f"Validation loss is lowest in epoch {lowest} of {last}: after it the network over-fits."
    gap = float(training.y[-1] - validation.y[-1])
    if abs(gap) < _CLOSE:
        return f"Training and validation {quantity} end within {_CLOSE:g} of each other."
    return f"Validation {quantity} ends {abs(gap):.2f} {'below' if gap > 0 else 'above'} training {quantity}."


def _both_sides(runs: Sequence[Run], colour: str, quantity: str) -> list[Curves]:
    return [
        score_figures.by_epoch("training", MUTED, runs, f"training_{quantity}", dashed=True),
        score_figures.by_epoch("validation", colour, runs, f"validation_{quantity}"),
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
        families = [score_figures.by_epoch(label, colour, variant.runs, column) for variant, label, colour in drawn]
        name = f"{side} {METRIC_NAMES.get(quantity, quantity)}"
        svg = score_figures.learning_curves(f"{key}-{side}-{quantity}", name, families)
        charts.append(
            Chart(title, svg, _ends(quantity, {v.name: f for (v, *_), f in zip(drawn, families, strict=True)}))
        )
    return charts


def _ends(quantity: str, families: Mapping[str, Curves]) -> str:
    """Which curve ends best."""
    ends = {name: float(family.mean.y[-1]) for name, family in families.items()}
    if not np.isfinite(list(ends.values())).all():
        return "The value in the last epoch is undefined for some variants."
    extreme, word = (min, "lowest") if quantity == "loss" else (max, "highest")
    best = extreme(ends, key=lambda name: ends[name])
    apart = max(ends.values()) - min(ends.values())
    if len(ends) == 1 or apart < 0.0005:
        return f"{'It ends' if len(ends) == 1 else 'All variants end'} at {ends[best]:.3f}."
    return f"“{best}” ends {word}, at {ends[best]:.3f}; the variants end up to {apart:.3f} apart."


def by_seed(key: str, variants: Sequence[Variant[R]], metric: str, *, patches: str) -> Chart:
    rows = [(v.name, colour, v.scores(metric).tolist()) for v, colour in zip(variants, colours(variants), strict=True)]
    name = METRIC_NAMES[metric]
    return Chart(
        f"{name[:1].upper()}{name[1:]} by seed",
        score_figures.scores_by_seed(f"{key}-seeds-{metric}", f"{patches} {name}", rows),
        words.spread(variants, metric),
    )


def by_parameter(variants: Sequence[Variant], metric: str) -> list[Chart]:
    """The score of every trial against each setting that was searched."""
    name = METRIC_NAMES[metric]
    means = [variant.mean(metric) for variant in variants]
    best = int(np.argmax(gain(metric) * np.array(means)))
    shown = []
    for key in dict.fromkeys(key for variant in variants for key in variant.settings):
        values = [variant.settings.get(key) for variant in variants]
        if len(set(values)) < 2:
            continue
        svg = score_figures.scores_by_parameter(
            f"tune-{key}",
            short_name(key),
            f"validation {name}",
            values,
            [v.scores(metric).tolist() for v in variants],
            best,
        )
        shown.append(
            Chart(
                f"{name[:1].upper()}{name[1:]} against {short_name(key)}",
                svg,
                _best_value(key, values, best, f"{name} {means[best]:.3f}"),
            )
        )
    return shown


def _best_value(key: str, values: Sequence[Any], best: int, score: str) -> str:
    told = f"Best at {short_name(key)} = {values[best]} (mean {score})."
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and len(set(values)) > 2 and values[best] in (min(numbers), max(numbers)):
        return f"{told} That is the end of the range: a wider search may find a better value."
    return told


def forest(key: str, evidence: Evidence, variants: Sequence[Variant[R]], *, better: str = "better") -> Chart:
    """Every verdict's difference and interval; `better` says what it means to lie on the better side of zero."""
    colour_of = {variant.name: colour for variant, colour in zip(variants, colours(variants), strict=True)}
    first = evidence.verdicts[0]
    effects = [Effect(v.a, colour_of[v.a], v.difference, v.low, v.high) for v in evidence.verdicts]
    side = "right" if first.gain > 0 else "left"
    svg = score_figures.forest(
        f"{key}-forest", f"{first.metric} ({side}: {better})", effects, smallest_effect=first.smallest_effect
    )
    return Chart(f"Difference in {first.metric} from “{first.b}”", svg, _excluding_zero(effects))


def _excluding_zero(effects: Sequence[Effect]) -> str:
    """Which of the intervals exclude zero."""
    known = [effect for effect in effects if not np.isnan(effect.low)]
    away = [effect for effect in known if effect.low > 0 or effect.high < 0]
    unknown = " An empty dot has no known interval." if len(known) < len(effects) else ""
    if not known:
        return "No 95 % interval is known."
    if not away:
        every = "The 95 % interval includes" if len(known) == 1 else "All 95 % intervals include"
        return f"{every} zero.{unknown}"
    if len(away) == len(known):
        every = "The 95 % interval excludes" if len(known) == 1 else "All 95 % intervals exclude"
        return f"{every} zero.{unknown}"
    return f"{len(away)} of {len(known)} 95 % intervals exclude zero.{unknown}"


def roc_and_precision(key: str, evidence: Evidence, variants: Sequence[Variant[R]], title: str) -> list[Chart]:
    """ROC and precision-recall curves of variants with their bands."""
    curves = [
        (label, colour, evidence.curves[variant.name])
        for variant, label, colour in zip(variants, _labels(variants), colours(variants), strict=True)
    ]
    roc = [Banded(label, colour, bands.roc) for label, colour, bands in curves]
    precision = [Banded(label, colour, bands.precision_recall) for label, colour, bands in curves]
    labels = variants[0].predictions.labels
    shown = bands_of(key, [variant.name for variant in variants], roc, precision, float((labels == 1).mean()))
    return [
        replace(chart, title=f"{title}: {what}")
        for chart, what in zip(shown, ("ROC", "precision and recall"), strict=True)
    ]


def bands_of(
    key: str, names: Sequence[str], roc: Sequence[Banded], precision: Sequence[Banded], share: float
) -> list[Chart]:
    """A ROC and a precision-recall chart, each with what its curves give at one place.

    Guessing gives a precision of `share`, that of positive patches.
    """
    at = [float(np.interp(_RECALL, of.band.x, of.band.mean)) for of in precision]
    told = f"At {_RECALL:.0%} recall, {_highest('precision', names, at)}; the dotted line is guessing ({share:.2f})."
    return [
        _roc(f"{key}-roc", names, roc),
        Chart("Precision and recall", score_figures.precision_bands(f"{key}-precision", precision, share), told),
    ]


def _roc(key: str, names: Sequence[str], curves: Sequence[Banded]) -> Chart:
    at = [float(np.interp(1 - _SPECIFICITY, of.band.x, of.band.mean)) for of in curves]
    told = f"At {_SPECIFICITY:.0%} specificity, {_highest('sensitivity', names, at)}."
    return Chart("ROC", score_figures.roc_bands(key, curves), told)


def roc_of_run(run: Run) -> Chart:
    """Of a single run, without a band."""
    found = roc_curve(run.predictions.labels, run.predictions.probabilities)
    none = np.full(len(found.sensitivity), np.nan)
    band = Band(found.false_positive_rate, found.sensitivity, none, none)
    return _roc("run-roc", [run.name], [Banded(f"AUC {run.scores['auc']:.3f}", VARIANTS[0], band)])


def _highest(quantity: str, names: Sequence[str], values: Sequence[float]) -> str:
    best = int(np.argmax(values))
    if len(values) == 1:
        return f"{quantity} is {values[0]:.2f}"
    return f"{quantity} is {min(values):.2f} to {max(values):.2f}, highest for “{names[best]}”"
