"""Compiled loops give the same bits in any number of threads."""

from __future__ import annotations

import subprocess
import sys

import numba
import numpy as np
import pytest
import torch

from sentinode.kernels import convolution, jit, zoom
from sentinode.kernels.norm import Norm, Pooled

IMAGES = np.random.default_rng(0).random((7, 32, 32, 3), np.float32)


def zoomed() -> np.ndarray:
    result = np.empty_like(IMAGES)
    zoom.zoom(IMAGES, np.full((7, 2), 0.87, np.float32), 1.0, result)
    return result


def convolved() -> list[np.ndarray]:
    """What a block of the notebook's network fills, forwards and backwards."""
    rng, filters = np.random.default_rng(1), 32

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def empty(*shape: int) -> np.ndarray:
        return np.empty(shape, np.float32)

    taps, bias, z = drawn(filters, 3, 3, 3), drawn(filters), empty(7, 30, 30, filters)
    moving = np.zeros(filters, np.float32), np.ones(filters, np.float32)
    norm = Norm(drawn(filters), drawn(filters), *moving, 0.9, 1e-3, relu_first=True)
    shape = (7, 10, 10, filters)
    pooled = Pooled(empty(*shape), np.empty(shape, np.int32), empty(*shape), empty(3, filters))
    of_x, gradients = empty(0, 1, 1, 1), (empty(*taps.shape), *(empty(filters) for _ in range(3)))
    convolution.forward(IMAGES, taps, bias, norm, 3, z, pooled)
    convolution.backward(drawn(*shape), IMAGES, taps, z, pooled, True, of_x, gradients)
    return [z, *pooled, *gradients, *moving]


@pytest.mark.numeric
def test_the_number_of_threads_changes_no_bit() -> None:
    told = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        told.append([zoomed(), *convolved()])
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
