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

from sentinode.config.run import PreprocessConfig
from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.inputs.preprocess import sampled_px

_SIDE = PATCH_SIZE_PX - CENTRE_SIZE_PX  # by which an image is wider than its cells
_ROWS = 64


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
    means = np.ascontiguousarray(rgb) if block == 1 else _block_means(rgb, block)
    pixels = means.view("V3")[..., 0]  # three bytes are one pixel, copied at once
    down, across = (CENTRE_SIZE_PX * at[:, None] + within for at in np.nonzero(cells))
    inputs = np.take(pixels.ravel(), down[:, :, None] * pixels.shape[1] + across[:, None, :])
    return np.asarray(inputs[..., None].view(np.uint8))


def _block_means(rgb: UInt8[np.ndarray, "height width 3"], block: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """The rounded mean of the block of which each pixel is the upper left one; some rows at a time, within a cache."""
    height, width = rgb.shape[0] - block + 1, rgb.shape[1] - block + 1
    means, values = np.empty((height, width * 3), np.uint8), rgb.reshape(len(rgb), -1)
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height)
        tall = values[top:bottom].astype(np.uint16)
        for dy in range(1, block):
            tall += values[top + dy : bottom + dy]
        total = tall[:, : width * 3].copy()
        for dx in range(3, 3 * block, 3):
            total += tall[:, dx : dx + width * 3]
        total += block * block // 2
        total //= block * block
        means[top:bottom] = total
    return means.reshape(height, width, 3)
