"""What a network sees of every cell of an image, made from the image at once and not patch by patch.

Cells are 32 pixels apart and patches are 96 wide, so each pixel lies in nine patches: cut out one by one, it is copied
and averaged nine times. Here the blocks of a downsampling are summed once over the image, and each cell reads its own.
The inputs are those of its patch to the last bit.

The notebook's networks share no more than that. Their input is the patch downsampled by 3, which does not divide 32.
The blocks of neighbouring cells lie at other offsets, and cells with the same offsets are 96 pixels apart, side by
side. So each block enters one cell alone, and a convolution over the whole image computes as much as cell by cell.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

from sentinode.config import PreprocessConfig
from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.inputs.preprocess import sampled_px

_SIDE = PATCH_SIZE_PX - CENTRE_SIZE_PX  # by which an image is wider than its cells


def is_shared(config: PreprocessConfig) -> bool:
    """Whether inputs can be made from the image: a stain is normalised patch by patch."""
    return config.stain == "none"


def inputs_of_cells(
    rgb: UInt8[np.ndarray, "height width 3"], cells: Bool[np.ndarray, "rows columns"], config: PreprocessConfig
) -> UInt8[np.ndarray, "n s s 3"]:
    """What `preprocess` makes of the patches around the marked cells, row by row; no stain is normalised.

    `rgb` is the cells' area and 32 pixels around it, (32 rows + 64, 32 columns + 64, 3).
    """
    rows, columns = cells.shape
    expected = (rows * CENTRE_SIZE_PX + _SIDE, columns * CENTRE_SIZE_PX + _SIDE, 3)
    if rgb.shape != expected:
        raise ValueError(f"{rows} x {columns} cells need an image of the shape {expected}, not {rgb.shape}")
    within, block = sampled_px(config)
    means = rgb if block == 1 else _block_means(rgb, block)
    down, across = (
        (np.arange(count)[:, None] * CENTRE_SIZE_PX + within).ravel() for count in (rows, columns)
    )  # of every cell, the first pixel of each of its blocks
    size = len(within)
    inputs = means[down][:, across].reshape(rows, size, columns, size, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(inputs[cells])


def _block_means(rgb: UInt8[np.ndarray, "height width 3"], block: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """The rounded mean of the block of which each pixel is the upper left one."""
    height, width = rgb.shape[0] - block + 1, rgb.shape[1] - block + 1
    tall = rgb[:height].astype(np.uint16)
    for dy in range(1, block):
        tall += rgb[dy : dy + height]
    total = tall[:, :width].copy()
    for dx in range(1, block):
        total += tall[:, dx : dx + width]
    return ((total + block * block // 2) // (block * block)).astype(np.uint8)
