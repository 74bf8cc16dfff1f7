"""The product in registers against NumPy's, for every height of a tile."""

from __future__ import annotations

import numpy as np
import pytest

from sentinode.loops.jit import compiled
from sentinode.loops.tile import COLUMNS, ROWS, multiply_add


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
    np.testing.assert_allclose(result[:rows], expected[:rows], rtol=1e-5, atol=1e-5)
    assert (result[rows:] == 7).all()
