"""Probabilities that mean what they say: calibration maps, and the reliability diagram in numbers.

`calibration_fit` fits the maps; here they are applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Shaped
from pydantic import Field

from sentinode.evaluation.clusters import cluster_numbers
from sentinode.records import Numbers

Method = Literal["temperature", "isotonic"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

_SMALLEST = 1e-12  # a probability of exactly 0 or 1 has no logit
TEMPERATURES: Final = (0.05, 20.0)  # the range in which one is fitted
_BAND_PERCENT = (2.5, 97.5)


@dataclass(frozen=True)
class Temperature:
    """Divide the logit by a temperature: above 1 the network was too sure, below 1 not sure enough (Guo et al. 2017).

    The order of the probabilities and their side of 0.5 stay as they are; 0 and 1 count as 1e-12 away.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    method: Literal["temperature"] = "temperature"

    def apply(self, probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        # By hand, for SciPy's logit and expit take long to import; logits end at 28, so nothing overflows.
        return np.asarray(1 / (1 + np.exp(-logits(probabilities) / self.temperature)))


@dataclass(frozen=True, eq=False)
class Isotonic:
    """The rising step-like map nearest to the labels (Zadrozny and Elkan 2002), linear between its knots.

    It may give 0 and 1 exactly and makes ties, so the area under the ROC curve can change; it asks for
    more patches than a temperature does.
    """

    probabilities: Annotated[Float[np.ndarray, " knots"], Numbers()]
    calibrated: Annotated[Float[np.ndarray, " knots"], Numbers()]
    method: Literal["isotonic"] = "isotonic"

    def __post_init__(self) -> None:
        if not 0 < len(self.probabilities) == len(self.calibrated):
            raise ValueError(f"{len(self.probabilities)} knots with {len(self.calibrated)} values make no map")

    def apply(self, probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Probabilities beyond the outermost knots get the value of the nearest."""
        return np.asarray(np.interp(probabilities, self.probabilities, self.calibrated))


Calibration = Temperature | Isotonic


@dataclass(frozen=True, eq=False)
class Reliability:
    """What was said and what was so, by bins of equal width; NaN where a bin is empty.

    A bin holds the probabilities above its lower edge up to its upper one, the first also 0.
    `lower` and `upper` bound a 95 % band of the observed share from a bootstrap over groups; NaN where
    the bin's patches come from a single group, whose spread is not known.
    """

    edges: Annotated[Float[np.ndarray, " edges"], Numbers()]
    """One more than bins, from 0 to 1."""
    mean_probability: Annotated[Float[np.ndarray, " bins"], Numbers()]
    observed_share: Annotated[Float[np.ndarray, " bins"], Numbers()]
    count: Annotated[Int[np.ndarray, " bins"], Numbers()]
    lower: Annotated[Float[np.ndarray, " bins"], Numbers()]
    upper: Annotated[Float[np.ndarray, " bins"], Numbers()]


def reliability(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    bins: int = 10,
    replicates: int = 1000,
    rng: np.random.Generator,
) -> Reliability:
    """The reliability diagram in numbers; groups as for `calibration_fit.cross_folds`. Labels must be known."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    units, at = cluster_numbers(groups), np.searchsorted(edges[1:-1], probabilities)
    # Sums by group and bin are all that a replicate needs.
    counts = _by_group_and_bin(units, at, np.ones(len(labels)), bins)
    positives = _by_group_and_bin(units, at, (labels == 1).astype(float), bins)
    count, said = counts.sum(axis=0), np.bincount(at, probabilities, bins)
    lower, upper = _band(counts, positives, replicates, rng)
    return Reliability(
        edges, _share(said, count), _share(positives.sum(axis=0), count), count.astype(np.int64), lower, upper
    )


def logits(probabilities: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """log(p / (1 - p)); 0 and 1 count as 1e-12 away."""
    p = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(p) - np.log1p(-p))


def _band(
    counts: np.ndarray, positives: np.ndarray, replicates: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    groups, bins = counts.shape
    shares = np.empty((replicates, bins))
    for replicate in range(replicates):
        drawn = np.bincount(rng.integers(groups, size=groups), minlength=groups).astype(float)
        shares[replicate] = _share(drawn @ positives, drawn @ counts)
    lower, upper = np.full(bins, np.nan), np.full(bins, np.nan)
    spread_known = (counts > 0).sum(axis=0) > 1
    if spread_known.any():
        lower[spread_known], upper[spread_known] = np.nanpercentile(shares[:, spread_known], _BAND_PERCENT, axis=0)
    return lower, upper


def _by_group_and_bin(units: np.ndarray, at: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    groups = int(units.max(initial=-1)) + 1
    return np.bincount(units * bins + at, weights, groups * bins).reshape(groups, bins)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0))
