"""Intervals that respect slides: a hierarchical bootstrap of clusters, patches and seeds, paired over variants.

A replicate draws as many clusters as there are, with replacement, and takes all patches of each. Drawing the patches
within a cluster with replacement as well counts the spread within clusters twice: at once among the drawn clusters
and again within them. Davison and Hinkley (1997, section 3.8) advise against it, and in simulation such 95 %
intervals cover 99 % where slides differ little. It is offered as `patches="resampled"`, the cautious choice.

Percentile intervals are too narrow for few clusters: they lack Student's t and the factor n / (n - 1) of a variance.
`ends` widens the percentiles by both (Hesterberg 2015, the expanded percentile interval), with the effective number
of clusters for n: slides that differ in size, or in their share of tumour, tell less than as many equal ones. In
simulation 95 % intervals of the AUC then cover 92 to 96 % with 10 to 200 clusters; the tests hold 20 to 200.

Seeds are few as well, and no percentile of three of them reaches as far as Student's t with two degrees of freedom.
So the interval is stretched about its median, as far as the variance between seeds asks for (Satterthwaite 1946),
which `draw_seeds` does not understate. In simulation 95 % intervals of a paired difference of AUCs then cover 92 to
97 % with 3 to 10 seeds and 20 to 200 clusters, plain percentiles 79 to 97 %. Two seeds remain too few, and one says
nothing of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from scipy import stats
from threadpoolctl import ThreadpoolController

from sentinode.evaluation.clusters import Clusters, draw_seeds
from sentinode.evaluation.metrics import scores
from sentinode.evaluation.weighted import Prediction, Weights

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
LOWER_IS_BETTER: Final = frozenset({"brier_score", "log_loss", "ece"})

_BISECTIONS: Final = 20
_LEAST_FREEDOM: Final = 0.5  # where one slide holds a class: as wide as the replicates themselves
_CHUNK_ELEMENTS: Final = 2**17  # replicates x patches worked on at a time: its memory stays in the caches


@dataclass(frozen=True)
class Interval:
    """An interval around the value observed on all patches; its ends are NaN with fewer than two clusters."""

    estimate: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class PairedInterval(Interval):
    """The interval of a difference, taken replicate by replicate."""

    share_a_better: float  # of the replicates; equal ones count half. Not a p-value
    p_value: float  # one minus the level of the widest such interval that leaves out zero; NaN with its ends


@dataclass(frozen=True, eq=False)
class Replicates:
    """Every metric of every variant in every replicate.

    A variant is NaN throughout a replicate in which it lacks one of the classes, in any part of any seed.
    """

    metrics: tuple[str, ...]
    clusters: int
    effective_clusters: float  # as `Clusters.effective`
    by_seed: Float[np.ndarray, "variants seeds metrics"]  # observed on all patches
    values: Float[np.ndarray, "replicates variants metrics"]

    @property
    def observed(self) -> Float[np.ndarray, "variants metrics"]:
        """The mean over seeds."""
        mean: NDArray[np.float64] = self.by_seed.mean(axis=1)
        return mean

    @property
    def left_out(self) -> int:
        """How many replicates lack one of the classes for any variant; no comparison of all variants has them."""
        return int(np.isnan(self.values[:, :, 0]).any(axis=1).sum())

    def interval(self, variant: int, metric: str, level: float = 0.95) -> Interval:
        """From the replicates in which this variant has both classes; its ends lie in the metric's range."""
        column = self._column(metric)
        by_seed = self.by_seed[variant, :, column]
        low, high = self._ends(self.values[:, variant, column], by_seed, level)
        most = _largest(metric)
        return Interval(float(by_seed.mean()), float(np.clip(low, 0, most)), float(np.clip(high, 0, most)), level)

    def difference(self, a: int, b: int, metric: str, level: float = 0.95) -> PairedInterval:
        """Variant `a` minus variant `b` on the same drawn patches and seeds, where both have both classes."""
        column = self._column(metric)
        differences = self.values[:, a, column] - self.values[:, b, column]
        by_seed = self.by_seed[a, :, column] - self.by_seed[b, :, column]
        low, high = self._ends(differences, by_seed, level)
        most = _largest(metric)
        gains = differences[~np.isnan(differences)] * (-1 if metric in LOWER_IS_BETTER else 1)
        return PairedInterval(
            float(by_seed.mean()),
            float(np.clip(low, -most, most)),
            float(np.clip(high, -most, most)),
            level,
            share_a_better=float(np.mean((np.sign(gains) + 1) / 2)) if len(gains) else float("nan"),
            p_value=self._p_value(differences, by_seed),
        )

    def _p_value(self, differences: Float[np.ndarray, " r"], by_seed: Float[np.ndarray, " seeds"]) -> float:
        """By bisection, so that the p-value and the interval, with all its widening, never disagree."""
        least = 2 / (1 + int(np.sum(~np.isnan(differences))))

        def leaves_out_zero(p: float) -> bool:
            low, high = self._ends(differences, by_seed, 1 - p)
            return low > 0 or high < 0

        if np.isnan(self._ends(differences, by_seed, 1 - least)[0]):
            return float("nan")
        if least >= 1 or leaves_out_zero(least):
            return min(least, 1.0)
        within, beyond = least, 1.0
        for _ in range(_BISECTIONS):
            middle = (within * beyond) ** 0.5
            within, beyond = (within, middle) if leaves_out_zero(middle) else (middle, beyond)
        return beyond

    def _column(self, metric: str) -> int:
        return self.metrics.index(metric)

    def _ends(
        self, values: Float[np.ndarray, " r"], by_seed: Float[np.ndarray, " seeds"], level: float
    ) -> tuple[float, float]:
        if self.clusters < 2:
            return float("nan"), float("nan")  # one slide cannot tell how slides differ
        low, high = ends(values[:, None], by_seed[:, None], self.effective_clusters, level)
        return float(low[0]), float(high[0])


def _largest(metric: str) -> float:
    return float("inf") if metric == "log_loss" else 1.0


def ends(
    values: Float[np.ndarray, "r k"], by_seed: Float[np.ndarray, "seeds k"], effective_clusters: float, level: float
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The lower and upper ends of the intervals of `k` values, from replicates and from what each seed observed.

    Replicates with NaN count in none of them; without any other, the ends are NaN.
    """
    values = values[~np.isnan(values).any(axis=1)]
    seeds, k = by_seed.shape
    if not len(values):
        return np.full(k, np.nan), np.full(k, np.nan)
    free = max(effective_clusters - 1, _LEAST_FREEDOM)
    reach = float(stats.t.ppf((1 + level) / 2, free))
    spread = np.sqrt((free + 1) / free) * reach
    low, high = np.quantile(values, stats.norm.cdf([-spread, spread]), axis=0)
    if seeds > 1:
        between_seeds = by_seed.var(axis=0, ddof=1) / seeds
        between_clusters = np.maximum(values.var(axis=0) - between_seeds, 0)
        with np.errstate(invalid="ignore"):  # no variance at all: nothing to stretch
            share = np.nan_to_num(between_seeds / (between_seeds + between_clusters))
        reach_of_both = stats.t.ppf((1 + level) / 2, 1 / (share**2 / (seeds - 1) + (1 - share) ** 2 / free))
        stretch, median = np.maximum(reach_of_both / reach, 1), np.median(values, axis=0)
        low, high = median + stretch * (low - median), median + stretch * (high - median)
    return low, high


def bootstrap(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "variants seeds n"],
    clusters: Shaped[np.ndarray, " n"],
    *,
    rng: np.random.Generator,
    metrics: Sequence[str] = METRICS,
    replicates: int = 2000,
    patches: Literal["all", "resampled"] = "all",
    workers: int = 2,
    parts: Int[np.ndarray, "variants seeds n"] | None = None,
) -> Replicates:
    """Draw clusters with replacement, then their patches, and seeds on top; score every variant on the same draw.

    Labels are 0 or 1; probabilities lie in [0, 1]; `clusters` names each patch's slide or group, "" for a patch
    that is its own. A variant's metric is the mean over the drawn seeds of the metric of that seed's predictions,
    not of averaged probabilities. The result depends on `rng` alone, not on `workers`.

    `parts` numbers the fold of cross-validation that each patch was validated in, in any way for each variant and
    seed. A seed's metric is then the mean over its parts of the metric among the part's patches: the networks of
    different folds share no scale, so their patches are never ranked together (Forman and Scholz 2010, "Apples-to-
    apples in cross-validation studies").
    """
    if parts is None:
        parts = np.zeros(probabilities.shape, np.int64)
    clustering = Clusters.of(clusters)
    blocks = _blocks(labels, probabilities, parts, metrics)
    size = max(1, min(replicates, _CHUNK_ELEMENTS // max(len(block.rows) for block in blocks)))
    counts = [min(size, replicates - start) for start in range(0, replicates, size)]

    def score_chunk(count: int, own_rng: np.random.Generator) -> Float[np.ndarray, "count variants metrics"]:
        times = clustering.draw(count, own_rng, patches)
        seeds = draw_seeds(probabilities.shape[1], count, own_rng)
        by_seed = np.zeros((*probabilities.shape[:2], count, len(metrics)))
        for block in blocks:
            weights = Weights.of(np.take(times, block.rows, axis=1, mode="clip"), block.positives)
            for (variant, seed), prediction in block.predictions.items():
                by_seed[variant, seed] += block.share * prediction.measure(weights)
        over_seeds: NDArray[np.float64] = np.einsum("vsrm,rs->rvm", by_seed, seeds)
        return over_seeds

    with _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        chunks = list(pool.map(score_chunk, counts, rng.spawn(len(counts))))
    observed = [
        [_plain(labels, seed, part, metrics) for seed, part in zip(variant, of_variant, strict=True)]
        for variant, of_variant in zip(probabilities, parts, strict=True)
    ]
    return Replicates(
        tuple(metrics), len(clustering.sizes), clustering.effective(labels), np.array(observed), np.concatenate(chunks)
    )


@cache
def _blas() -> ThreadpoolController:
    """Found once, for looking through the process's libraries takes longer than a small bootstrap."""
    return ThreadpoolController()


@dataclass(frozen=True, eq=False)
class _Block:
    """The patches of one part, and the predictions that are scored on them: those that share the partition."""

    rows: NDArray[np.int64]  # positives first
    positives: int
    share: float  # one of how many parts
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
        numbers = np.unique(partition)
        for number in numbers:
            rows = positives_first[partition == number]
            predictions = {index: Prediction.of(labels[rows], probabilities[index][rows], metrics) for index in indices}
            blocks.append(_Block(rows, int(np.sum(labels[rows] == 1)), 1 / len(numbers), predictions))
    return blocks


def _plain(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    parts: Int[np.ndarray, " n"],
    metrics: Sequence[str],
) -> Float[np.ndarray, " metrics"]:
    by_part = [scores(labels[parts == number], probabilities[parts == number]) for number in np.unique(parts)]
    mean: NDArray[np.float64] = np.mean([[found[metric] for metric in metrics] for found in by_part], axis=0)
    return mean
