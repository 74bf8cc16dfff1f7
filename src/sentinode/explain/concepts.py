"""How much of what a network says can be said with concepts, and whether it knows more than colour.

Three questions, of one model's predictions of labelled patches that it was not trained on:

- *How much of the logit do concepts explain?* An additive model of it, a piecewise-linear curve for each concept of
  `audit/concepts.py` of the patch and of its centre, is fitted by ridge regression, and asked of slides that it was not
  fitted on. R2 is one minus the squared error over the variance: 0 is what the mean explains, below 0 is worse. Each
  concept's part in it is what is lost without it, and what it explains alone.
- *How does the logit go with each concept, the others held?* Its curve in that model, fitted on all patches.
- *Does the network know more than they do?* The same additive model as a logistic regression of the labels is a rival
  that knows nothing else. The network's AUC among patches on which the rival says about the same, in fifths of its
  probabilities, is what it knows beyond; and so for fifths of brightness, and of what colour alone says.

All intervals are over slides or what stands in for them; R2's and AUC's are of fixed out-of-slide predictions, the
curves' of models that are fitted anew. An additive model knows no interactions: what it misses need not be beyond
concepts. And an association is not a cause: a network need not look at what its logit goes with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Annotated, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from sentinode.audit.concepts import CONCEPTS, NAMES
from sentinode.errors import DataError
from sentinode.evaluation.bootstrap import Interval, PairedInterval, Scale, bootstrap, ends
from sentinode.evaluation.calibration import cross_folds, logits
from sentinode.evaluation.clusters import CLUSTER_NAMES, ClusterKind, Clusters, Design, cluster_numbers
from sentinode.evaluation.weighted import Prediction, Weights
from sentinode.inference.predictions import Predictions
from sentinode.randomness import Purpose
from sentinode.records import Numbers

COLOUR: Final = ("haematoxylin", "eosin", "brightness")
"""The concepts that say how a patch is coloured, and nothing of what is in it."""
Matching = Literal["brightness", "colour", "concepts"]

_KNOTS: Final = np.array([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])  # quantiles
_CURVE_AT: Final = np.linspace(0.02, 0.98, 25)
_PENALTIES: Final = np.geomspace(1e-3, 1e3, 7)
_FOLDS: Final = 10
_BINS: Final = 5
_REPLICATES: Final = 2000
_REFITS: Final = 300  # replicates of the curves; as many are enough for their standard deviation
_LEVEL: Final = 0.95
_ROUNDING: Final = 1e-12
_NO_PAIRS: Final = "no part has both classes"
_ALL_EQUAL: Final = "the logit is the same for all patches"
_CHUNK_ELEMENTS: Final = 2**18  # replicates x patches worked on at a time
_LOGISTIC_C: Final = 1.0  # on the real validation set 0.1 made a weaker rival, 10 one as strong (docs/lab-log.md)


@dataclass(frozen=True)
class ConceptShare:
    """A concept's part, of the patch and of its centre together."""

    concept: str
    lost: Interval
    """By how much R2 is lower without it: what no other concept can say."""
    alone: Interval
    """R2 of it alone."""


@dataclass(frozen=True, eq=False)
class ConceptCurve:
    """The logit along a concept, the others held, about its mean over the patches, and its band, point by point."""

    name: str
    """As in `audit.concepts.NAMES`: of the patch, or of its centre."""
    measured: Annotated[Float[np.ndarray, " k"], Numbers()]
    """From the 2nd to the 98th percentile of the patches."""
    logit: Annotated[Float[np.ndarray, " k"], Numbers()]
    low: Annotated[Float[np.ndarray, " k"], Numbers()]
    high: Annotated[Float[np.ndarray, " k"], Numbers()]


@dataclass(frozen=True)
class MatchedBin:
    """Patches that are alike in what they are matched by, which lies between `low` and `high`."""

    low: float
    high: float
    patches: int
    positive: int
    auc: Interval
    """The network's among them."""


@dataclass(frozen=True)
class Matched:
    """The network's AUC among patches that are alike: in brightness, or in the probability that a rival gives them."""

    by: Matching
    bins: tuple[MatchedBin, ...]
    within: Interval
    """The share of pairs of a patch with tumour and one without, of the same bin, that the network puts in order."""
    rival_within: Interval
    """The same of what they are matched by: what the bins, being no points, leave it."""
    gain: Interval
    """The one minus the other."""


@dataclass(frozen=True)
class ConceptReport:
    """What concepts say of one model's predictions."""

    model: str
    patches: int
    positive: int
    clusters: int
    cluster_kind: ClusterKind
    folds: int
    r2: Interval
    """Of the additive model of the logit, out of slide, with all concepts."""
    colour_r2: Interval
    """With those of colour alone."""
    shares: tuple[ConceptShare, ...]
    """The largest loss first."""
    curves: tuple[ConceptCurve, ...]
    auc: Interval
    """The network's on all these patches."""
    concepts_auc: Interval
    """That of the logistic regression on all concepts, out of slide."""
    colour_auc: Interval
    gain: PairedInterval
    """The network's AUC minus that of all concepts."""
    matched: tuple[Matched, ...]


def concept_report(
    model: str,
    predictions: Predictions,
    measured: pd.DataFrame,
    clusters: Shaped[np.ndarray, " n"],
    kind: ClusterKind,
    *,
    seed: int = 0,
    workers: int = 2,
) -> ConceptReport:
    """Explain the logits of labelled patches that `model` was not trained on.

    `measured` has a line for each patch, in their order, with the columns `audit.concepts.NAMES`; `clusters` names
    each patch's slide, or what stands in for it, "" for one on its own. Raises DataError where a patch has no label,
    or where so few clusters hold a class that none is left to fit on.
    """
    labels, unit = predictions.labels.astype(np.int64), CLUSTER_NAMES[kind]
    if set(np.unique(labels)) != {0, 1}:
        raise DataError("concepts are weighed on labelled patches of both classes", remedy="Give such patches.")
    rng = Purpose.CONCEPTS.rng(seed)
    folds = _folds(labels, clusters, unit, rng)
    logit = logits(predictions.probabilities)
    values = {name: measured[name].to_numpy(np.float64) for name in NAMES}
    bases = {name: _Basis.of(of).columns(of) for name, of in values.items()}

    def regression(names: Sequence[str]) -> _Regression:
        return _Regression.of(np.hstack([bases[name] for name in names]), logit, folds)

    def rival(names: Sequence[str]) -> Float[np.ndarray, " n"]:
        return _classified(np.hstack([bases[name] for name in names]), labels, folds)

    concepts, count, full = [of.name for of in CONCEPTS], len(CONCEPTS), regression(NAMES)
    without = [[name for name in NAMES if name not in _with_centres([concept])] for concept in concepts]
    said = [
        full.out_of_fold(),
        regression(_with_centres(COLOUR)).out_of_fold(),
        *(regression(names).out_of_fold(full.penalties) for names in without),
        *(regression(_with_centres([concept])).out_of_fold() for concept in concepts),
    ]
    resampled = _Resampled.of(labels, clusters, unit, rng)
    r2 = resampled.r2(logit, np.stack(said))
    r2s = resampled.intervals(r2, undefined=_ALL_EQUAL, most=1)
    lost = _Replicated(
        r2.observed[:1] - r2.observed[2 : 2 + count], r2.replicates[:, :1] - r2.replicates[:, 2 : 2 + count]
    )
    shares = map(ConceptShare, concepts, resampled.intervals(lost, undefined=_ALL_EQUAL), r2s[2 + count :])

    by_rivals: dict[Matching, np.ndarray] = {"colour": rival(_with_centres(COLOUR)), "concepts": rival(NAMES)}
    compared = bootstrap(
        labels,
        np.stack([predictions.probabilities, *by_rivals.values()])[:, None],
        clusters,
        rng=rng,
        metrics=("auc",),
        replicates=_REPLICATES,
        workers=workers,
        unit=unit,
    )
    matched: dict[Matching, np.ndarray] = {"brightness": values["brightness"], **by_rivals}
    return ConceptReport(
        model=model,
        patches=len(labels),
        positive=int(labels.sum()),
        clusters=compared.clusters,
        cluster_kind=kind,
        folds=len(folds),
        r2=r2s[0],
        colour_r2=r2s[1],
        shares=tuple(sorted(shares, key=lambda share: -share.lost.estimate)),
        curves=_curves(values, full, resampled),
        auc=compared.interval(0, "auc"),
        colour_auc=compared.interval(1, "auc"),
        concepts_auc=compared.interval(2, "auc"),
        gain=compared.difference(0, 2, "auc"),
        matched=tuple(
            _matched(by, of, labels, predictions.probabilities, clusters, resampled, rng, workers)
            for by, of in matched.items()
        ),
    )


def _with_centres(concepts: Sequence[str]) -> list[str]:
    """The columns of concepts, of the patch and of its centre."""
    return [name for name in NAMES if name.removeprefix("centre_") in concepts]


def _folds(
    labels: Int[np.ndarray, " n"], clusters: Shaped[np.ndarray, " n"], unit: str, rng: np.random.Generator
) -> list[Bool[np.ndarray, " n"]]:
    """Which patches each fold holds; no slide is cut, and the rest of each fold has both classes."""
    few = DataError(f"too few {unit} hold a class to explain others by them", remedy=f"Give more {unit}.")
    if len(np.unique(cluster_numbers(clusters))) < 2:
        raise few
    numbers = cross_folds(labels, clusters, folds=_FOLDS, rng=rng)
    folds = [numbers == fold for fold in np.unique(numbers)]
    # With two, a penalty would be chosen on none: one is held out, and the other is fitted on.
    if len(folds) < 3 or any(len(np.unique(labels[~inside])) < 2 for inside in folds):
        raise few
    return folds


# --- the additive model -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Basis:
    """Piecewise-linear curves of one concept, level beyond the outer knots: a line, and a bend at each inner knot.

    So a penalty on its weights is one on bends, and on the slope. Knots are quantiles of all patches: no logit and no
    label takes part in them. NaN has a column of its own.
    """

    knots: Float[np.ndarray, " knots"]

    @classmethod
    def of(cls, values: Float[np.ndarray, " n"]) -> _Basis:
        known = values[np.isfinite(values)]
        return cls(np.unique(np.quantile(known, _KNOTS)) if len(known) else np.zeros(1))

    def columns(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n columns"]:
        """Of each value, in units of the range between the outer knots; the last is 1 where it is NaN."""
        first, last = self.knots[0], self.knots[-1]
        unknown, inside = np.isnan(values), np.clip(values, first, last)
        lines = np.maximum(inside[:, None] - self.knots[:-1], 0) / max(last - first, np.finfo(float).tiny)
        return np.column_stack([np.where(unknown[:, None], 0, lines), unknown])


@dataclass(frozen=True, eq=False)
class _Moments:
    """All that a ridge regression needs to know of some patches, which can be added and taken away."""

    weight: float
    x: Float[np.ndarray, " columns"]
    y: float
    xx: Float[np.ndarray, "columns columns"]
    xy: Float[np.ndarray, " columns"]

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> _Moments:
        weighted = x * weight[:, None]
        return cls(float(weight.sum()), weighted.sum(axis=0), float(weight @ y), weighted.T @ x, weighted.T @ y)

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def fitted(self, penalties: Sequence[float] | np.ndarray) -> Float[np.ndarray, "penalties _"]:
        """For each penalty, the weights and the intercept, which is not penalised."""
        mean, level = self.x / self.weight, self.y / self.weight
        energy, axes = np.linalg.eigh(self.xx - self.weight * np.outer(mean, mean))
        seen = axes.T @ (self.xy - self.x * level)
        weights = np.array([axes @ (seen / (np.maximum(energy, 0) + penalty)) for penalty in penalties])
        return np.column_stack([weights, level - weights @ mean])


@dataclass(frozen=True, eq=False)
class _Regression:
    """An additive model of the logit, to be fitted without one fold after the other."""

    basis: Float[np.ndarray, "n columns"]
    logit: Float[np.ndarray, " n"]
    folds: list[Bool[np.ndarray, " n"]]
    moments: list[_Moments]
    """Of each fold."""
    everything: _Moments

    @classmethod
    def of(cls, basis: np.ndarray, logit: np.ndarray, folds: list[Bool[np.ndarray, " n"]]) -> _Regression:
        moments = [_Moments.of(basis[inside], logit[inside], np.ones(inside.sum())) for inside in folds]
        return cls(basis, logit, folds, moments, _Moments.of(basis, logit, np.ones(len(logit))))

    def out_of_fold(self, penalties: Sequence[float] | None = None) -> Float[np.ndarray, " n"]:
        """The logit of each patch by a model of the other folds, under a penalty that these chose."""
        said = np.empty(len(self.logit))
        for fold, (inside, penalty) in enumerate(zip(self.folds, penalties or self.penalties, strict=True)):
            *weights, intercept = (self.everything - self.moments[fold]).fitted([penalty])[0]
            said[inside] = self.basis[inside] @ weights + intercept
        return said

    @cached_property
    def penalties(self) -> list[float]:
        """One for each fold, chosen without it: that of least squared error on each other by a model of the rest."""
        errors = np.zeros((len(self.folds), len(_PENALTIES)))
        for one, other in combinations(range(len(self.folds)), 2):
            fitted = (self.everything - self.moments[one] - self.moments[other]).fitted(_PENALTIES)
            errors[one] += self._errors(fitted, other)
            errors[other] += self._errors(fitted, one)
        return [float(_PENALTIES[of.argmin()]) for of in errors]

    @property
    def penalty(self) -> float:
        """For all patches: that of least squared error on each fold by a model of the others."""
        fits = [(self.everything - moments).fitted(_PENALTIES) for moments in self.moments]
        errors = sum(self._errors(fitted, fold) for fold, fitted in enumerate(fits))
        return float(_PENALTIES[np.argmin(errors)])

    def _errors(self, fitted: Float[np.ndarray, "penalties _"], fold: int) -> Float[np.ndarray, " penalties"]:
        inside = self.folds[fold]
        said = self.basis[inside] @ fitted[:, :-1].T + fitted[:, -1]
        return np.asarray(np.square(said - self.logit[inside, None]).sum(axis=0))


def _classified(
    basis: Float[np.ndarray, "n columns"], labels: Int[np.ndarray, " n"], folds: list[Bool[np.ndarray, " n"]]
) -> Float[np.ndarray, " n"]:
    """The probability of tumour by a logistic regression of the other folds, in which both classes weigh the same.

    Else a slide without tumour, held out, would leave a rest with more of it, and be said to have more: the order of
    patches of different folds would be worse than chance where nothing is known.
    """
    from sklearn.linear_model import LogisticRegression  # here: who reads a report does not wait for it

    said = np.empty(len(labels))
    for inside in folds:
        rival = LogisticRegression(C=_LOGISTIC_C, class_weight="balanced", solver="newton-cholesky")
        said[inside] = rival.fit(basis[~inside], labels[~inside]).predict_proba(basis[inside])[:, 1]
    return said


# --- intervals over slides --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Replicated:
    """Values on all patches and in every replicate."""

    observed: Float[np.ndarray, " values"]
    replicates: Float[np.ndarray, "replicates values"]


@dataclass(frozen=True, eq=False)
class _Resampled:
    """Replicates of slides: how often each patch is in each, and what so many slides can tell."""

    times: Int[np.ndarray, "replicates n"]
    design: Design
    unit: str

    @classmethod
    def of(cls, labels: np.ndarray, clusters: np.ndarray, unit: str, rng: np.random.Generator) -> _Resampled:
        clustering = Clusters.of(clusters, labels)
        times = clustering.patches(clustering.draw(_REPLICATES, rng))
        return cls(times, clustering.design(np.zeros((1, len(labels)), np.int64), rng), unit)

    def r2(self, truth: Float[np.ndarray, " n"], said: Float[np.ndarray, "models n"]) -> _Replicated:
        """One minus the squared error over the variance about the mean of the same patches."""
        squared = np.square(said - truth).T
        about = np.column_stack([truth, truth**2])

        def of(times: np.ndarray) -> Float[np.ndarray, "r models"]:
            first, second = (times @ about).T
            variance = second - first**2 / times.sum(axis=1)
            error, whole = times @ squared, np.maximum(variance, 0)[:, None]
            known = whole > _ROUNDING * second[:, None]
            found: Float[np.ndarray, "r models"] = 1 - np.divide(
                error, whole, out=np.full_like(error, np.nan), where=known
            )
            return found

        replicates = np.concatenate([of(times.astype(np.float64)) for times in self._chunks()])
        return _Replicated(of(np.ones((1, len(truth))))[0], replicates)

    def auc_within(
        self, labels: Int[np.ndarray, " n"], values: Float[np.ndarray, "2 n"], bins: list[Bool[np.ndarray, " n"]]
    ) -> _Replicated:
        """Of each of two predictions, and the first minus the second: the share of pairs in order, within bins."""
        observed = np.ones((1, len(labels)), np.int32)
        found = np.concatenate([_in_order(labels, values, bins, times) for times in (observed, *self._chunks())])
        found = np.column_stack([found, found[:, 0] - found[:, 1]])
        return _Replicated(found[0], found[1:])

    def _chunks(self) -> Iterator[Int[np.ndarray, "r n"]]:
        size = max(1, _CHUNK_ELEMENTS // self.times.shape[1])
        return (self.times[start : start + size] for start in range(0, len(self.times), size))

    def intervals(
        self, found: _Replicated, scale: Scale = "difference", *, undefined: str = _NO_PAIRS, most: float = np.inf
    ) -> list[Interval]:
        """Of each value, at most `most`; `undefined` says why one is NaN."""
        low, high = ends(found.replicates, found.observed[None], self.design, _LEVEL, scale=scale)
        shortage = self.design.shortage(self.unit)
        return [
            Interval(
                float(estimate),
                float(least),
                float(min(greatest, most)),
                _LEVEL,
                reason=f"undefined: {undefined}" if np.isnan(estimate) else shortage,
            )
            for estimate, least, greatest in zip(found.observed, low, high, strict=True)
        ]


def _in_order(
    labels: Int[np.ndarray, " n"],
    values: Float[np.ndarray, "k n"],
    bins: list[Bool[np.ndarray, " n"]],
    times: Int[np.ndarray, "r n"],
) -> Float[np.ndarray, "r k"]:
    """Of pairs of both classes in the same bin, each patch there so many times, the share that each puts in order."""
    pairs, ordered = np.zeros(len(times)), np.zeros((len(times), len(values)))
    for inside in bins:
        rows = np.concatenate([np.flatnonzero(inside & (labels == label)) for label in (1, 0)])
        positives = int(labels[rows].sum())
        weights = Weights.of(times[:, rows], positives)
        count = weights.positives.sum(axis=1) * weights.negatives.sum(axis=1)
        pairs += count
        for k, said in enumerate(values[:, rows]):
            auc = Prediction.of(labels[rows], said, ("auc",)).measure(weights)[:, 0]
            ordered[:, k] += count * np.nan_to_num(auc)
    return np.divide(ordered, pairs[:, None], out=np.full_like(ordered, np.nan), where=pairs[:, None] > 0)


def _curves(
    values: Mapping[str, Float[np.ndarray, " n"]], full: _Regression, resampled: _Resampled
) -> tuple[ConceptCurve, ...]:
    """Of the model of all patches, with bands of models of replicates, under the same penalty."""
    penalty, drawn = [full.penalty], resampled.times[:_REFITS].astype(np.float64)
    own = full.everything.fitted(penalty)[:, :-1]
    others = np.concatenate([_Moments.of(full.basis, full.logit, times).fitted(penalty)[:, :-1] for times in drawn])
    curves, first = [], 0
    for name, of in values.items():
        basis, known = _Basis.of(of), of[np.isfinite(of)]
        its = slice(first, first := first + len(basis.knots))
        if not len(known):
            continue
        at = np.quantile(known, _CURVE_AT)
        seen = basis.columns(at) - basis.columns(known).mean(axis=0)  # its level is the intercept's, not its own
        observed = own[:, its] @ seen.T
        low, high = ends(others[:, its] @ seen.T, observed, resampled.design, _LEVEL, scale="difference")
        curves.append(ConceptCurve(name, at, *(np.round(of, 4) for of in (observed[0], low, high))))
    return tuple(curves)


def _matched(
    by: Matching,
    values: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    clusters: Shaped[np.ndarray, " n"],
    resampled: _Resampled,
    rng: np.random.Generator,
    workers: int,
) -> Matched:
    """Cut the patches into fifths of `values`, and score network and values within them."""
    number = np.searchsorted(np.quantile(values, np.arange(1, _BINS) / _BINS), values, side="right")
    number = np.unique(number, return_inverse=True)[1]
    lowest, highest = values.min(), values.max()
    rival = (values - lowest) / max(highest - lowest, np.finfo(float).tiny)

    parts = [number == k for k in range(int(number.max()) + 1)]
    within = resampled.auc_within(labels, np.stack([probabilities, rival]), parts)
    bins = []
    for inside in parts:
        auc = bootstrap(
            labels[inside],
            probabilities[inside][None, None],
            clusters[inside],
            rng=rng,
            metrics=("auc",),
            replicates=_REPLICATES,
            workers=workers,
            unit=resampled.unit,
        ).interval(0, "auc")
        low, high = float(values[inside].min()), float(values[inside].max())
        bins.append(MatchedBin(low, high, int(inside.sum()), int(labels[inside].sum()), auc))
    network, other, _ = resampled.intervals(within, "share")
    return Matched(by, tuple(bins), network, other, resampled.intervals(within)[2])
