"""A convolution with the batch norm, ReLU and max-pooling behind it, on (N, H, W, C) arrays, patch by patch.

What a patch's convolution writes is summed up and pooled while it is still in the core's own cache, and on the way
back its gradient is never written out for a whole batch. A small network spends half of its time on just that:
between two of PyTorch's operations a batch goes through the memory that both cores share. The products are those of
the tile, so no input is unrolled.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import prange

from sentinode.kernels.jit import compiled, parallel
from sentinode.kernels.norm import Norm, Pooled, settle, settle_gradients
from sentinode.kernels.norm_relu_pool import give_back, normalise, pass_relu, pool, sum_up, tiled
from sentinode.kernels.tile import COLUMNS, ROWS, multiply_add

Array = np.ndarray[Any, Any]
# Patches whose gradients of the weights are added up in turn: few enough for all cores to be busy, and a fixed
# number, for a sum in another order is rounded otherwise.
TOGETHER: Final = 4


@parallel
def forward(x: Array, filters: Array, bias: Array, norm: Norm, kernel: int, z: Array, pooled: Pooled) -> None:
    """Fill z, the convolution of x by the filters (C', h, w, C), and `pooled` of it, in squares of `kernel` places."""
    weight, relu_first = norm.weight, norm.relu_first
    top, at, y, channels = pooled
    count, height, width, size = z.shape
    totals, squares = np.zeros((count, size)), np.zeros((count, size))
    _, tall, wide, channels_in = filters.shape
    taps = np.empty((tall, wide, channels_in, size), x.dtype)
    places, turned = filters.reshape(size, tall * wide, channels_in), taps.reshape(tall * wide, channels_in, size)
    for tap in range(tall * wide):
        for channel in range(channels_in):
            for c in range(size):
                turned[tap, channel, c] = places[c, tap, channel]
    pivot, sign = np.empty(size, x.dtype), np.empty(size, x.dtype)
    _convolve(x[0], taps, bias, pivot.reshape(1, 1, size))
    for c in range(size):
        pivot[c] = 0 if relu_first and pivot[c] < 0 else pivot[c]
        sign[c] = -1 if weight[c] < 0 else 1
    pivots, signs = tiled(pivot, width), tiled(sign, width)
    for n in prange(count):
        _convolve(x[n], taps, bias, z[n])
        patch = z[n].reshape(-1)
        sum_up(patch, pivots, relu_first, totals[n], squares[n])
        pool(patch, signs, width, kernel, top[n].reshape(-1), at[n].reshape(-1))
    settle(totals, squares, height * width, pivot, norm, channels)
    means, scales, shifts = (
        tiled(channels[0], y.shape[2]),
        tiled(channels[2], y.shape[2]),
        tiled(norm.shift, y.shape[2]),
    )
    for n in prange(count):
        normalise(top[n].reshape(-1), y[n].reshape(-1), means, scales, shifts, signs, relu_first)


@parallel
def backward(
    gradient: Array,
    x: Array,
    filters: Array,
    z: Array,
    pooled: Pooled,
    relu_first: bool,
    of_x: Array,
    of_parameters: tuple[Array, Array, Array, Array],
) -> None:
    """Fill the gradients of the parameters, and of x if `of_x` has room for it, from that of y, (N, h, w, C').

    The parameters are the filters and bias of the convolution, and weight and shift of the norm.
    """
    top, at, y, channels = pooled
    of_filters, of_bias, of_weight, of_shift = of_parameters
    count, height, width, size = z.shape
    totals, products = np.zeros((count, size)), np.zeros((count, size))
    passed = np.empty(y.shape, y.dtype)
    means, scales = tiled(channels[0], y.shape[2]), tiled(channels[2], y.shape[2])
    for n in prange(count):
        arrays = (gradient[n].reshape(-1), top[n].reshape(-1), y[n].reshape(-1), passed[n].reshape(-1))
        pass_relu(*arrays, means, relu_first, totals[n], products[n])
    slope, level = settle_gradients(totals, products, height * width, channels, of_weight, of_shift)
    slopes, levels = tiled(slope, width), tiled(level, width)
    groups = -(-count // TOGETHER)
    _, tall, wide, channels_in = filters.shape
    of_taps = np.empty((groups, tall, wide, channels_in, size), x.dtype)
    sums = np.zeros((groups, size))
    for group in prange(groups):
        of_z = np.empty((height, width, size), x.dtype)
        of_taps[group] = 0
        for n in range(group * TOGETHER, min((group + 1) * TOGETHER, count)):
            of_patch = (passed[n].reshape(-1), z[n].reshape(-1), at[n].reshape(-1))
            give_back(*of_patch, slopes, levels, scales, relu_first, of_z.reshape(-1))
            if relu_first:
                _add_places(of_z, sums[group])
            _add_to_filters(x[n], of_z, of_taps[group])
            if of_x.size:
                _of_input(of_z, filters, of_x[n])
    by_tap = of_taps.reshape(groups, tall * wide, channels_in, size)
    result = of_filters.reshape(size, tall * wide, channels_in)
    for tap in range(tall * wide):
        for channel in range(channels_in):
            total = by_tap[0, tap, channel]
            for group in range(1, groups):
                for c in range(size):
                    total[c] += by_tap[group, tap, channel, c]
            for c in range(size):
                result[c, tap, channel] = total[c]
    for c in range(size):
        of_bias[c] = 0  # batch norm right behind a convolution takes its bias out again
        if relu_first:
            total_of_bias = 0.0
            for group in range(groups):
                total_of_bias += sums[group, c]
            of_bias[c] = total_of_bias


@compiled
def _convolve(x: Array, taps: Array, bias: Array, z: Array) -> None:
    _, width, channels = x.shape
    height, filter_width, _, size = taps.shape
    row, span = z.shape[1], filter_width * channels
    step = _even(row)
    xs, products, zs = x.reshape(-1), taps.reshape(-1), z.reshape(-1)
    for n in range(0, size, COLUMNS):
        for i in range(z.shape[0]):
            for j in range(0, row, step):
                left = (xs, (i * width + j) * channels, width * channels, channels, 1)
                right = (products, n, span * size, size)
                result = (zs, (i * row + j) * size + n, size)
                multiply_add(min(step, row - j), result, (bias, n, 0), left, right, (height, span))


@compiled
def _add_to_filters(x: Array, of_z: Array, of_taps: Array) -> None:
    _, width, channels = x.shape
    rows, row, size = of_z.shape
    span = of_taps.shape[1] * channels
    step = _even(span)
    xs, gradients, sums = x.reshape(-1), of_z.reshape(-1), of_taps.reshape(-1)
    for n in range(0, size, COLUMNS):
        for i in range(of_taps.shape[0]):
            for t in range(0, span, step):
                left = (xs, i * width * channels + t, width * channels, 1, channels)
                right = (gradients, n, row * size, size)
                here = (sums, (i * span + t) * size + n, size)
                multiply_add(min(step, span - t), here, here, left, right, (rows, row))


@compiled
def _of_input(of_z: Array, filters: Array, of_x: Array) -> None:
    size, height, filter_width, channels = filters.shape
    rows, row, _ = of_z.shape
    width, step = of_x.shape[1], _even(row)
    gradients, taps, sums = of_z.reshape(-1), filters.reshape(-1), of_x.reshape(-1)
    sums[:] = 0
    for c in range(0, channels, COLUMNS):
        for tap in range(height * filter_width):
            down, along = divmod(tap, filter_width)
            right = (taps, tap * channels + c, 0, height * filter_width * channels)
            for i in range(rows):
                for j in range(0, row, step):
                    left = (gradients, (i * row + j) * size, 0, size, 1)
                    here = (sums, ((i + down) * width + along + j) * channels + c, channels)
                    multiply_add(min(step, row - j), here, here, left, right, (1, size))


@compiled
def _even(length: int) -> int:
    """Rows of a tile so that a length falls into as few as it can, all nearly as high."""
    return -(-length // -(-length // ROWS))


@compiled
def _add_places(of_z: Array, sums: Array) -> None:
    for i in range(of_z.shape[0]):
        for j in range(of_z.shape[1]):
            for c in range(sums.size):
                sums[c] += of_z[i, j, c]
