"""Metrics of one prediction under many weightings of its patches at once: what makes a bootstrap quick.

Each patch counts as often as its weight says. In single precision: within about 1e-6 of the plain metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sentinode.evaluation.metrics import calibration_bin, log_losses

_RANKED: Final = frozenset({"auc", "average_precision", "sensitivity_at_95_specificity"})
_MISSED_SPECIFICITY: Final = 0.05 + 1e-9  # 5 of 100 negatives are 5 %, whatever the rounding
_BINS: Final = 15


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a chunk of replicates, by class: sums over integers are exact, and ten times as fast."""

    everyone: Float[np.ndarray, "r n"]
    positives: Int[np.ndarray, "r p"]
    negatives: Int[np.ndarray, "r q"]
    room: _Room

    @classmethod
    def of(cls, times: Int[np.ndarray, "r n"], positives: int) -> Weights:
        count, n = times.shape
        by_class = (
            np.ascontiguousarray(times[:, :positives], np.int32),
            np.ascontiguousarray(times[:, positives:], np.int32),
        )
        return cls(times.astype(np.float32), *by_class, _Room.of(count, positives, n - positives))


@dataclass(frozen=True, eq=False)
class _Room:
    """Memory that every prediction's work on a chunk uses anew: fresh pages cost more than the sums."""

    positives: NDArray[np.int32]
    negatives: NDArray[np.int32]
    summed_positives: NDArray[np.int32]
    summed_negatives: NDArray[np.int32]
    negatives_below: NDArray[np.float32]  # one column more than negatives
    floats: tuple[NDArray[np.float32], ...]  # each a row of positives

    @classmethod
    def of(cls, count: int, positives: int, negatives: int) -> _Room:
        return cls(
            np.empty((count, positives), np.int32),
            np.empty((count, negatives), np.int32),
            np.empty((count, positives), np.int32),
            np.empty((count, negatives), np.int32),
            np.zeros((count, negatives + 1), np.float32),
            tuple(np.empty((count, positives), np.float32) for _ in range(4)),
        )


@dataclass(frozen=True, eq=False)
class _Ranks:
    """The order of one prediction's patches, found once for all replicates."""

    descending: NDArray[np.int64]  # positives, highest first
    ascending: NDArray[np.int64]  # negatives, lowest first
    below: NDArray[np.int64]  # for each positive in that order, how many negatives are below
    not_above: NDArray[np.int64]
    tie_end: NDArray[np.int64]  # the last positive of the same score

    @classmethod
    def of(cls, positives: Float[np.ndarray, " p"], negatives: Float[np.ndarray, " q"]) -> _Ranks:
        descending, ascending = np.argsort(-positives, kind="stable"), np.argsort(negatives, kind="stable")
        falling, rising = -positives[descending], negatives[ascending]
        return cls(
            descending,
            ascending,
            np.searchsorted(rising, -falling, "left"),
            np.searchsorted(rising, -falling, "right"),
            np.searchsorted(falling, falling, "right") - 1,
        )

    def measure(self, weights: Weights) -> dict[str, Float[np.ndarray, " r"]]:
        """The metrics that see order only."""
        room = weights.room
        drawn, true, false, spare = room.floats
        np.take(weights.negatives, self.ascending, axis=1, mode="clip", out=room.negatives)
        np.cumsum(room.negatives, axis=1, out=room.summed_negatives)
        room.negatives_below[:, 1:] = room.summed_negatives
        np.take(weights.positives, self.descending, axis=1, mode="clip", out=room.positives)
        np.cumsum(room.positives, axis=1, out=room.summed_positives)
        drawn[:] = room.positives
        all_true = room.summed_positives[:, -1].astype(np.float64)
        all_false = room.negatives_below[:, -1].astype(np.float64)

        np.take(room.negatives_below, self.below, axis=1, mode="clip", out=false)
        np.take(room.negatives_below, self.not_above, axis=1, mode="clip", out=spare)
        pairs_in_order = (_row_products(drawn, false) + _row_products(drawn, spare)) / 2

        np.take(room.summed_positives, self.tie_end, axis=1, mode="clip", out=room.positives)
        true[:] = room.positives
        np.subtract(room.negatives_below[:, -1:], false, out=false)
        allowed = np.count_nonzero(false <= (_MISSED_SPECIFICITY * all_false)[:, None], axis=1)
        sensitive = np.where(allowed > 0, true[np.arange(len(true)), allowed - 1], 0)
        np.add(true, false, out=false)
        np.maximum(false, 1, out=false)  # nobody said positive: the patch has no weight either
        np.divide(true, false, out=true)
        return {
            "auc": pairs_in_order / (all_true * all_false),
            "average_precision": _row_products(drawn, true) / all_true,
            "sensitivity_at_95_specificity": sensitive / all_true,
        }


def _row_products(a: Float[np.ndarray, "r n"], b: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
    products: NDArray[np.float64] = np.einsum("ri,ri->r", a, b).astype(np.float64)
    return products


@dataclass(frozen=True, eq=False)
class Prediction:
    """One seed's probabilities of all patches, positives first."""

    metrics: tuple[str, ...]
    both_classes: bool
    ranks: _Ranks | None  # None where no metric needs them, or a class is absent
    terms: Float[np.ndarray, "n k"]  # summed over patches: right positives, right negatives, squares, logs, gaps by bin

    @classmethod
    def of(
        cls, labels: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, " n"], metrics: Sequence[str]
    ) -> Prediction:
        positive = labels == 1
        said = probabilities > 0.5
        gaps = np.zeros((len(labels), _BINS))
        gaps[np.arange(len(labels)), calibration_bin(probabilities, _BINS)] = positive - probabilities
        single = (
            said & positive,
            ~said & ~positive,
            (probabilities - positive) ** 2,
            log_losses(labels, probabilities),
        )
        both_classes = bool(positive.any() and not positive.all())
        ranked = both_classes and not _RANKED.isdisjoint(metrics)
        return cls(
            tuple(metrics),
            both_classes,
            _Ranks.of(probabilities[positive], probabilities[~positive]) if ranked else None,
            np.column_stack([*single, gaps]).astype(np.float32),
        )

    def measure(self, weights: Weights) -> Float[np.ndarray, "r metrics"]:
        """NaN where a replicate lacks a class that is here, and of one class all along, for metrics that need both."""
        positives, negatives = weights.positives.sum(axis=1), weights.negatives.sum(axis=1)
        total = positives + negatives
        both = (positives > 0) & (negatives > 0)
        complete = both if self.both_classes else total > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            found = self.ranks.measure(weights) if self.ranks and len(total) else {}
            if not _RANKED.issuperset(self.metrics):
                sums = (weights.everyone @ self.terms).astype(np.float64)
                found |= {
                    "accuracy": (sums[:, 0] + sums[:, 1]) / total,
                    "sensitivity": sums[:, 0] / positives,
                    "specificity": sums[:, 1] / negatives,
                    "balanced_accuracy": (sums[:, 0] / positives + sums[:, 1] / negatives) / 2,
                    "brier_score": sums[:, 2] / total,
                    "log_loss": sums[:, 3] / total,
                    "ece": np.abs(sums[:, 4:]).sum(axis=1) / total,
                }
        values = np.full((len(total), len(self.metrics)), np.nan)
        for column, metric in enumerate(self.metrics):
            if metric in found:
                values[complete, column] = found[metric][complete]
        return values
