"""The compiled loops of the zoom: bilinear, about the centre, the border repeated outwards."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from sentinode.loops.jit import compiled, parallel

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
    left, right, share = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.float32)
    for j in range(width):
        left[j], right[j], share[j] = _between(j, of_width, width)
    row = np.empty(width * channels, np.float32)
    for i in range(height):
        above, below, lower = _between(i, of_height, height)
        first, second = image[above].reshape(-1), image[below].reshape(-1)
        for e in range(row.size):
            upper = np.float32(first[e])
            row[e] = scale * (upper + lower * (np.float32(second[e]) - upper))
        for j in range(width):
            for c in range(channels):
                start = row[left[j] * channels + c]
                zoomed[i, j, c] = start + share[j] * (row[right[j] * channels + c] - start)


@compiled
def _between(at: int, factor: float, size: int) -> tuple[int, int, Any]:
    """The two source pixels of a pixel, and the share of the second."""
    middle = np.float32(size - 1) / np.float32(2)
    source = middle + factor * (np.float32(at) - middle)
    source = min(max(source, np.float32(0)), np.float32(size - 1))
    first = int(source)
    return first, min(first + 1, size - 1), np.float32(source - np.float32(first))
