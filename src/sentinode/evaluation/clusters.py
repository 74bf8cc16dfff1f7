"""What a replicate is made of, clusters of patches and seeds, and how much so many clusters can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray

ClusterKind = Literal["slide", "patient", "slide+group", "slide+stain", "group", "stain"]
"""What the clusters are: slides or patients, or what stands in for them, for all patches or those without a slide."""

CLUSTERS_IN_WORDS: Final[dict[ClusterKind, str]] = {
    "slide": "slides",
    "patient": "patients",
    "slide+group": "slides where they are known and groups of patches for the rest",
    "slide+stain": "slides where they are known and clusters of stain (in place of slides) for the rest",
    "group": "groups of patches",
    "stain": "clusters of stain (in place of slides)",
}

STAIN_CAUTION: Final = (
    "Where slides are not known, how far patches depend on each other is guessed: on real patches whose slides are "
    "known, intervals from clusters of stain were 0.79 and 0.94 times as wide as those from slides, so these are "
    "probably too narrow. A table of slides is better."
)
"""Said wherever intervals draw clusters of stain."""

CLUSTER_NAMES: Final[Mapping[ClusterKind, str]] = {
    "slide": "slides",
    "patient": "patients",
    "slide+group": "slides and groups",
    "slide+stain": "slides and clusters of stain",
    "group": "groups",
    "stain": "clusters of stain",
}
"""In short, in sentences that count them."""

FEWEST: Final = 3
"""With fewer clusters of a class, counted as if all were of one size, an interval is unknown (docs/lab-log.md)."""

_CLASS_NAMES: Final = ("with tumour-free patches", "with tumour")
_DESIGN_DRAWS: Final = 1000
_DESIGN_ELEMENTS: Final = 2**23  # draws x clusters that are held at a time
_ROUNDING: Final = 0.05  # three equal clusters are three, whatever the draws


def cluster_numbers(names: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The cluster of each patch, numbered from 0 without gaps; a patch named "" is a cluster of its own."""
    _, numbers = np.unique(names, return_inverse=True)
    alone = np.flatnonzero(names.astype(str) == "")
    numbers[alone] = len(names) + alone
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class ClassClusters:
    """The clusters that hold patches of one class; `effective` equal ones, in one part, would tell as much."""

    label: int
    count: int
    effective: float


@dataclass(frozen=True)
class Design:
    """What labels, clusters and parts allow to be known of any score, before a probability is looked at.

    freedom: the degrees of freedom of the variance over replicates; widening: the variance of a score, over that of
    its replicates, n / (n - 1) for n equal clusters. Both are those of clusters that vary alike, in either class.
    """

    freedom: float
    widening: float
    classes: tuple[ClassClusters, ...]

    @property
    def fewest(self) -> float:
        """The effective clusters of the class that has fewer."""
        return min(found.effective for found in self.classes)

    def shortage(self, unit: str) -> str | None:
        """Why no interval is known, such as "slides with tumour: 2; at least 3 would be needed"; None where one is."""
        told = []
        for found in self.classes:
            if found.effective >= FEWEST - _ROUNDING:
                continue
            needed = max(FEWEST, ceil(FEWEST * found.count / found.effective - _ROUNDING))
            which = f"{unit} {_CLASS_NAMES[found.label]}: {found.count:,}"
            told.append(
                f"{which}; at least {needed:,} would be needed"
                if found.count - found.effective < _ROUNDING
                else f"{which}, which tell as much as {found.effective:.1f} equal ones; about {needed:,} such would be "
                "needed"
            )
        return " and ".join(told) or None

    def or_weaker(self, other: Design) -> Design:
        """The one that tells less: what holds for a difference of scores in two partitions."""
        return min(self, other, key=lambda design: design.freedom)


@dataclass(frozen=True, eq=False)
class Clusters:
    """The patches in order of their clusters, and of their labels within: cluster `k` has the next sizes[k] rows.

    strata: of each cluster, which classes it holds.
    """

    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    strata: NDArray[np.int64]
    labels: NDArray[np.int64]  # of the rows

    @classmethod
    def of(cls, names: Shaped[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Clusters:
        """Clusters by name, as `cluster_numbers` has them."""
        of_patch = cluster_numbers(names)
        sizes = np.bincount(of_patch).astype(np.int64)
        rows = np.lexsort((labels, of_patch))
        holds = [np.bincount(of_patch[labels == label], minlength=len(sizes)) > 0 for label in (0, 1)]
        return cls(rows, sizes, holds[0] + 2 * holds[1], labels[rows].astype(np.int64))

    def draw(self, count: int, rng: np.random.Generator) -> Int[np.ndarray, "count clusters"]:
        """How often each cluster is in each replicate, drawn with replacement among those that hold the same classes.

        So every replicate has as many slides with tumour alone, without, and with both, as there are: none lacks a
        class, which a draw among all of them would where few hold it.
        """
        drawn = np.zeros((count, len(self.sizes)), np.int32)
        replicate = np.arange(count)[:, None]
        for stratum in np.unique(self.strata):
            inside = np.flatnonzero(self.strata == stratum)
            k = len(inside)
            places = rng.integers(k, size=(count, k)) + k * replicate
            drawn[:, inside] = np.bincount(places.ravel(), minlength=count * k).reshape(count, k)
        return drawn

    def patches(self, drawn: Int[np.ndarray, "count clusters"]) -> Int[np.ndarray, "count n"]:
        """How often each patch is in each replicate: as often as its cluster."""
        times = np.empty((len(drawn), len(self.rows)), np.int32)
        times[:, self.rows] = np.repeat(drawn, self.sizes, axis=1)
        return times

    def design(self, parts: Int[np.ndarray, "seeds n"], rng: np.random.Generator) -> Design:
        """What these clusters can tell of scores that are means over the parts of each seed.

        The weight of each cluster in a class's mean is taken in many replicates. Were a cluster's patches of one class
        to share a normal effect, of one variance for all, a replicate's score would vary as these weights do, and its
        variance over replicates be distributed nearly as chi-square with tr(G)^2 / tr(G G) degrees of freedom, G the
        covariance of the weights (Satterthwaite 1946; Bell and McCaffrey 2002): n - 1 for n equal clusters that hold
        both classes, n - 2 where each holds one.
        """
        clusters = len(self.sizes)
        draws = int(np.clip(_DESIGN_ELEMENTS // clusters, 100, _DESIGN_DRAWS))
        observed, drawn = (
            self._weights(parts, times.astype(np.float64)) for times in (np.ones((1, clusters)), self.draw(draws, rng))
        )
        spread = drawn - drawn.mean(axis=1, keepdims=True)
        traces, products = np.square(spread).sum(axis=(1, 2)), _products(spread)
        by_class = [_freedom(own, squared, draws) for own, squared in zip(traces, products.diagonal(), strict=True)]
        freedom = _freedom(traces.sum(), products.sum(), draws)
        variance, between = float(np.square(observed).sum()), float(traces.sum()) / (draws - 1)
        labels = np.unique(self.labels).tolist()
        holding = [int(np.sum(self.strata & (1 << label) > 0)) for label in labels]
        return Design(
            freedom,
            variance / between if between else float("inf"),
            tuple(
                ClassClusters(label, count, float(min(own + 1, count)))
                for label, count, own in zip(labels, holding, by_class, strict=True)
            ),
        )

    def _weights(
        self, parts: Int[np.ndarray, "seeds n"], drawn: Float[np.ndarray, "r clusters"]
    ) -> Float[np.ndarray, "classes r clusters"]:
        """What each cluster weighs in each class's mean, over seeds and over the parts that have both classes."""
        of_rows = np.repeat(np.arange(len(self.sizes)), self.sizes)
        labels, of_label = np.unique(self.labels, return_inverse=True)
        weights = np.zeros((len(labels), *drawn.shape))
        for partition, times in Counter(seed.tobytes() for seed in parts[:, self.rows]).items():
            numbers, part = np.unique(np.frombuffer(partition, parts.dtype), return_inverse=True)
            patches = np.zeros((len(labels), len(numbers), len(self.sizes)))
            np.add.at(patches, (of_label, part, of_rows), 1)
            totals = patches @ drawn.T
            complete = (totals > 0).all(axis=0)
            share = complete / np.maximum(complete.sum(axis=0), 1) * times / len(parts)
            of_patch = np.divide(share, totals, out=np.zeros_like(totals), where=totals > 0)
            weights += drawn * (of_patch.swapaxes(1, 2) @ patches)
        return weights


def _products(spread: Float[np.ndarray, "classes r clusters"]) -> Float[np.ndarray, "classes classes"]:
    """tr(G H) of every two classes' covariances over replicates, each times as many replicates as there are."""
    classes, draws, clusters = spread.shape
    if clusters < classes * draws:
        covariances = np.array([rows.T @ rows for rows in spread]).reshape(classes, -1)
        products: NDArray[np.float64] = covariances @ covariances.T
        return products
    return np.array([[np.square(a @ b.T).sum() for b in spread] for a in spread])


def _freedom(trace: float, product: float, draws: int) -> float:
    """tr(G)^2 / tr(G G) of a covariance G over so many replicates; 0 where nothing varies."""
    if trace < 1e-12 * draws:
        return 0.0
    inverse = product / trace**2 - 1 / draws  # so many draws themselves add their inverse
    return float(1 / max(inverse, 1 / draws))


def draw_seeds(seeds: int, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count seeds"]:
    """The weight of each seed among as many drawn with replacement, summing to 1.

    The mean of S values drawn so varies by (S - 1) / S too little; the draws' distance from equal weights is
    therefore multiplied by sqrt(S / (S - 1)) (Davison and Hinkley 1997, section 2.3). A weight may be negative.
    """
    drawn = rng.integers(seeds, size=(count, seeds))
    shares = (drawn[:, :, None] == np.arange(seeds)).mean(axis=1)
    weights: NDArray[np.float64] = 1 / seeds + np.sqrt(seeds / max(seeds - 1, 1)) * (shares - 1 / seeds)
    return weights
