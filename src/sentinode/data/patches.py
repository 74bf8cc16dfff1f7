"""PatchSet: ids, labels, slides, groups and pixels of the same N patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int8, Shaped, UInt8

from sentinode.errors import DataError


@dataclass(frozen=True, eq=False)
class PatchSet:
    """N patches with their pixels, (N, 96, 96, 3) uint8, usually a memory map.

    Rows of all fields belong together; who joins anything to a PatchSet does so by id.
    """

    ids: Shaped[np.ndarray, " n"]
    labels: Int8[np.ndarray, " n"]
    slides: Shaped[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"]
    pixels: UInt8[np.ndarray, "n 96 96 3"]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def slides_known(self) -> bool:
        return len(self) > 0 and bool(np.all(self.slides != ""))

    @property
    def groups_given(self) -> bool:
        return bool(np.any(self.groups != ""))

    def part(self, rows: slice) -> PatchSet:
        """A run of neighbouring rows; the pixels are not copied."""
        return PatchSet(self.ids[rows], self.labels[rows], self.slides[rows], self.groups[rows], self.pixels[rows])

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
