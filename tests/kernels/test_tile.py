"""The product in registers against NumPy's, for every height of a tile."""

from __future__ import annotations

import numpy as np
import pytest

from sentinode.kernels.jit import compiled
from sentinode.kernels.tile import COLUMNS, ROWS, multiply_add

pytestmark = pytest.mark.numeric


@compiled
def product(rows: int, start: np.ndarray, left: np.ndarray, right: np.ndarray, result: np.ndarray) -> None:
    segments, height, steps = left.shape
    arrays = (left.reshape(-1), 0, height * steps, steps, 1), (right.reshape(-1), 0, steps * COLUMNS, COLUMNS)
    multiply_add(rows, (result.reshape(-1), 0, COLUMNS), (start, 0, 0), *arrays, (segments, steps))


@pytest.mark.parametrize("rows", range(1, ROWS + 1))
def test_it_is_the_product_and_writes_nothing_else(rows: int) -> None:
    random = np.random.default_rng(rows)
    left = random.standard_normal((2, ROWS, 5)).astype(np.float32)
    right = random.standard_normal((2, 5, COLUMNS)).astype(np.float32)
    start = random.standard_normal(COLUMNS).astype(np.float32)
    result = np.full((ROWS + 1, COLUMNS), 7, np.float32)
    product(rows, start, left, right, result)
    expected = start + np.einsum("smk,skn->mn", left.astype(float), right.astype(float))
    # A sum of n products in single precision, in any order, fused or not, is within n u / (1 - n u) of the sum of their
    # sizes (Higham 2002, section 3.1), with the unit roundoff u = 2 ** -24.
    sizes = np.abs(start) + np.einsum("smk,skn->mn", np.abs(left).astype(float), np.abs(right).astype(float))
    terms = (left.shape[0] * left.shape[2] + 1) * 2.0**-24
    assert (np.abs(result[:rows] - expected[:rows]) <= terms / (1 - terms) * sizes[:rows]).all()
    assert (result[rows:] == 7).all()
