"""Crop to the centre and shrink: the fixed part of preprocessing, done once for each patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from sentinode.config import PreprocessConfig
from sentinode.data.patches import PatchSet

_CHUNK = 2048


def shrink(patches: UInt8[np.ndarray, "n 96 96 3"], config: PreprocessConfig) -> UInt8[np.ndarray, "n s s 3"]:
    """The centre `crop_px` square of each patch, shrunk to `size_px`.

    "nearest" takes the pixel under each output pixel's centre, as Pillow does for Keras; "area" takes
    the mean of the block, rounded to the nearest whole number.
    """
    margin = (patches.shape[1] - config.crop_px) // 2
    centre = patches[:, margin : margin + config.crop_px, margin : margin + config.crop_px]
    if config.resize == "nearest" or config.crop_px == config.size_px:
        at = ((np.arange(config.size_px) + 0.5) * config.crop_px / config.size_px).astype(int)
        return np.ascontiguousarray(centre[:, at[:, None], at[None, :]])
    block = config.crop_px // config.size_px
    total = np.zeros((len(patches), config.size_px, config.size_px, 3), np.uint16)
    for dy in range(block):
        for dx in range(block):
            total += centre[:, dy::block, dx::block]
    return ((total + block * block // 2) // (block * block)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Shrunk pixels of some rows of a PatchSet: held in memory, or made anew at every look."""

    patches: PatchSet
    rows: Int[np.ndarray, " n"]
    config: PreprocessConfig
    held: UInt8[np.ndarray, "n s s 3"] | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Int[np.ndarray, " k"] | slice) -> UInt8[np.ndarray, "k s s 3"]:
        return self.held[at] if self.held is not None else shrink(self.patches.pixels[self.rows[at]], self.config)


def prepare(
    patches: PatchSet,
    rows: Int[np.ndarray, " n"],
    config: PreprocessConfig,
    *,
    budget_mb: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Shrink the given rows once and hold them, where that fits the budget (in MB); else on demand."""
    size = len(rows) * config.size_px**2 * 3
    if size > budget_mb * 1e6:
        return Prepared(patches, rows, config, None)
    held = np.empty((len(rows), config.size_px, config.size_px, 3), np.uint8)
    order = np.argsort(rows)  # read the memory map from front to back
    for start in range(0, len(rows), _CHUNK):
        chunk = order[start : start + _CHUNK]
        held[chunk] = shrink(patches.pixels[rows[chunk]], config)
        if on_progress:
            on_progress(min(start + _CHUNK, len(rows)), len(rows))
    return Prepared(patches, rows, config, held)


def as_input(images: UInt8[Tensor, "n 3 s s"]) -> Float[Tensor, "n 3 s s"]:
    """Scale bytes to [0, 1], as networks take them."""
    return images.float().div_(255.0)
