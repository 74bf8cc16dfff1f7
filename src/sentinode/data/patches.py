"""Patches by their ids: what is known of them (PatchTable), and with their pixels (PatchSet)."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Int, Int8, Shaped, UInt8

from sentinode.data.images import Patch
from sentinode.errors import DataError, storage_errors

if TYPE_CHECKING:  # PyTorch takes seconds to load, and neither the phantom nor the audit needs it
    from torch import Tensor

UNLABELLED: Final = -1
_HELD_IN_MEMORY: Final = 64_000_000  # bytes; what is more lies in a file, so that memory does not grow with the patches
_COPIED_AT_ONCE: Final = 512


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

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ids, labels, slides, groups."""
        return self.ids, self.labels, self.slides, self.groups

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

    def some(self, rows: Int[np.ndarray, " k"], scratch: Path) -> PatchSet:
        """Some patches, in the order given; pixels of neighbouring rows are not copied, others as `room_for` has it."""
        if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return self.part(slice(int(rows[0]), int(rows[-1]) + 1))
        pixels = room_for((len(rows), *self.pixels.shape[1:]), scratch)
        for start in range(0, len(rows), _COPIED_AT_ONCE):
            some = rows[start : start + _COPIED_AT_ONCE]
            pixels[start : start + len(some)] = self.pixels[some]
        return PatchSet(self.ids[rows], self.labels[rows], self.slides[rows], self.groups[rows], pixels)


def room_for(shape: tuple[int, ...], scratch: Path | None) -> UInt8[np.ndarray, "n h w 3"]:
    """Room for pixels: in memory, or, for many, in a file without a name in the folder `scratch`.

    Its pages the system can write out and drop. Raises StorageError where there is no room.
    """
    size = math.prod(shape)
    if scratch is None or size <= _HELD_IN_MEMORY or os.name != "posix":  # elsewhere an open file keeps its name
        return np.empty(shape, np.uint8)
    with storage_errors(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk fails here, and not at some later access
            return np.asarray(np.memmap(file, np.uint8, "w+", shape=shape))


SYMMETRIES: Final = range(8)


def apply_symmetry(images: Tensor, symmetry: int) -> Tensor:
    """Rotate a batch (N, C, H, H) as a whole: flipped left-right for 4 to 7, then rotated anticlockwise."""
    flipped = images.flip(-1) if symmetry >= 4 else images
    return flipped.rot90(symmetry % 4, (-2, -1)) if symmetry % 4 else flipped  # rotated by nothing, it would be copied


def symmetric_view(patch: Patch, symmetry: int) -> Patch:
    """Turn one patch (H, H, 3) by the same numbers, without a copy."""
    flipped = patch[:, ::-1] if symmetry >= 4 else patch
    return np.rot90(flipped, symmetry % 4)
