"""Patches by their ids: what is known of them (PatchTable), and with their pixels (PatchSet)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Int, Int8, Shaped, UInt8

from sentinode.errors import DataError

UNLABELLED: Final = -1


@dataclass(frozen=True, eq=False)
class PatchTable:
    """N patches in a fixed order, each known by its id; who joins anything to them does so by id.

    ids: (N,) str, unique; labels: (N,) int8, 1 tumour, 0 none, -1 unlabelled; slides: (N,) str, ""
    where unknown; groups: (N,) str, patches of one group share tissue, "" for none.
    """

    ids: Shaped[np.ndarray, " n"]
    labels: Int8[np.ndarray, " n"]
    slides: Shaped[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def slides_known(self) -> bool:
        return len(self) > 0 and bool(np.all(self.slides != ""))

    def rows(self, rows: Int[np.ndarray, " k"] | Bool[np.ndarray, " n"]) -> PatchTable:
        """The patches of some rows, in the order given, without what a subclass adds."""
        return PatchTable(self.ids[rows], self.labels[rows], self.slides[rows], self.groups[rows])

    def rows_of(self, ids: Shaped[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """The row of each id, in the order asked; raises DataError for an id that is not here."""
        if not len(ids):
            return np.array([], dtype=np.int64)
        order = np.argsort(self.ids)
        at = np.searchsorted(self.ids, ids, sorter=order)
        rows = order[np.minimum(at, len(order) - 1)]
        unknown = self.ids[rows] != ids
        if unknown.any():
            raise DataError(
                f"{int(unknown.sum())} of {len(ids)} ids are not among the {len(self)} patches "
                f"(first: {ids[unknown][0]})",
                remedy="Use the data that the ids were drawn from.",
            )
        return rows


@dataclass(frozen=True, eq=False)
class PatchSet(PatchTable):
    """Patches with their pixels, (N, 96, 96, 3) uint8, usually a memory map."""

    pixels: UInt8[np.ndarray, "n 96 96 3"]

    def part(self, rows: slice) -> PatchSet:
        """A run of neighbouring rows; the pixels are not copied."""
        return PatchSet(self.ids[rows], self.labels[rows], self.slides[rows], self.groups[rows], self.pixels[rows])
