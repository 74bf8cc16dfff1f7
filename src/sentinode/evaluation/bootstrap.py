"""Intervals that respect slides: a bootstrap of clusters and seeds, paired over variants, honest where few are left.

A replicate draws as many clusters as there are, with replacement among those that hold the same classes, and takes all
patches of each. Drawing the patches within a cluster with replacement as well counts the spread within clusters twice:
at once among the drawn clusters and again within them. Davison and Hinkley (1997, section 3.8) advise against it.

Percentiles of the replicates are no interval where slides are few or the score is near 1: in simulation such 95 %
intervals of an AUC of .95 held it in 76 % with 5 + 5 slides of one class each, and still in 84 to 89 % with 20.
Replicates give a variance instead. It is widened to what so many clusters leave unseen (`Design.widening`), and
Student's t with their degrees of freedom says how far an interval reaches: of scores between 0 and 1 on the scale of
their probit, on which the AUC of two normal classes is a distance; of the log loss on that of its logarithm; of
differences as they are. Seeds are few as well: their part of the variance has degrees of freedom of its own, and both
are joined as Satterthwaite (1946) has it.

Where every replicate has the best possible score, slides that would do worse were not met, and their share is bounded
by how many were looked at: n successes of n leave alpha^(1/n) as the lower end (Clopper and Pearson 1934; about 3 / n
of failures, Hanley and Lippman-Hand 1983), a slide counted as wholly right or wholly wrong. Where a share q of the
replicates has it, about -log(q) slides are imperfect, and the bound for so many failures is the least that is said.

With fewer than `clusters.FEWEST` clusters of a class nothing of this can be trusted, and the interval is unknown: its
ends are NaN, and its `reason` says why. So is one whose replicates are all equal where no such bound applies, as of a
difference that is 0 in each: its width of zero would promise what nobody has seen. Two seeds are too few to speak of
others, and one says nothing of them.
What is covered, over 2 to 40 slides, stands in docs/lab-log.md (`benchmarks/intervals.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from sentinode.evaluation.clusters import FEWEST, Clusters, Design, draw_seeds
from sentinode.evaluation.metrics import OwnMetric, gain, own_score, scores
from sentinode.evaluation.weighted import Prediction, Weights
from sentinode.records import Number

METRICS: Final = (
    "auc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "sensitivity_at_95_specificity",
    "brier_score",
    "log_loss",
    "ece",
)
Scale = Literal["share", "positive", "difference"]
"""How a value is bounded: to [0, 1], below by 0, or not at all."""

_BISECTIONS: Final = 20
_CHUNK_ELEMENTS: Final = 2**17  # replicates x patches worked on at a time: its memory stays in the caches
_RESOLUTION: Final = 1e-6  # of scores under weights, which are in single precision


@dataclass(frozen=True)
class Interval:
    """An interval around the value observed on all patches; where it is unknown its ends are NaN.

    reason: why it is unknown, in plain words, such as "slides with tumour: 2; at least 3 would be needed"; else None.
    """

    estimate: Number
    low: Number
    high: Number
    level: float
    reason: str | None = field(default=None, kw_only=True)

    def ends_in_words(self, number: str = ".3f") -> str:
        """Such as "0.912 to 0.954"; "unknown" where they are."""
        return "unknown" if np.isnan(self.low) else f"{self.low:{number}} to {self.high:{number}}"


@dataclass(frozen=True)
class PairedInterval(Interval):
    """The interval of a difference, taken replicate by replicate."""

    share_a_better: Number  # of the replicates; equal ones count half. Not a p-value
    p_value: Number  # one minus the level of the widest such interval that leaves out zero; NaN with its ends
    still: bool = field(default=False, kw_only=True)
    """Unknown because all replicates are equal, not because clusters are few."""

    @property
    def plain(self) -> Interval:
        """Without what is only asked of a difference."""
        return Interval(self.estimate, self.low, self.high, self.level, reason=self.reason)


@dataclass(frozen=True, eq=False)
class Replicates:
    """Every metric of every variant in every replicate.

    A metric is NaN in a replicate in which every part of a seed lacks a class that it needs.
    """

    metrics: tuple[str, ...]
    unit: str
    clusters: int
    designs: tuple[Design, ...]  # of each variant
    by_seed: Float[np.ndarray, "variants seeds metrics"]  # observed on all patches
    values: Float[np.ndarray, "replicates variants metrics"]
    own: Mapping[str, OwnMetric] = field(default_factory=dict)
    """The metrics of a user's own among them."""

    @property
    def weakest(self) -> Design:
        """Of the variant of which the clusters tell least: all the same where all are split alike."""
        return min(self.designs, key=lambda design: design.fewest)

    @property
    def left_out(self) -> int:
        """How many replicates lack a class in every part of a seed, for any variant and metric that is ever defined."""
        undefined = np.isnan(self.values)
        return int((undefined & ~undefined.all(axis=0)).any(axis=(1, 2)).sum())

    def interval(self, variant: int, metric: str, level: float = 0.95) -> Interval:
        """Of one variant's score; unknown where its clusters are too few or the score is undefined."""
        column = self._column(metric)
        by_seed, design = self.by_seed[variant, :, column], self.designs[variant]
        estimate = float(by_seed.mean())
        nan = float("nan")
        reason = _reason(estimate, design, self.unit)
        if reason is not None:
            return Interval(estimate, nan, nan, level, reason=reason)
        low, high = _ends_of_one(self.values[:, variant, column], by_seed, design, level, self._scale(metric))
        if not high - low > _RESOLUTION:
            return Interval(estimate, nan, nan, level, reason=self._no_spread(self.values[:, variant, column]))
        return Interval(estimate, low, high, level)

    def difference(self, a: int, b: int, metric: str, level: float = 0.95) -> PairedInterval:
        """Variant `a` minus variant `b` on the same drawn patches and seeds."""
        column = self._column(metric)
        differences = self.values[:, a, column] - self.values[:, b, column]
        by_seed = self.by_seed[a, :, column] - self.by_seed[b, :, column]
        estimate, design = float(by_seed.mean()), self.designs[a].or_weaker(self.designs[b])
        gains = differences[~np.isnan(differences)] * self.gain(metric)
        share_a_better = float(np.mean((np.sign(gains) + 1) / 2)) if len(gains) else float("nan")
        nan = float("nan")
        reason = _reason(estimate, design, self.unit)
        if reason is not None:
            return PairedInterval(estimate, nan, nan, level, share_a_better, p_value=nan, reason=reason)
        bounded = any(self._always_best(variant, metric) for variant in (a, b))

        def ends_at(level: float) -> tuple[float, float]:
            if bounded:
                return self._from_both(a, b, metric, level)
            return _ends_of_one(differences, by_seed, design, level, "difference")

        low, high = ends_at(level)
        if not high - low > _RESOLUTION:
            told = self._no_spread(differences)
            return PairedInterval(estimate, nan, nan, level, share_a_better, p_value=nan, reason=told, still=True)
        p_value = _p_value(ends_at, least=2 / (1 + len(gains)))
        most = 1.0 if self._scale(metric) == "share" else float("inf")
        low, high = float(np.clip(low, -most, most)), float(np.clip(high, -most, most))
        return PairedInterval(estimate, low, high, level, share_a_better, p_value)

    def _from_both(self, a: int, b: int, metric: str, level: float) -> tuple[float, float]:
        """From the intervals of both, for the replicates of a bound say nothing of a difference (Zou and Donner 2008).

        That they are paired is not used: such an interval is too wide rather than too narrow.
        """
        of_a, of_b = self.interval(a, metric, level), self.interval(b, metric, level)
        estimate = of_a.estimate - of_b.estimate
        below = np.hypot(of_a.estimate - of_a.low, of_b.high - of_b.estimate)
        above = np.hypot(of_a.high - of_a.estimate, of_b.estimate - of_b.low)
        return float(estimate - below), float(estimate + above)

    def _no_spread(self, values: Float[np.ndarray, " r"]) -> str:
        """Why replicates without any spread leave an interval unknown."""
        if np.isnan(values).all():
            return "undefined in every replicate"
        return f"equal in every replicate, which says nothing of other {self.unit}"

    def _always_best(self, variant: int, metric: str) -> bool:
        best = 0.0 if self.gain(metric) < 0 else 1.0
        values = self.values[:, variant, self._column(metric)]
        return self._scale(metric) == "share" and bool(np.nanmax(np.abs(values - best)) <= 2 * _RESOLUTION)

    def gain(self, metric: str) -> Literal[1, -1]:
        """1 where more of the metric is better, -1 where less is."""
        return self.own[metric].gain if metric in self.own else gain(metric)

    def _scale(self, metric: str) -> Scale:
        if metric in self.own:
            return "share" if self.own[metric].share else "difference"
        return scale_of(metric)

    def of_seeds(self, variant: int, metric: str) -> Float[np.ndarray, " seeds"]:
        """What each seed observed."""
        observed: NDArray[np.float64] = self.by_seed[variant, :, self._column(metric)]
        return observed

    def _column(self, metric: str) -> int:
        return self.metrics.index(metric)


def scale_of(metric: str) -> Scale:
    return "positive" if metric == "log_loss" else "share"


def _reason(estimate: float, design: Design, unit: str) -> str | None:
    """Why no interval of this value is known; None where one is."""
    if len(design.classes) < 2 and np.isnan(estimate):
        return "undefined: all patches are of one class"
    if np.isnan(estimate):
        return "undefined: a fold lacks a class"
    return design.shortage(unit)


def _p_value(ends_at: Callable[[float], tuple[float, float]], least: float) -> float:
    """By bisection, so that the p-value and the interval, with all its widening, never disagree."""

    def leaves_out_zero(p: float) -> bool:
        low, high = ends_at(1 - p)
        return low > 0 or high < 0

    if least >= 1 or leaves_out_zero(least):
        return min(least, 1.0)
    within, beyond = least, 1.0
    for _ in range(_BISECTIONS):
        middle = (within * beyond) ** 0.5
        within, beyond = (within, middle) if leaves_out_zero(middle) else (middle, beyond)
    return beyond


def _ends_of_one(
    values: Float[np.ndarray, " r"], by_seed: Float[np.ndarray, " seeds"], design: Design, level: float, scale: Scale
) -> tuple[float, float]:
    low, high = ends(values[:, None], by_seed[:, None], design, level, scale=scale)
    return float(low[0]), float(high[0])


def ends(
    values: Float[np.ndarray, "r k"],
    by_seed: Float[np.ndarray, "seeds k"],
    design: Design,
    level: float,
    *,
    scale: Scale,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The lower and upper ends of the intervals of `k` values, from replicates and from what each seed observed.

    Replicates with NaN count in none of them. The ends are NaN without any other, and where clusters are too few; where
    all replicates are equal and no bound applies, both are the estimate.
    """
    from scipy import special  # here and below: who only shows an interval does not wait for it

    values = values[~np.isnan(values).any(axis=1)]
    seeds, k = by_seed.shape
    if not len(values) or design.shortage("clusters"):
        return np.full(k, np.nan), np.full(k, np.nan)
    estimate = by_seed.mean(axis=0)
    forward, back = _SCALES[scale]
    transformed = forward(values)
    variance = transformed.var(axis=0)
    share = np.zeros(k)
    if seeds > 1:
        between_seeds, of_all = by_seed.var(axis=0, ddof=1) / seeds, values.var(axis=0)
        share = np.minimum(np.divide(between_seeds, of_all, out=np.zeros(k), where=of_all > 0), 1)
    of_seeds, of_clusters = share * variance, (1 - share) * variance * design.widening
    total = of_seeds + of_clusters
    moves = np.ptp(transformed, axis=0) > 0
    share = np.divide(of_seeds, total, out=np.zeros(k), where=moves)
    freedom = 1 / (share**2 / max(seeds - 1, 1) + (1 - share) ** 2 / design.freedom)
    reach = special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(total)
    middle = forward(estimate)
    low, high = np.where(moves, back(middle - reach), estimate), np.where(moves, back(middle + reach), estimate)
    if scale == "share":
        at_most = _bound((values >= 1 - 2 * _RESOLUTION).mean(axis=0), design.fewest, level)
        at_least = _bound((values <= 2 * _RESOLUTION).mean(axis=0), design.fewest, level)
        low = np.where(at_most > 0, np.where(moves, np.maximum(low, at_most), at_most), low)
        high = np.where(at_least > 0, np.where(moves, np.minimum(high, 1 - at_least), 1 - at_least), high)
        low, high = np.where(at_least > 0, 0, low), np.where(at_most > 0, 1, high)
    return low, high


def _bound(share: Float[np.ndarray, " k"], clusters: float, level: float) -> Float[np.ndarray, " k"]:
    """The one-sided lower bound of a score that has its best value in this share of the replicates; 0 where in none.

    A replicate of n clusters misses s imperfect ones with a chance of (1 - s / n)^n, about exp(-s).
    """
    from scipy import special

    imperfect = -np.log(np.maximum(share, np.finfo(float).tiny))
    right = np.maximum(clusters - imperfect, np.finfo(float).tiny)
    found: NDArray[np.float64] = np.where(
        (share > 0) & (imperfect < clusters), special.betaincinv(right, imperfect + 1, 1 - level), 0
    )
    return found


def _kept_inside(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(values, _RESOLUTION, 1 - _RESOLUTION)


def _probit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy import special

    return np.asarray(special.ndtri(_kept_inside(values)))


def _normal_share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy import special

    return np.asarray(special.ndtr(values))


_SCALES: Final[dict[Scale, tuple[Callable[..., NDArray[np.float64]], Callable[..., NDArray[np.float64]]]]] = {
    "share": (_probit, _normal_share),
    "positive": (lambda values: np.log(np.maximum(values, _RESOLUTION)), np.exp),
    "difference": (lambda values: values, lambda values: values),
}


def bootstrap(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "variants seeds n"],
    clusters: Shaped[np.ndarray, " n"],
    *,
    rng: np.random.Generator,
    metrics: Sequence[str] = METRICS,
    replicates: int = 2000,
    workers: int = 2,
    parts: Int[np.ndarray, "variants seeds n"] | None = None,
    unit: str = "slides",
    own: Mapping[str, OwnMetric] = MappingProxyType({}),
) -> Replicates:
    """Draw clusters with replacement, with all their patches, and seeds on top; score every variant on the same draw.

    Labels are 0 or 1; probabilities lie in [0, 1]; `clusters` names each patch's slide or group, "" for a patch
    that is its own; `unit` says in words what they are (`CLUSTER_NAMES`). A variant's metric is the mean over the drawn
    seeds of the metric of that seed's predictions, not of averaged probabilities. The result depends on `rng` alone,
    not on `workers`.

    `parts` numbers the fold of cross-validation that each patch was validated in, in any way for each variant and
    seed. A seed's metric is then the mean over its parts of the metric among the part's patches: the networks of
    different folds share no scale, so their patches are never ranked together (Forman and Scholz 2010, "Apples-to-
    apples in cross-validation studies"). In a replicate it is the mean over those parts that have both classes.

    `own` are further metrics, each computed anew on the patches of every replicate.
    """
    if parts is None:
        parts = np.zeros(probabilities.shape, np.int64)
    clustering = Clusters.of(clusters, labels)
    blocks = _blocks(labels, probabilities, parts, metrics)
    size = max(1, min(replicates, _CHUNK_ELEMENTS // max(len(block.rows) for block in blocks)))
    counts = [min(size, replicates - start) for start in range(0, replicates, size)]

    def score_chunk(count: int, own_rng: np.random.Generator) -> Float[np.ndarray, "count variants metrics"]:
        times = clustering.patches(clustering.draw(count, own_rng))
        seeds = draw_seeds(probabilities.shape[1], count, own_rng)
        summed, defined = np.zeros((2, *probabilities.shape[:2], count, len(metrics) + len(own)))
        for block in blocks:
            drawn = np.take(times, block.rows, axis=1, mode="clip")
            weights = Weights.of(drawn, block.positives)
            for (variant, seed), prediction in block.predictions.items():
                said = probabilities[variant, seed, block.rows]
                measured = np.hstack([prediction.measure(weights), _resampled(own, labels[block.rows], said, drawn)])
                summed[variant, seed] += np.nan_to_num(measured)
                defined[variant, seed] += ~np.isnan(measured)
        by_seed = np.divide(summed, defined, out=np.full_like(summed, np.nan), where=defined > 0)
        over_seeds: NDArray[np.float64] = np.einsum("vsrm,rs->rvm", by_seed, seeds)
        return over_seeds

    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        *for_chunks, for_designs = rng.spawn(len(counts) + 1)
        chunks = list(pool.map(score_chunk, counts, for_chunks))
    observed = [
        [_plain(labels, seed, part, metrics, own) for seed, part in zip(variant, of_variant, strict=True)]
        for variant, of_variant in zip(probabilities, parts, strict=True)
    ]
    designs: dict[bytes, Design] = {}
    for partition in parts:
        if partition.tobytes() not in designs:
            designs[partition.tobytes()] = clustering.design(partition, for_designs)
    return Replicates(
        (*metrics, *own),
        unit,
        len(clustering.sizes),
        tuple(designs[partition.tobytes()] for partition in parts),
        np.array(observed),
        np.concatenate(chunks),
        own,
    )


def mean_interval(
    values: Float[np.ndarray, " n"],
    clusters: Shaped[np.ndarray, " n"],
    *,
    rng: np.random.Generator,
    scale: Scale = "difference",
    level: float = 0.95,
    replicates: int = 2000,
    unit: str = "slides",
) -> PairedInterval:
    """The mean of a quantity of each patch, whatever its label, and how sure it is over clusters that are drawn anew.

    Patches whose value is NaN do not count. Of a difference between two models on the same patches, the p-value is that
    of no difference, and `share_a_better` the share of replicates above zero; of other quantities they say nothing.
    `scale`: "share" for values in [0, 1].
    """
    known = np.flatnonzero(~np.isnan(values))
    nan = float("nan")
    if not len(known):
        return PairedInterval(nan, nan, nan, level, nan, nan, reason="undefined for every patch")
    nothing = np.zeros(len(known), np.int64)
    clustering = Clusters.of(clusters[known], nothing)
    ordered = values[known][clustering.rows]
    sums = np.add.reduceat(ordered, np.cumsum(clustering.sizes) - clustering.sizes)
    for_draws, for_design = rng.spawn(2)
    drawn = clustering.draw(replicates, for_draws)
    means = (drawn @ sums) / (drawn @ clustering.sizes)
    design = clustering.design(nothing[None], for_design)
    found, above = float(ordered.mean()), float(np.mean((np.sign(means) + 1) / 2))
    if design.shortage(unit) is not None:
        effective = f", which tell as much as {design.fewest:.1f} equal ones" if len(drawn[0]) >= FEWEST else ""
        told = f"{unit}: {len(drawn[0]):,}{effective}; at least {FEWEST} would be needed"
        return PairedInterval(found, nan, nan, level, above, nan, reason=told)

    def ends_at(level: float) -> tuple[float, float]:
        return _ends_of_one(means, np.array([found]), design, level, scale)

    low, high = ends_at(level)
    if not high - low > _RESOLUTION:
        told = f"equal in every replicate, which says nothing of other {unit}"
        return PairedInterval(found, nan, nan, level, above, nan, reason=told, still=True)
    return PairedInterval(found, low, high, level, above, _p_value(ends_at, least=2 / (1 + replicates)))


def _resampled(
    own: Mapping[str, OwnMetric],
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    times: Int[np.ndarray, "r n"],
) -> Float[np.ndarray, "r own"]:
    """Metrics of the user's own where each patch is there so many times; NaN where a class that there is, is not."""
    values = np.full((len(times), len(own)), np.nan)
    for row, counts in enumerate(times if own else ()):
        patches = np.repeat(np.arange(len(labels)), counts)
        if len(np.unique(labels[patches])) == len(np.unique(labels)):
            values[row] = [own_score(name, own[name], labels[patches], probabilities[patches]) for name in own]
    return values


@cache
def _blas() -> ThreadpoolController:
    """Found once, for looking through the process's libraries takes longer than a small bootstrap."""
    return ThreadpoolController()


@dataclass(frozen=True, eq=False)
class _Block:
    """The patches of one part, and the predictions that are scored on them: those that share the partition."""

    rows: NDArray[np.int64]  # positives first
    positives: int
    predictions: dict[tuple[int, int], Prediction]  # by variant and seed


def _blocks(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "variants seeds n"],
    parts: Int[np.ndarray, "variants seeds n"],
    metrics: Sequence[str],
) -> list[_Block]:
    sharing: dict[bytes, list[tuple[int, int]]] = {}
    for index in np.ndindex(probabilities.shape[:2]):
        sharing.setdefault(parts[index].tobytes(), []).append(index)
    positives_first = np.argsort(labels != 1, kind="stable")
    blocks = []
    for indices in sharing.values():
        partition = parts[indices[0]][positives_first]
        for number in np.unique(partition):
            rows = positives_first[partition == number]
            predictions = {index: Prediction.of(labels[rows], probabilities[index][rows], metrics) for index in indices}
            blocks.append(_Block(rows, int(np.sum(labels[rows] == 1)), predictions))
    return blocks


def _plain(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    parts: Int[np.ndarray, " n"],
    metrics: Sequence[str],
    own: Mapping[str, OwnMetric],
) -> Float[np.ndarray, " metrics"]:
    by_part = []
    for number in np.unique(parts):
        of_part = labels[parts == number], probabilities[parts == number]
        found = scores(*of_part, metrics)
        by_part.append([*(found[name] for name in metrics), *(own_score(name, own[name], *of_part) for name in own)])
    mean: NDArray[np.float64] = np.mean(by_part, axis=0)
    return mean
