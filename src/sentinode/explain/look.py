"""What a network looks at: the labelled centre, or what is around it.

The label of a patch speaks of its central 32 x 32 pixels alone, a ninth of it. So there is a truth for "where", and
three questions that need no trust in any map but the first:

share in the centre   how much of the absolute attribution lies in the centre; a map of equal values has 1/9 there
blurring              how far the logit moves when the centre is blurred, and when all around it is
swapped centres       a patch that the network calls tumour and one of the same stain that it does not, with their
                      centres exchanged: which share of the two decisions goes with the centre, as the label would

Nothing here says whether a network is right, and a hard edge around a swapped centre is something that it never saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Shaped

from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.evaluation.bootstrap import Interval, mean_interval
from sentinode.evaluation.verdict import Question, Verdict, decide
from sentinode.inference.attribution import ExplainedLogit, Maps, Pixels
from sentinode.progress import Progress, of_step, silent
from sentinode.randomness import Purpose
from sentinode.splits.stain_clusters import stain_clusters, stain_statistics, usual_count

BLUR_PX: Final = 4.0
"""The standard deviation of the blur, about half a nucleus."""
AREA: Final = CENTRE_SIZE_PX**2 / PATCH_SIZE_PX**2
"""The centre's share of a patch."""
SMALLEST_DIFFERENCE: Final = 0.05
"""Between two models' shares: less does not matter."""

_EDGE: Final = (PATCH_SIZE_PX - CENTRE_SIZE_PX) // 2
_CENTRE: Final = np.s_[:, _EDGE : _EDGE + CENTRE_SIZE_PX, _EDGE : _EDGE + CENTRE_SIZE_PX]
_MOST_PAIRS: Final = 1000
_NOTHING: Final = 1e-4  # logits
_FEWEST_TO_CLUSTER: Final = 16  # patches: fewer are all of one stain


@dataclass(frozen=True)
class LooksAt:
    """What one model looks at, on the mean of so many patches, each with its interval."""

    patches: int
    attribution: dict[str, Interval]
    """The share of the absolute attribution within the centre, by method; only of those that passed the exam."""
    centre_blurred: Interval
    """By how much the logit moves, up or down."""
    ring_blurred: Interval
    centre_share: Interval
    """Of both together: how much of a patch's answer to blurring comes from its centre."""
    pairs: int
    follows_centre: Interval
    """Share of the decisions on swapped patches that are those on the patch that the centre is of."""

    @property
    def in_words(self) -> str:
        """One sentence on what the network uses."""
        share, follows = self.centre_share, self.follows_centre
        blur = (
            f"blurring the centre moves the logit by {self.centre_blurred.estimate:.2f}, blurring the ring around it "
            f"by {self.ring_blurred.estimate:.2f}"
        )
        if np.isnan(follows.estimate):
            return f"Of its answer to blurring {share.estimate:.0%} come from the centre: {blur}."
        uses = _uses(follows)
        return (
            f"{uses}: with centres swapped, {follows.estimate:.0%} ({follows.ends_in_words('.0%')}) of its decisions "
            f"go with the centre; {blur}."
        )


def _uses(follows: Interval) -> str:
    if follows.low > 0.5:
        return "It decides by the centre more often than by what is around it"
    if follows.high < 0.5:
        return "It decides by what is around the centre more often than by the centre"
    return "It cannot be told whether the centre or what is around it decides more often"


@dataclass(frozen=True, eq=False)
class LooksByPatch:
    """What is measured of one model on each of N patches, and on each of M swapped ones; NaN where it says nothing."""

    attribution: dict[str, Float[np.ndarray, " n"]]
    centre_blurred: Float[np.ndarray, " n"]
    ring_blurred: Float[np.ndarray, " n"]
    follows: Float[np.ndarray, " m"]
    """1 where the decision goes with the centre, 0 where with the ring; NaN of patches that it did not tell apart."""

    @property
    def centre_share(self) -> Float[np.ndarray, " n"]:
        both = self.centre_blurred + self.ring_blurred
        return np.asarray(np.divide(self.centre_blurred, both, out=np.full(len(both), np.nan), where=both > 0))


@dataclass(frozen=True, eq=False)
class Swapped:
    """Patches with another's centre: M = 2 K of K pairs; `rings` and `centres` are the rows that they are made of."""

    pixels: Pixels
    rings: Int[np.ndarray, " m"]
    centres: Int[np.ndarray, " m"]
    tumour: Int[np.ndarray, " m"]
    """Whether the centre is that of the tumour patch, 1 or 0."""


def swapped_pairs(patches: Pixels, tumour: Int[np.ndarray, " n"], *, seed: int) -> Swapped:
    """Each of up to 1,000 tumour patches with a tumour-free one of its stain cluster, drawn by the seed.

    `tumour` is 1 or 0. Without two patches of a cluster that differ in it, there are no pairs.
    """
    rng = Purpose.LOOK.rng(seed)
    cluster = np.zeros(len(patches), np.int64)
    if len(patches) >= _FEWEST_TO_CLUSTER:
        cluster = stain_clusters(stain_statistics(patches), usual_count(len(patches)), np.random.default_rng(0))
    pairs = []
    for row in np.sort(rng.permutation(np.flatnonzero(tumour == 1))[:_MOST_PAIRS]).tolist():
        others = np.flatnonzero((tumour == 0) & (cluster == cluster[row]))
        if len(others):
            pairs.append((row, int(rng.choice(others))))
    with_tumour, without = np.array(pairs, np.int64).reshape(-1, 2).T
    rings, centres = np.concatenate([without, with_tumour]), np.concatenate([with_tumour, without])
    pixels = patches[rings]
    pixels[_CENTRE] = patches[centres][_CENTRE]
    return Swapped(pixels, rings, centres, tumour[centres])


def looks_of(
    explained: ExplainedLogit,
    patches: Pixels,
    swapped: Swapped,
    maps: dict[str, Maps],
    progress: Progress = silent,
) -> LooksByPatch:
    """Measure what a model looks at; `maps` are those of the methods that passed the exam, of all patches."""
    told = of_step(progress, "blur and swap centres")
    logits = explained.logits(patches)
    told(1, 4)
    blurred = _blurred(patches)
    in_centre, around = patches.copy(), blurred.copy()
    in_centre[_CENTRE], around[_CENTRE] = blurred[_CENTRE], patches[_CENTRE]
    moved = []
    for at, changed in enumerate((in_centre, around), start=2):
        moved.append(np.abs(explained.logits(changed) - logits))
        told(at, 4)
    calls = explained.logits(swapped.pixels) > 0 if len(swapped.pixels) else np.empty(0, bool)
    told(4, 4)
    says = (logits > 0).astype(np.int64)
    told_apart = (says[swapped.centres] == swapped.tumour) & (says[swapped.rings] == 1 - swapped.tumour)
    follows = np.where(told_apart, calls == (swapped.tumour == 1), np.nan)
    return LooksByPatch({name: share_in_centre(of) for name, of in maps.items()}, moved[0], moved[1], follows)


def look(found: LooksByPatch, swapped: Swapped, clusters: Shaped[np.ndarray, " n"], *, unit: str, seed: int) -> LooksAt:
    """The means, with intervals that draw clusters anew; swapped patches belong to the cluster of their ring."""
    rng = Purpose.LOOK.rng(seed)

    def mean(values: np.ndarray, of: np.ndarray = clusters, *, share: bool = False) -> Interval:
        return mean_interval(values, of, rng=rng, unit=unit, scale="share" if share else "difference").plain

    return LooksAt(
        patches=len(clusters),
        attribution={name: mean(values, share=True) for name, values in found.attribution.items()},
        centre_blurred=mean(found.centre_blurred),
        ring_blurred=mean(found.ring_blurred),
        centre_share=mean(found.centre_share, share=True),
        pairs=int(np.sum(~np.isnan(found.follows))) // 2,
        follows_centre=mean(found.follows, clusters[swapped.rings], share=True),
    )


def verdicts(
    names: tuple[str, str],
    both: tuple[LooksByPatch, LooksByPatch],
    swapped: Swapped,
    clusters: Shaped[np.ndarray, " n"],
    *,
    unit: str,
    seed: int,
) -> list[Verdict]:
    """Whether the first model looks more at the centre than the second, on the same patches, by the project's rule."""
    rng, (one, other) = Purpose.LOOK.rng(seed), both
    differences = {
        "of its answer to blurring from the centre": (one.centre_share - other.centre_share, clusters),
        "of its decisions with a swapped centre": (one.follows - other.follows, clusters[swapped.rings]),
    }
    questions = []
    for metric, (values, of) in differences.items():
        interval = mean_interval(values, of, rng=rng, unit=unit)
        if np.isnan(interval.estimate):  # no pair that both tell apart
            continue
        questions.append(Question(*names, metric, interval, np.array([interval.estimate]), 1))
    return decide(questions, smallest_effect=SMALLEST_DIFFERENCE)


def share_in_centre(maps: Maps) -> Float[np.ndarray, " n"]:
    """How much of the absolute values lies in the central 32 x 32 pixels; NaN of a map that is rounding alone."""
    size = np.abs(maps)
    inside, whole = size[_CENTRE].sum(axis=(1, 2), dtype=np.float64), size.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(np.divide(inside, whole, out=np.full(len(maps), np.nan), where=whole > _NOTHING))


def _blurred(patches: Pixels) -> Pixels:
    from scipy import ndimage  # here: who only reads a record does not wait for it

    smooth = ndimage.gaussian_filter(patches.astype(np.float32), (0, BLUR_PX, BLUR_PX, 0), mode="reflect")
    return np.asarray(smooth.round().astype(np.uint8))
