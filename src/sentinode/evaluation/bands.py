"""ROC and precision-recall curves over seeds, with bands from a bootstrap of clusters and seeds.

Curves are averaged vertically: at each false positive rate the mean of the sensitivities, at each recall the mean of
the precisions (Fawcett 2006, "An introduction to ROC analysis"). Bands are pointwise: each point's interval is that
of `bootstrap.ends`, and a curve may well leave its band somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from sentinode.evaluation.bootstrap import ends
from sentinode.evaluation.clusters import Clusters, draw_seeds
from sentinode.records import Numbers

_DIGITS: Final = 5
_CHUNK_ELEMENTS: Final = 2**17  # replicates x patches worked on at a time: its memory stays in the caches


@dataclass(frozen=True, eq=False)
class Band:
    """A mean curve and its band, all in [0, 1]; NaN where labels lack a class, its ends with too few clusters."""

    x: Annotated[Float[np.ndarray, " points"], Numbers(digits=_DIGITS)]
    mean: Annotated[Float[np.ndarray, " points"], Numbers(digits=_DIGITS)]
    low: Annotated[Float[np.ndarray, " points"], Numbers(digits=_DIGITS)]
    high: Annotated[Float[np.ndarray, " points"], Numbers(digits=_DIGITS)]


@dataclass(frozen=True, eq=False)
class Bands:
    """Sensitivity by false positive rate and precision by recall, with pointwise bands of the given level."""

    roc: Band
    precision_recall: Band
    level: float


def curve_bands(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "seeds n"],
    clusters: Shaped[np.ndarray, " n"],
    *,
    rng: np.random.Generator,
    replicates: int = 500,
    points: int = 101,
    parts: Int[np.ndarray, "seeds n"] | None = None,
    level: float = 0.95,
) -> Bands:
    """The curves of one variant: means over its seeds, and over the parts of each as `bootstrap` has them.

    `points` false positive rates, and as many recalls, lie evenly from 0 to 1. Sensitivity is linear between the
    thresholds, and the largest where several share a rate. Precision is that of the fewest patches called positive
    that reach the recall, the convention of average precision; at recall 0, that of the fewest with a true positive.
    Equal probabilities fall on one side together. A replicate in which a part lacks a class is left out; where the
    labels themselves lack one, the curves are NaN.
    """
    clustering = Clusters.of(clusters, labels)
    grid = np.linspace(0.0, 1.0, points)
    partitions = np.zeros(probabilities.shape, np.int64) if parts is None else parts
    ranked = [
        [_Ranked.of(labels, seed, np.flatnonzero(partition == number)) for number in np.unique(partition)]
        for seed, partition in zip(probabilities, partitions, strict=True)
    ]

    def by_seed(times: Int[np.ndarray, "r n"]) -> Float[np.ndarray, "seeds r x"]:
        curves: NDArray[np.float64] = np.array(
            [np.mean([part.curves(times, grid) for part in seed], axis=0) for seed in ranked]
        )
        return curves

    observed = by_seed(np.ones((1, len(labels)), np.int32))[:, 0]
    size = max(1, _CHUNK_ELEMENTS // len(labels))
    chunks = []
    for start in range(0, replicates, size):
        count = min(size, replicates - start)
        times = clustering.patches(clustering.draw(count, rng))
        seeds = draw_seeds(len(probabilities), count, rng)
        chunks.append(np.einsum("srx,rs->rx", by_seed(times), seeds))
    low, high = ends(np.concatenate(chunks), observed, clustering.design(partitions, rng), level, scale="share")
    low[points - 1] = high[points - 1]  # where all are called positive, so are all positives
    # A sensitivity is at least that at any lower rate of false positives, so what bounds one bounds the other.
    low[:points] = np.maximum.accumulate(low[:points])
    high[:points] = np.minimum.accumulate(high[:points][::-1])[::-1]
    roc, precision_recall = (
        Band(grid, observed[:, half].mean(axis=0), low[half], high[half])
        for half in (slice(points), slice(points, None))
    )
    return Bands(roc, precision_recall, level)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """The patches of one part of one seed, highest probability first."""

    rows: NDArray[np.int64]
    positive: Bool[np.ndarray, " m"]
    steps: NDArray[np.int64]  # how many patches each threshold calls positive: none, then whole ties

    @classmethod
    def of(
        cls, labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], rows: Int[np.ndarray, " m"]
    ) -> _Ranked:
        rows = rows[np.argsort(-probabilities[rows], kind="stable")]
        last_of_tie = np.flatnonzero(np.append(np.diff(probabilities[rows]) != 0, True))
        return cls(rows, labels[rows] == 1, np.append(0, last_of_tie + 1))

    def curves(
        self, times: Int[np.ndarray, "r n"], grid: Float[np.ndarray, " points"]
    ) -> Float[np.ndarray, "r points+points"]:
        """Sensitivities, then precisions, on the grid of rates and recalls; NaN where a replicate lacks a class."""
        drawn = times[:, self.rows]
        true, false = self._summed(drawn * self.positive), self._summed(drawn * ~self.positive)
        complete = (true[:, -1:] > 0) & (false[:, -1:] > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            both = np.hstack([_sensitivities(true, false, grid), _precisions(true, false, grid)])
        return np.where(complete, both, np.nan)

    def _summed(self, weights: Int[np.ndarray, "r m"]) -> Int[np.ndarray, "r steps"]:
        summed = np.zeros((len(weights), weights.shape[1] + 1), np.int64)
        np.cumsum(weights, axis=1, out=summed[:, 1:])
        return summed[:, self.steps]


def _sensitivities(
    true: Int[np.ndarray, "r steps"], false: Int[np.ndarray, "r steps"], rates: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "r points"]:
    wanted = _shares(rates, false[:, -1:])
    before = _search(false, np.floor(wanted).astype(np.int64), "right") - 1
    after = np.minimum(before + 1, true.shape[1] - 1)
    (true_before, false_before), (true_after, false_after) = (
        [np.take_along_axis(counts, at, axis=1) for counts in (true, false)] for at in (before, after)
    )
    slope = (true_after - true_before) / np.maximum(false_after - false_before, 1)
    found: NDArray[np.float64] = (true_before + (wanted - false_before) * slope) / true[:, -1:]
    return found


def _precisions(
    true: Int[np.ndarray, "r steps"], false: Int[np.ndarray, "r steps"], recalls: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "r points"]:
    wanted = np.maximum(np.ceil(_shares(recalls, true[:, -1:])).astype(np.int64), 1)
    at = np.minimum(_search(true, wanted, "left"), true.shape[1] - 1)
    true_at, false_at = (np.take_along_axis(counts, at, axis=1) for counts in (true, false))
    found: NDArray[np.float64] = true_at / (true_at + false_at)
    return found


def _shares(grid: Float[np.ndarray, " points"], total: Int[np.ndarray, "r 1"]) -> Float[np.ndarray, "r points"]:
    """Counts that are shares of a total; rounded, so that 0.29 of 100 is 29."""
    counts: NDArray[np.float64] = np.round(grid * total, 9)
    return counts


def _search(
    rising: Int[np.ndarray, "r steps"], wanted: Int[np.ndarray, "r points"], side: Literal["left", "right"]
) -> Int[np.ndarray, "r points"]:
    """`np.searchsorted` in each row by itself: rows are lifted above one another and searched as one."""
    count, steps = rising.shape
    row = np.arange(count)[:, None]
    lift = row * (rising.max() + 2)  # 2: a wanted count may be 1 where the row has none
    found = np.searchsorted((rising + lift).ravel(), (wanted + lift).ravel(), side)
    within: NDArray[np.int64] = found.reshape(wanted.shape) - row * steps
    return within
