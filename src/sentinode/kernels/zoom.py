"""The compiled loops of the zoom: bilinear, about the centre, the border repeated outwards."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from sentinode.kernels.jit import compiled, parallel

Array = np.ndarray[Any, Any]


@parallel
def zoom(images: Array, factors: Array, scale: float, zoomed: Array) -> None:
    """(N, s, s, 3) of any numbers -> the same shape, times the scale, in single precision."""
    for n in prange(len(images)):
        _zoom_one(images[n], factors[n, 0], factors[n, 1], np.float32(scale), zoomed[n])


@compiled
def _zoom_one(image: Array, of_height: float, of_width: float, scale: Any, zoomed: Array) -> None:
    """First each row between its two, then each pixel between its two."""
    height, width, channels = image.shape
    # Where each number of a row comes from; unsigned, for a place that might be negative is looked at twice.
    size = width * channels
    left, right, share = np.empty(size, np.uint32), np.empty(size, np.uint32), np.empty(size, np.float32)
    for j in range(width):
        first, second, part = _between(j, of_width, width)
        for c in range(channels):
            e = j * channels + c
            left[e], right[e], share[e] = first * channels + c, second * channels + c, part
    row = np.empty(size, np.float32)
    for i in range(height):
        above, below, lower = _between(i, of_height, height)
        upper_row, lower_row, result = image[above].reshape(-1), image[below].reshape(-1), zoomed[i].reshape(-1)
        for e in range(size):
            upper = np.float32(upper_row[e])
            row[e] = scale * (upper + lower * (np.float32(lower_row[e]) - upper))
        for e in range(size):
            start = row[left[e]]
            result[e] = start + share[e] * (row[right[e]] - start)


@compiled
def _between(at: int, factor: float, size: int) -> tuple[int, int, Any]:
    """The two source pixels of a pixel, and the share of the second."""
    middle = np.float32(size - 1) / np.float32(2)
    source = middle + factor * (np.float32(at) - middle)
    source = min(max(source, np.float32(0)), np.float32(size - 1))
    first = int(source)
    return first, min(first + 1, size - 1), np.float32(source - np.float32(first))
