"""What a replicate of a bootstrap is made of: clusters of patches, drawn whole or resampled within, and seeds."""

from __future__ import annotations

from dataclasses import dataclass
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
    "Where slides are not known, how far patches depend on each other is guessed: on synthetic tissue, whose slides "
    "are known, intervals from clusters of stain were about as wide as those from slides. A table of slides is better."
)
"""Said wherever intervals draw clusters of stain."""


def cluster_numbers(names: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The cluster of each patch, numbered from 0 without gaps; a patch named "" is a cluster of its own."""
    _, numbers = np.unique(names, return_inverse=True)
    alone = np.flatnonzero(names.astype(str) == "")
    numbers[alone] = len(names) + alone
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Clusters:
    """The patches in order of their clusters: cluster `k` has rows[starts[k]:starts[k] + sizes[k]]."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, names: Shaped[np.ndarray, " n"]) -> Clusters:
        """Clusters by name, as `cluster_numbers` has them."""
        of_patch = cluster_numbers(names)
        sizes = np.bincount(of_patch).astype(np.int64)
        return cls(np.argsort(of_patch, kind="stable"), np.cumsum(sizes) - sizes, sizes)

    def effective(self, labels: Int[np.ndarray, " n"]) -> float:
        """Kish's (sum of sizes)^2 / sum of squares, counted within a class, for the class where it is smaller."""
        of_rows = np.repeat(np.arange(len(self.sizes)), self.sizes)
        by_class = [np.bincount(of_rows[labels[self.rows] == label]) for label in np.unique(labels)]
        return float(min(sizes.sum() ** 2 / (sizes**2).sum() for sizes in by_class))

    def draw(
        self, count: int, rng: np.random.Generator, patches: Literal["all", "resampled"] = "all"
    ) -> Int[np.ndarray, "count n"]:
        """How often each patch is in each replicate: as many clusters as there are, drawn with replacement."""
        clusters, n = len(self.sizes), len(self.rows)
        drawn = rng.integers(clusters, size=(count, clusters))
        replicate = np.arange(count)[:, None]
        times = np.empty((count, n), np.int32)
        match patches:
            case "all":
                of_cluster = np.bincount((drawn + clusters * replicate).ravel(), minlength=count * clusters)
                times[:, self.rows] = np.repeat(of_cluster.reshape(count, clusters), self.sizes, axis=1)
            case "resampled":
                sizes = self.sizes[drawn].ravel()
                last = np.repeat(sizes - 1, sizes)
                rows = np.repeat((self.starts[drawn] + n * replicate).ravel(), sizes)
                rows += np.minimum((rng.random(len(last)) * (last + 1)).astype(np.int64), last)
                times[:, self.rows] = np.bincount(rows, minlength=count * n).reshape(count, n)
        return times


def draw_seeds(seeds: int, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count seeds"]:
    """The weight of each seed among as many drawn with replacement, summing to 1.

    The mean of S values drawn so varies by (S - 1) / S too little; the draws' distance from equal weights is
    therefore multiplied by sqrt(S / (S - 1)) (Davison and Hinkley 1997, section 2.3). A weight may be negative.
    """
    drawn = rng.integers(seeds, size=(count, seeds))
    shares = (drawn[:, :, None] == np.arange(seeds)).mean(axis=1)
    weights: NDArray[np.float64] = 1 / seeds + np.sqrt(seeds / max(seeds - 1, 1)) * (shares - 1 / seeds)
    return weights
