"""Batch norm and the max-pooling behind it, as kernels are handed them; and what they make of a batch's sums."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sentinode.kernels.jit import compiled

Array = np.ndarray[Any, Any]


class Norm(NamedTuple):
    """A batch norm of C channels beside its ReLU; the arrays are (C,), and the moving ones are changed in place.

    The moving averages keep the share `momentum` of what they were and take the rest from the batch's mean and biased
    variance.
    """

    weight: Array
    shift: Array
    moving_mean: Array
    moving_variance: Array
    momentum: float
    epsilon: float
    relu_first: bool
    """Whether ReLU stands before the norm; else behind it."""


class Pooled(NamedTuple):
    """What a forward pass leaves for the way back: top, at and y are (N, h, w, C), channels is (3, C)."""

    top: Array
    """The value, before the norm, that each of y came from."""
    at: Array
    """Its place within its patch."""
    y: Array
    """Normalised, rectified and pooled."""
    channels: Array
    """Mean, 1 / deviation and scale of each channel."""


@compiled
def settle(totals: Array, squares: Array, places: int, pivot: Array, norm: Norm, channels: Array) -> None:
    """A channel's mean, 1 / deviation and scale out of what each patch's places sum up to, both (N, C)."""
    weight, moving_mean, moving_variance = norm.weight, norm.moving_mean, norm.moving_variance
    momentum, epsilon = norm.momentum, norm.epsilon
    values = len(totals) * places
    mean, inverse, scale = channels[0], channels[1], channels[2]
    for c in range(pivot.size):
        total, square = 0.0, 0.0
        for n in range(len(totals)):
            total += totals[n, c]
            square += squares[n, c]
        offset = total / values
        mean[c] = pivot[c] + offset
        variance = square / values - offset * offset
        variance = 0.0 if variance < 0 else variance  # by rounding; NaN stays
        inverse[c] = 1 / np.sqrt(variance + epsilon)
        scale[c] = weight[c] * inverse[c]
        moving_mean[c] = momentum * moving_mean[c] + (1 - momentum) * mean[c]
        moving_variance[c] = momentum * moving_variance[c] + (1 - momentum) * variance


@compiled
def settle_gradients(
    totals: Array, products: Array, places: int, channels: Array, of_weight: Array, of_bias: Array
) -> tuple[Array, Array]:
    """Fill the norm's gradients; slope and level, (C,), are what they give back to a value x: slope x + level."""
    mean, inverse, scale = channels[0], channels[1], channels[2]
    values = len(totals) * places
    slope, level = np.empty(mean.size, mean.dtype), np.empty(mean.size, mean.dtype)
    for c in range(mean.size):
        total, product = 0.0, 0.0
        for n in range(len(totals)):
            total += totals[n, c]
            product += products[n, c]
        of_bias[c] = total
        of_weight[c] = product * inverse[c]
        # Batch norm's gradient is scale (g - mean of g - xhat mean of g xhat), and g is zero but where it was pooled.
        slope[c] = -scale[c] * inverse[c] * of_weight[c] / values
        level[c] = -scale[c] * total / values - slope[c] * mean[c]
    return slope, level
