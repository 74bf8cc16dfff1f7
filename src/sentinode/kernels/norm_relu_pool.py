"""Batch norm, ReLU and max-pooling, a patch at a time: the passes that `convolution.py` and `dense_end.py` are made of.

A small network spends more time on moving its activations than on arithmetic. Two facts spare most of that.
Max-pooling commutes with every rising function, so ReLU and the affine map of batch norm are applied to the pooled
values alone, a ninth of them (for a falling map, channels with a negative weight, the sign is taken out first). And
the gradient of batch norm is affine in its input but for the pooled places, so it is written in one pass. Sums are
formed patch by patch and joined in double precision.

Inner loops run over whole rows of W x C values with what belongs to a channel tiled to that length: 32 channels
alone are too short a loop to be worth a start.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np

from sentinode.kernels.jit import compiled

Array = np.ndarray[Any, Any]


@compiled
def give_back(
    passed: Array,
    patch: Array,
    at: Array,
    slopes: Array,
    levels: Array,
    scales: Array,
    relu_first: bool,
    result: Array,
) -> None:
    """The gradient of a patch's values: of all by the statistics, of the pooled ones by what was passed."""
    _give_back_to_all(patch, slopes, levels, relu_first, result)
    _give_back_to_pooled(passed, at, scales, result)
    if relu_first:
        for e in range(patch.size):
            result[e] = result[e] if patch[e] > 0 else 0


@compiled
def tiled(of_channel: Array, width: int) -> Array:
    row = np.empty((width, of_channel.size), of_channel.dtype)
    for j in range(width):
        for c in range(of_channel.size):
            row[j, c] = of_channel[c]
    return row.reshape(-1)


@compiled
def sum_up(patch: Array, pivots: Array, relu_first: bool, totals: Array, squares: Array) -> None:
    """Add a patch's differences from the pivots and their squares, channel by channel."""
    row, size = pivots.size, totals.size
    sums, sums_of_squares = np.zeros(row, patch.dtype), np.zeros(row, patch.dtype)
    for start in range(0, patch.size, row):
        values = patch[start : start + row]
        for e in range(row):
            value = values[e]
            if relu_first and value < 0:
                value = patch.dtype.type(0)
            off = value - pivots[e]
            sums[e] += off
            sums_of_squares[e] += off * off
    for start in range(0, row, size):
        for c in range(size):
            totals[c] += sums[start + c]
            squares[c] += sums_of_squares[start + c]


@compiled
def pool(patch: Array, signs: Array, width: int, kernel: int, top: Array, at: Array) -> None:
    """The largest value times its sign of each window, and its place: first down the columns, then along the row."""
    row = signs.size
    size = row // width
    column, place = np.empty(row, patch.dtype), np.empty(row, np.int32)
    for i in range(patch.size // row // kernel):
        _largest_of_rows(
            patch[i * kernel * row : (i + 1) * kernel * row], signs, kernel, i * kernel * row, column, place
        )
        for j in range(width // kernel):
            here = (i * (width // kernel) + j) * size
            tops, places = top[here : here + size], at[here : here + size]
            for k in range(kernel):
                start = (j * kernel + k) * size
                values, froms = column[start : start + size], place[start : start + size]
                for c in range(size):
                    larger = k == 0 or values[c] > tops[c]
                    tops[c] = values[c] if larger else tops[c]
                    places[c] = froms[c] if larger else places[c]


@compiled
def _largest_of_rows(rows: Array, signs: Array, kernel: int, first: int, column: Array, place: Array) -> None:
    row = signs.size
    if kernel == 3:  # the notebook's: all three in registers
        above, middle, below = rows[:row], rows[row : 2 * row], rows[2 * row :]
        for e in range(row):
            largest, at = above[e] * signs[e], first + e
            value = middle[e] * signs[e]
            larger = value > largest
            largest, at = value if larger else largest, first + row + e if larger else at
            value = below[e] * signs[e]
            larger = value > largest
            column[e] = value if larger else largest
            place[e] = first + 2 * row + e if larger else at
        return
    for k in range(kernel):
        values = rows[k * row : (k + 1) * row]
        for e in range(row):
            value = values[e] * signs[e]
            larger = k == 0 or value > column[e]
            column[e] = value if larger else column[e]
            place[e] = first + k * row + e if larger else place[e]


@compiled
def normalise(top: Array, y: Array, means: Array, scales: Array, biases: Array, signs: Array, relu_first: bool) -> None:
    row = means.size
    for start in range(0, top.size, row):
        tops, ys = top[start : start + row], y[start : start + row]
        for e in range(row):
            value = tops[e] * signs[e]
            if relu_first and value < 0:
                value = top.dtype.type(0)
            tops[e] = value
            value = biases[e] + (value - means[e]) * scales[e]
            if not relu_first and value < 0:
                value = top.dtype.type(0)
            ys[e] = value


@compiled
def pass_relu(
    gradient: Array,
    top: Array,
    y: Array,
    passed: Array,
    means: Array,
    relu_first: bool,
    totals: Array,
    products: Array,
) -> None:
    """Write what a ReLU behind the norm lets through, and add it up, alone and times the distance from the mean."""
    row, size = means.size, totals.size
    sums, sums_of_products = np.zeros(row, y.dtype), np.zeros(row, y.dtype)
    for start in range(0, y.size, row):
        here = slice(start, start + row)
        gradients, tops, ys, through = gradient[here], top[here], y[here], passed[here]
        for e in range(row):
            value = gradients[e] if relu_first or ys[e] > 0 else y.dtype.type(0)
            through[e] = value
            sums[e] += value
            sums_of_products[e] += value * (tops[e] - means[e])
    for start in range(0, row, size):
        for c in range(size):
            totals[c] += sums[start + c]
            products[c] += sums_of_products[start + c]


@compiled
def _give_back_to_all(patch: Array, slopes: Array, levels: Array, relu_first: bool, result: Array) -> None:
    """What batch norm's statistics alone give back to every value."""
    row = slopes.size
    for start in range(0, patch.size, row):
        values, results = patch[start : start + row], result[start : start + row]
        for e in range(row):
            value = values[e]
            if relu_first and value < 0:
                value = patch.dtype.type(0)
            results[e] = levels[e] + slopes[e] * value


@compiled
def _give_back_to_pooled(passed: Array, at: Array, scales: Array, result: Array) -> None:
    """What the pooled values give back to their places."""
    for start in range(0, at.size, scales.size):
        for e in range(scales.size):
            result[at[start + e]] += passed[start + e] * scales[e]
