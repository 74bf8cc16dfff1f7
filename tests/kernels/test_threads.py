"""Compiled loops give the same bits in any number of threads."""

from __future__ import annotations

import subprocess
import sys

import numba
import numpy as np
import pytest
import torch

from sentinode.kernels import jit, norm_relu_pool, zoom
from sentinode.kernels.norm import Norm, Pooled

pytestmark = pytest.mark.numeric

IMAGES = np.random.default_rng(0).random((7, 32, 32, 3), np.float32)


def zoomed() -> np.ndarray:
    result = np.empty_like(IMAGES)
    zoom.zoom(IMAGES, np.full((7, 2), 0.87, np.float32), 1.0, result)
    return result


def normalised() -> list[np.ndarray]:
    """What the fused step fills, forwards and backwards."""
    x, shape = IMAGES[:, :30, :30], (7, 10, 10, 3)
    top, y, at = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.int32)
    channels, of_x = np.empty((3, 3), np.float32), np.empty(x.shape, np.float32)
    of_weight, of_bias = np.empty(3, np.float32), np.empty(3, np.float32)
    weight, bias = np.array([1, -2, 0.5], np.float32), np.zeros(3, np.float32)
    x = np.ascontiguousarray(x)
    moving = np.zeros(3, np.float32), np.ones(3, np.float32)
    pooled = Pooled(top, at, y, channels)
    norm_relu_pool.forward(x, Norm(weight, bias, *moving, 0.9, 1e-3, False), 3, pooled)
    norm_relu_pool.backward(y, x, pooled, False, of_x, of_weight, of_bias)
    return [top, y, at, channels, of_x, of_weight, of_bias, *moving]


def test_the_number_of_threads_changes_no_bit() -> None:
    told = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        told.append([zoomed(), *normalised()])
    assert all(np.array_equal(one, two) for one, two in zip(*told, strict=True))


def test_pytorchs_number_of_threads_outlives_the_start_of_numbas() -> None:
    script = "import torch; torch.set_num_threads(1); from sentinode.kernels import jit; jit.share_threads(); "
    told = subprocess.run(
        [sys.executable, "-c", script + "print(torch.get_num_threads())"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "1"


def test_threads_are_as_many_as_pytorch_has() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        jit.share_threads()
        assert numba.get_num_threads() == 1
        torch.set_num_threads(10_000)
        jit.share_threads()
        assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    finally:
        torch.set_num_threads(before)
