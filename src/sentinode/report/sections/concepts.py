"""What concepts say of a network's logits -> their part of a page: an answer, tables, and a curve for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from sentinode.audit.concepts import CONCEPTS
from sentinode.evaluation.bootstrap import Interval
from sentinode.evaluation.clusters import CLUSTER_NAMES
from sentinode.explain.concepts import ConceptCurve, ConceptReport, Matching
from sentinode.report.figures import scores as figures
from sentinode.report.figures.charts import Chart
from sentinode.report.prose.numbers import number
from sentinode.report.sections.tables import Table

_CURVES: Final = 6
"""That are shown at once, the steepest first; the others are folded."""
_NEARLY_ALL: Final = 0.9
"""Of what all concepts explain: a concept that explains so much alone is named."""
_LEAST_SPAN: Final = 0.05  # logits
_MATCHED: Final[dict[Matching, str]] = {
    "brightness": "brightness",
    "colour": "what colour says",
    "concepts": "what concepts say",
}
_TITLES: Final = {of.name: of.title for of in CONCEPTS}
_UNITS: Final = {of.name: of.unit for of in CONCEPTS}


@dataclass(frozen=True)
class ConceptsPart:
    """What `concepts.html` shows."""

    matched: Table
    shares: Table
    known: Table
    curves: list[Chart]
    others: list[Chart]
    meanings: list[str]


def concepts_part(found: ConceptReport) -> ConceptsPart:
    unit = CLUSTER_NAMES[found.cluster_kind]
    by_span = sorted(found.curves, key=lambda curve: -float(np.ptp(curve.logit)))
    charts = [_chart(curve) for curve in by_span]
    return ConceptsPart(
        matched=Table(
            "Pairs of a patch with tumour and one without, of the same fifth, that are put in order.",
            ["fifths of", "by the network", "by what they are matched by", "difference"],
            [
                [_MATCHED[of.by], _plain(of.within), _plain(of.rival_within), _difference(of.gain)]
                for of in found.matched
            ],
            wraps=True,
            note=f"With 95 % intervals over {found.clusters} {unit}.",
        ),
        shares=Table(
            "R2 of the logit on other slides: what is lost without a concept, and what it explains alone.",
            ["concept", "lost without it", "alone"],
            [
                ["all concepts", "", _plain(found.r2)],
                ["colour", "", _plain(found.colour_r2)],
                *([_TITLES[of.concept], _plain(of.lost), _plain(of.alone)] for of in found.shares),
            ],
            wraps=True,
            note="Each of the patch and of its centre. Colour: haematoxylin, eosin and brightness.",
        ),
        known=Table(
            "AUC of the network, and of logistic regressions on concepts of other slides.",
            ["who", "AUC"],
            [
                ["the network", _plain(found.auc)],
                ["all concepts", _plain(found.concepts_auc)],
                ["colour alone", _plain(found.colour_auc)],
                ["the network minus all concepts", _difference(found.gain)],
            ],
            wraps=True,
        ),
        curves=charts[:_CURVES],
        others=charts[_CURVES:],
        meanings=[f"{of.title[:1].upper()}{of.title[1:]} ({of.unit}): {of.meaning}" for of in CONCEPTS],
    )


def concepts_in_words(found: ConceptReport) -> str:
    """How much concepts explain, and whether the network knows more than they do."""
    if np.isnan(found.r2.estimate):
        return "Its logit is the same for all patches: there is nothing to explain."
    told = (
        f"Concepts explain {found.r2.estimate:.0%} of the variance of its logit on other slides "
        f"({found.r2.ends_in_words('.0%')}), colour alone {found.colour_r2.estimate:.0%}."
    )
    best = max(found.shares, key=lambda share: share.alone.estimate)
    if found.r2.estimate > 0.5 and best.alone.estimate > _NEARLY_ALL * found.r2.estimate:
        told += f" It is mostly a measure of {_TITLES[best.concept]}, which alone explains {best.alone.estimate:.0%}."
    return f"{told} {_against_rival(found)} {_beyond(found)}"


def _against_rival(found: ConceptReport) -> str:
    both = f"its AUC is {number(found.auc.estimate, 3)}, theirs {number(found.concepts_auc.estimate, 3)}"
    if found.gain.low > 0:
        return f"It tells tumour better than a regression on them: {both}."
    if found.gain.high < 0:
        return f"It tells tumour worse than a regression on them: {both}."
    return f"It is not shown to tell tumour better than a regression on them: {both}."


def _beyond(found: ConceptReport) -> str:
    matched = next(of for of in found.matched if of.by == "concepts")
    if matched.within.low > 0.5 and matched.gain.low > 0:
        return (
            "It knows more than they do: among patches of which they say about the same it puts "
            f"{matched.within.estimate:.0%} of the pairs in order."
        )
    return "Among patches of which they say about the same, nothing more is shown to be known."


def _chart(curve: ConceptCurve) -> Chart:
    concept = curve.name.removeprefix("centre_")
    title = f"{_TITLES[concept]}{' of the centre' if curve.name != concept else ''}"
    svg = figures.banded_curve(
        f"concept-{curve.name}", _UNITS[concept], "logit", curve.measured, curve.logit, curve.low, curve.high
    )
    return Chart(f"{title[:1].upper()}{title[1:]}", svg, _seen(curve))


def _seen(curve: ConceptCurve) -> str:
    change, span = float(curve.logit[-1] - curve.logit[0]), float(np.ptp(curve.logit))
    if not ((curve.low > 0) | (curve.high < 0)).any() or span < _LEAST_SPAN:
        return "Not told apart from none."
    if abs(change) < span / 2:
        top = curve.measured[curve.logit.argmax()]
        return f"Highest at {top:.3g}; from end to end it changes by {change:+.1f} logits."
    return f"{'Rises' if change > 0 else 'Falls'} by {abs(change):.1f} logits, the others held."


def _plain(found: Interval) -> str:
    return f"{number(found.estimate, 3)} ({found.ends_in_words()})"


def _difference(found: Interval) -> str:
    return f"{found.estimate:+.3f} ({found.ends_in_words('+.3f')})"
