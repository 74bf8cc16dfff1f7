"""Scores of detections on slides, with intervals from a bootstrap of slides: FROC, slide AUC, cell AUC, Dice.

A free-response curve counts, at each threshold, the share of lesions that a detection hits, and the false detections
per slide (Bunch et al. 1977). Its sensitivities at 1/4 to 8 false positives per slide, and their mean, are compared in
CAMELYON16 (Ehteshami Bejnordi et al. 2017). Replicates draw slides with tumour among those, normal ones among theirs;
intervals and paired differences follow from them as those of patches do (`evaluation/bootstrap.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from sentinode.evaluation.bootstrap import Replicates
from sentinode.evaluation.clusters import Clusters

RATES: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per slide at which sensitivities are read off."""
SLIDE_SCORES: Final = (
    "froc", *(f"sensitivity_at_{rate:g}" for rate in RATES), "slide_auc", "cell_auc", "dice",
)  # fmt: skip
"""`froc` is the mean of the sensitivities; `dice` the mean over slides with tumour, at the operating point."""
BINS: Final = 4096
"""Of probabilities, for the AUC of cells."""
_CHUNK: Final = 100  # replicates at a time


@dataclass(frozen=True, eq=False)
class SlideOutcome:
    """What came of one slide: the probabilities of its detections, and how its cells compare with the truth."""

    slide: str
    tumour: bool
    """Whether it has any lesion, also one that does not count."""
    score: float
    """Of the slide: the higher, the more likely it has tumour."""
    false_positives: Float[np.ndarray, " detections"]
    lesions: Float[np.ndarray, " lesions"]
    """Of each lesion that counts, the highest probability of the detections that hit it; 0 where none does."""
    cells: Int[np.ndarray, "2 bins"]
    """How many judged cells without tumour, and with, have their probability in each of `BINS` equal bins."""
    dice: float
    """NaN for a slide without tumour."""
    isolated: int = 0
    """Lesions that do not count: groups of isolated tumour cells."""


def slide_replicates(
    variants: Sequence[Sequence[SlideOutcome]], *, replicates: int = 2000, seed: int = 0
) -> Replicates:
    """Every score of one model or several on the same slides, in every replicate; ValueError where slides differ."""
    first = variants[0]
    if any([o.slide for o in outcomes] != [o.slide for o in first] for outcomes in variants):
        raise ValueError("scores are compared on the same slides, in the same order")
    rng = np.random.default_rng(seed)
    clusters = Clusters.of(np.array([o.slide for o in first]), np.array([int(o.tumour) for o in first]))
    once = np.ones((1, len(first)))
    # A cluster is a slide: drawn counts are in the order of clusters, `rows` says which slide each is.
    drawn = np.empty((replicates, len(first)))
    drawn[:, clusters.rows] = clusters.draw(replicates, rng)
    observed = np.stack([_scores(outcomes, once) for outcomes in variants])
    values = np.stack([_scores(outcomes, drawn) for outcomes in variants], axis=1)
    design = clusters.design(np.zeros((1, len(first)), np.int64), rng)
    return Replicates(SLIDE_SCORES, "slides", len(first), (design,) * len(variants), observed, values)


def sensitivities(outcomes: Sequence[SlideOutcome], weights: Float[np.ndarray, "r slides"]) -> Float[np.ndarray, "r 6"]:
    """The greatest share of lesions that is hit with at most so many false positives per slide, for each of `RATES`.

    Each slide counts as often as its weight says; NaN where no lesion has any.
    """
    scores = np.concatenate([np.concatenate([o.false_positives, o.lesions[o.lesions > 0]]) for o in outcomes])
    false = np.concatenate(
        [np.arange(len(o.false_positives) + (o.lesions > 0).sum()) < len(o.false_positives) for o in outcomes]
    )
    of_slide = np.repeat(np.arange(len(outcomes)), [len(o.false_positives) + (o.lesions > 0).sum() for o in outcomes])
    order = np.argsort(-scores, kind="stable")
    scores, false, of_slide = scores[order], false[order], of_slide[order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.empty(0, np.int64)
    lesions = weights @ np.array([len(o.lesions) for o in outcomes], float)
    found = np.zeros((len(weights), len(RATES)))
    for start in range(0, len(weights), _CHUNK):
        some = weights[start : start + _CHUNK]
        counted = some[:, of_slide]
        rate = np.cumsum(counted * false, axis=1)[:, ends] / some.sum(axis=1, keepdims=True)
        hits = np.cumsum(counted * ~false, axis=1)[:, ends]
        for column, most in enumerate(RATES):
            # Rates only grow, so those allowed are the first; rounding must not lose one that is equal.
            allowed = (rate <= most * (1 + 1e-12)).sum(axis=1)
            best = np.take_along_axis(np.pad(hits, ((0, 0), (1, 0))), allowed[:, None], axis=1)[:, 0]
            found[start : start + _CHUNK, column] = best
    return np.asarray(np.divide(found, lesions[:, None], out=np.full_like(found, np.nan), where=lesions[:, None] > 0))


def official_froc(outcomes: Sequence[SlideOutcome]) -> tuple[Float[np.ndarray, " 6"], float]:
    """Sensitivities and their mean by the rules of CAMELYON16's evaluation, with its peculiarities.

    Every probability is a threshold but the smallest, where lesions that were missed, or do not count, have 0. A point
    without any detection closes the curve, and between points sensitivity is interpolated in the false positives.
    """
    false = np.concatenate([o.false_positives for o in outcomes])
    hits = np.concatenate([o.lesions for o in outcomes])
    isolated = np.zeros(sum(o.isolated for o in outcomes))
    thresholds = np.unique(np.concatenate([false, hits, isolated]))[1:]
    rates = [*((false >= t).sum() / len(outcomes) for t in thresholds), 0.0]
    shares = [*((hits >= t).sum() / max(len(hits), 1) for t in thresholds), 0.0]
    at = np.interp(RATES, rates[::-1], shares[::-1])
    return at, float(at.mean())


def kappa(truth: Sequence[str], said: Sequence[str], order: Sequence[str]) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968) over stages in this order; NaN where all are of one stage."""
    place = {stage: number for number, stage in enumerate(order)}
    counts = np.zeros((len(order), len(order)))
    for a, b in zip(truth, said, strict=True):
        counts[place[a], place[b]] += 1
    weight = (np.arange(len(order))[:, None] - np.arange(len(order))) ** 2.0
    expected = counts.sum(axis=1)[:, None] * counts.sum(axis=0) / counts.sum()
    chance = float((weight * expected).sum())
    return 1 - float((weight * counts).sum()) / chance if chance else float("nan")


def _scores(outcomes: Sequence[SlideOutcome], weights: Float[np.ndarray, "r slides"]) -> Float[np.ndarray, "r scores"]:
    """`SLIDE_SCORES` under each weighting of the slides."""
    at = sensitivities(outcomes, weights)
    tumour = np.array([o.tumour for o in outcomes])
    dice = np.array([o.dice for o in outcomes])
    columns = [at.mean(axis=1), *at.T, _slide_auc(outcomes, tumour, weights), _cell_auc(outcomes, weights)]
    known = ~np.isnan(dice)
    total = weights[:, known].sum(axis=1)
    means = weights[:, known] @ dice[known]
    columns.append(np.divide(means, total, out=np.full_like(total, np.nan), where=total > 0))
    return np.stack(columns, axis=1)


def _slide_auc(
    outcomes: Sequence[SlideOutcome], tumour: Bool[np.ndarray, " slides"], weights: Float[np.ndarray, "r slides"]
) -> Float[np.ndarray, " r"]:
    score = np.array([o.score for o in outcomes])
    higher = np.sign(score[tumour][:, None] - score[~tumour]) / 2 + 0.5
    of_tumour, of_normal = weights[:, tumour], weights[:, ~tumour]
    pairs = of_tumour.sum(axis=1) * of_normal.sum(axis=1)
    won = ((of_tumour @ higher) * of_normal).sum(axis=1)
    return np.asarray(np.divide(won, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0))


def _cell_auc(outcomes: Sequence[SlideOutcome], weights: Float[np.ndarray, "r slides"]) -> Float[np.ndarray, " r"]:
    found = []
    without, with_tumour = (np.stack([o.cells[label] for o in outcomes]).astype(float) for label in (0, 1))
    for start in range(0, len(weights), _CHUNK):
        some = weights[start : start + _CHUNK]
        negative, positive = some @ without, some @ with_tumour
        below = np.cumsum(negative, axis=1) - negative / 2  # equal ones count half
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        won = (positive * below).sum(axis=1)
        found.append(np.divide(won, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0))
    return np.concatenate(found)


def binned(probability: Float32[np.ndarray, " n"], tumour: Bool[np.ndarray, " n"]) -> Int[np.ndarray, "2 bins"]:
    """`SlideOutcome.cells` of probabilities and what is true of their cells."""
    bins = np.minimum((probability.astype(np.float64) * BINS).astype(np.int64), BINS - 1)
    return np.stack([np.bincount(bins[tumour == label], minlength=BINS) for label in (False, True)])
