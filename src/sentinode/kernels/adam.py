"""A step of Adam over all parameters at once."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from sentinode.kernels.jit import compiled, parallel

Array = np.ndarray[Any, Any]
_BLOCK = 4096


@parallel
def step(
    values: Array,
    gradient: Array,
    first: Array,
    second: Array,
    beta1: float,
    beta2: float,
    step_size: float,
    epsilon: float,
) -> None:
    """Change values and both moments, (P,), in place; `step_size` holds the correction of both moments' bias."""
    numbers = (np.float32(beta1), np.float32(beta2), np.float32(1 - beta1), np.float32(1 - beta2))
    size, floor = np.float32(step_size), np.float32(epsilon)
    for block in prange(-(-values.size // _BLOCK)):
        here = slice(block * _BLOCK, min((block + 1) * _BLOCK, values.size))
        _step(values[here], gradient[here], first[here], second[here], numbers, size, floor)


@compiled
def _step(
    values: Array, gradient: Array, first: Array, second: Array, numbers: tuple[Any, ...], size: Any, floor: Any
) -> None:
    """A loop from zero over arrays of its own, which becomes one over vectors."""
    keep1, keep2, take1, take2 = numbers
    for p in range(values.size):
        slope = gradient[p]
        m = keep1 * first[p] + take1 * slope
        v = keep2 * second[p] + take2 * slope * slope
        first[p], second[p] = m, v
        values[p] -= size * m / (np.sqrt(v) + floor)
