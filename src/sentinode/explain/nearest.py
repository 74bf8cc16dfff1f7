"""An exact search among many vectors for those most like one: by a quarter of their bytes first, then by all of few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped

from sentinode.kernels import at_hand

_ROWS_AT_ONCE: Final = 4096  # of the known, while they are brought to one length
_ROUNDING: Final = 1e-12
_EPSILON: Final = np.finfo(np.float32).eps


@dataclass(frozen=True, eq=False)
class Alike:
    """How alike one patch is to each of N others: nearly, within what error, and exactly where that is asked for."""

    nearly: Float[np.ndarray, " n"]
    within: Float[np.ndarray, " n"]
    exactly: Callable[[Int[np.ndarray, " m"]], Float[np.ndarray, " m"]]

    @classmethod
    def mean(cls, weighted: Sequence[tuple[float, Alike]]) -> Alike:
        """By several networks, whose weights sum to 1."""
        if len(weighted) == 1:
            return weighted[0][1]
        nearly = sum(weight * one.nearly for weight, one in weighted)
        within = sum(weight * one.within for weight, one in weighted)
        return cls(
            np.asarray(nearly),
            np.asarray(within),
            lambda rows: np.asarray(sum(weight * one.exactly(rows) for weight, one in weighted)),
        )

    def largest(self, among: Bool[np.ndarray, " n"], k: int) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """The places of the `k` most alike `among` them, the most alike first, of equal ones the first; and how alike.

        Only those are compared exactly that may be among them, whatever the errors are.
        """
        rows = np.flatnonzero(among)
        k = min(k, len(rows))
        if k == 0:
            return rows[:0], np.empty(0)
        surely = np.partition(self.nearly[rows] - self.within[rows], len(rows) - k)[len(rows) - k]
        rows = rows[self.nearly[rows] + self.within[rows] >= surely]
        exact = self.exactly(rows)
        order = np.argsort(-exact, kind="stable")[:k]
        return rows[order], exact[order]


class KnownFeatures:
    """Features of N patches, that others are compared with by the cosine, in deviations of the known from their mean.

    `features`, (N, d) float32, are overwritten by their unit vectors: of 220,025 patches with 1,280 features they take
    1.1 GB. Beside them each is kept in bytes, with the length of what these miss. Of two vectors that are nearly known,
    the product is known within the lengths of what is missed (Cauchy and Schwarz), so a quarter of the memory is read
    for a search that finds the same. Without Numba all of it is read.
    """

    def __init__(self, features: Float32[np.ndarray, "n d"]) -> None:
        blocks = [features[rows] for rows in _blocks(len(features), _ROWS_AT_ONCE)]
        self._mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / len(features)
        variance = sum(np.square(block - self._mean).sum(axis=0) for block in blocks) / len(features)
        # What never varies is no feature.
        self._deviation = np.where(variance > _ROUNDING * self._mean**2, np.sqrt(variance), 1)
        self._units, self._in_bytes = features, None
        for block in blocks:
            self._to_units(block)
        if at_hand():
            self._in_bytes = _Coarse.of(features, np.int8)

    def alike(self, asked: Float32[np.ndarray, "q d"]) -> list[Alike]:
        """Of each of the asked, how alike it is to all the known."""
        asked = asked.copy()
        self._to_units(asked)
        nearly, within = self._nearly(asked)
        return [
            Alike(near, error, partial(self._exactly, unit))
            for near, error, unit in zip(nearly, within, asked, strict=True)
        ]

    def _to_units(self, values: Float32[np.ndarray, "n d"]) -> None:
        values -= self._mean.astype(np.float32)
        values /= self._deviation.astype(np.float32)
        length = np.sqrt(np.einsum("nd,nd->n", values, values))[:, None]
        values /= np.maximum(length, np.finfo(np.float32).tiny)

    def _nearly(self, units: Float32[np.ndarray, "q d"]) -> tuple[Float[np.ndarray, "q n"], Float[np.ndarray, "q n"]]:
        """The cosines, and within what they are known."""
        rounding = np.float32(units.shape[1] * _EPSILON)  # a bound for sums in any order (Higham 2002, section 3.1)
        if self._in_bytes is None:
            found = torch.matmul(torch.from_numpy(units), torch.from_numpy(self._units).T).numpy()
            return found, np.full_like(found, rounding)
        from sentinode.kernels.jit import share_threads
        from sentinode.kernels.products import dots  # here: without Numba it is not asked for

        share_threads()
        ours, theirs = _Coarse.of(units, np.int16), self._in_bytes
        found = np.empty((len(units), len(self._units)), np.float32)
        dots(ours.levels, ours.step, theirs.levels, theirs.step, found)
        return found, ours.missed[:, None] * (1 + theirs.missed) + theirs.missed + rounding

    def _exactly(self, unit: Float32[np.ndarray, " d"], rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        return np.asarray(np.einsum("md,d->m", self._units[rows], unit, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class _Coarse:
    """Vectors in whole steps of their own, and the length of what these miss of each."""

    levels: Shaped[np.ndarray, "n d"]
    step: Float32[np.ndarray, " n"]
    missed: Float32[np.ndarray, " n"]

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "n d"], kind: type[np.signedinteger[Any]]) -> _Coarse:
        most = np.iinfo(kind).max
        levels = np.empty(vectors.shape, kind)
        step, missed = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.float32)
        for rows in _blocks(len(vectors), _ROWS_AT_ONCE):
            some = vectors[rows]
            step[rows] = np.maximum(np.abs(some).max(axis=1), np.finfo(np.float32).tiny) / most
            levels[rows] = np.rint(some / step[rows, None])
            rest = some - levels[rows] * step[rows, None]
            missed[rows] = np.sqrt(np.einsum("nd,nd->n", rest, rest))
        return cls(levels, step, missed)


def _blocks(count: int, at_once: int) -> list[slice]:
    return [slice(start, min(start + at_once, count)) for start in range(0, count, at_once)]
