"""Products of few vectors with many, all in whole numbers: what a search for the most alike reads."""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from sentinode.kernels.jit import compiled, parallel

Array = np.ndarray[Any, Any]
_BLOCK = 256


@parallel
def dots(asked: Array, asked_step: Array, known: Array, known_step: Array, out: Array) -> None:
    """Fill `out`, (q, n) float32, with the products of `asked`, (q, d) int16, and `known`, (n, d)
    int8, times their steps.

    Sums of whole numbers are exact, in whatever order and in whatever instructions.
    """
    for block in prange(-(-len(known) // _BLOCK)):
        for n in range(block * _BLOCK, min((block + 1) * _BLOCK, len(known))):
            for q in range(len(asked)):
                out[q, n] = np.float32(_dot(asked[q], known[n])) * (asked_step[q] * known_step[n])


@compiled
def _dot(one: Array, other: Array) -> Any:
    total: Any = 0
    for d in range(one.size):
        total += np.int32(one[d]) * np.int32(other[d])
    return total
