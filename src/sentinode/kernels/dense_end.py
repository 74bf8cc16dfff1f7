"""The dense end of a network, both ways: flatten - dense - batch norm and ReLU - dense of one output - cross-entropy.

Its arithmetic takes microseconds, so one thread does it all in one call: a dozen operations would each take longer to
start, for the activations of the convolutions have pushed their code out of the caches.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np

from sentinode.kernels.cross_entropy import cross_entropy
from sentinode.kernels.jit import compiled
from sentinode.kernels.norm import Norm, settle, settle_gradients
from sentinode.kernels.norm_relu_pool import give_back, normalise, pass_relu, sum_up
from sentinode.kernels.tile import COLUMNS, ROWS, multiply_add

Array = np.ndarray[Any, Any]


@compiled
def head(
    x: Array,
    labels: Array,
    dense: tuple[Array, Array],
    norm: Norm,
    end: tuple[Array, Array],
    of_parameters: tuple[Array, ...],
    of_x: Array,
    logits: Array,
    losses: Array,
) -> None:
    """Fill logits and losses, (N,), and the gradients of the mean loss, of x (N, H, W, C) and of the parameters.

    These are, in this order, the weights (O, F) and biases of the dense layer, weight and shift of the norm, and the
    weights (O,) and the bias of the last layer, the end. F = C H W, in PyTorch's order, is a multiple of COLUMNS.
    """
    weights, biases = dense
    last, last_bias = end
    relu_first = norm.relu_first
    of_weights, of_biases, of_weight, of_shift, of_last, of_last_bias = of_parameters
    count, (size, inputs) = len(x), weights.shape
    features, turned = _flat(x, inputs)
    hidden = _dense(turned, weights, biases, count)
    channels, totals, products = np.empty((3, size), x.dtype), np.zeros((1, size)), np.zeros((1, size))
    pivot, signs = np.maximum(hidden[0], 0) if relu_first else hidden[0].copy(), np.ones(size, x.dtype)
    sum_up(hidden.reshape(-1), pivot, relu_first, totals[0], products[0])
    settle(totals, products, count, pivot, norm, channels)
    mean, scale = channels[0], channels[2]
    top, y = hidden.copy().reshape(-1), np.empty((count, size), x.dtype)
    normalise(top, y.reshape(-1), mean, scale, norm.shift, signs, relu_first)
    of_y = np.empty((count, size), x.dtype)
    _last(y, labels, last, last_bias, logits, losses, of_y, of_last, of_last_bias)
    totals[:], products[:] = 0, 0
    passed, of_hidden = np.empty(count * size, x.dtype), np.empty((count, size), x.dtype)
    pass_relu(of_y.reshape(-1), top, y.reshape(-1), passed, mean, relu_first, totals[0], products[0])
    slope, level = settle_gradients(totals, products, count, channels, of_weight, of_shift)
    at = np.arange(count * size).astype(np.int32)
    give_back(passed, hidden.reshape(-1), at, slope, level, scale, relu_first, of_hidden.reshape(-1))
    of_biases[:] = 0
    if relu_first:  # otherwise batch norm takes the bias out again
        for n in range(count):
            for o in range(size):
                of_biases[o] += of_hidden[n, o]
    _of_weights(of_hidden, features, of_weights)
    _of_features(of_hidden, weights, features)
    _unflat(features, of_x)


@compiled
def _flat(x: Array, inputs: int) -> tuple[Array, Array]:
    """Features by patch, (N, F), and by feature, (F, N), with columns up to a whole number of tiles."""
    count, height, width, channels = x.shape
    places = height * width
    columns = -(-count // COLUMNS) * COLUMNS
    features, turned = np.empty((count, inputs), x.dtype), np.zeros((inputs, columns), x.dtype)
    for n in range(count):
        patch = x[n].reshape(places, channels)
        for c in range(channels):
            for place in range(places):
                features[n, c * places + place] = patch[place, c]
                turned[c * places + place, n] = patch[place, c]
    return features, turned


@compiled
def _unflat(features: Array, x: Array) -> None:
    count, height, width, channels = x.shape
    places = height * width
    for n in range(count):
        patch = x[n].reshape(places, channels)
        for c in range(channels):
            for place in range(places):
                patch[place, c] = features[n, c * places + place]


@compiled
def _dense(turned: Array, weights: Array, biases: Array, count: int) -> Array:
    """The dense layer's outputs, (N, O)."""
    inputs, columns = turned.shape
    size = len(weights)
    by_output, start = np.empty((size, columns), turned.dtype), np.zeros(COLUMNS, turned.dtype)
    left, right, result = weights.reshape(-1), turned.reshape(-1), by_output.reshape(-1)
    for n in range(0, columns, COLUMNS):
        for o in range(0, size, ROWS):
            rows, to = min(ROWS, size - o), (result, o * columns + n, columns)
            multiply_add(rows, to, (start, 0, 0), (left, o * inputs, 0, inputs, 1), (right, n, 0, columns), (1, inputs))
    hidden = np.empty((count, size), turned.dtype)
    for o in range(size):
        for n in range(count):
            hidden[n, o] = by_output[o, n] + biases[o]
    return hidden


@compiled
def _last(
    y: Array,
    labels: Array,
    weights: Array,
    bias: Array,
    logits: Array,
    losses: Array,
    of_y: Array,
    of_weights: Array,
    of_bias: Array,
) -> None:
    count, size = y.shape
    for n in range(count):
        logit = bias[0]
        for o in range(size):
            logit += y[n, o] * weights[o]
        logits[n] = logit
    slopes = np.empty(count, y.dtype)
    cross_entropy(logits, labels, losses, slopes)
    of_weights[:], of_bias[0] = 0, 0
    for n in range(count):
        of_bias[0] += slopes[n]
        for o in range(size):
            of_y[n, o] = slopes[n] * weights[o]
            of_weights[o] += slopes[n] * y[n, o]


@compiled
def _of_weights(of_hidden: Array, features: Array, of_weights: Array) -> None:
    (count, size), inputs = of_hidden.shape, features.shape[1]
    start, left, right = np.zeros(COLUMNS, features.dtype), of_hidden.reshape(-1), features.reshape(-1)
    result = of_weights.reshape(-1)
    for f in range(0, inputs, COLUMNS):
        for o in range(0, size, ROWS):
            rows, to = min(ROWS, size - o), (result, o * inputs + f, inputs)
            multiply_add(rows, to, (start, 0, 0), (left, o, 0, 1, size), (right, f, 0, inputs), (1, count))


@compiled
def _of_features(of_hidden: Array, weights: Array, of_features: Array) -> None:
    (count, size), inputs = of_hidden.shape, weights.shape[1]
    start, left, right = np.zeros(COLUMNS, weights.dtype), of_hidden.reshape(-1), weights.reshape(-1)
    result = of_features.reshape(-1)
    for f in range(0, inputs, COLUMNS):
        for n in range(0, count, ROWS):
            rows, to = min(ROWS, count - n), (result, n * inputs + f, inputs)
            multiply_add(rows, to, (start, 0, 0), (left, n * size, 0, size, 1), (right, f, 0, inputs), (1, size))
