from __future__ import annotations

import numpy as np
import pytest
import torch

from sentinode.data.patches import SYMMETRIES, apply_symmetry, symmetric_view


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def test_the_eight_symmetries_are_distinct_and_turn_to_the_left() -> None:
    patch = noise(10)
    assert len({symmetric_view(patch, k).tobytes() for k in SYMMETRIES}) == 8
    assert np.array_equal(symmetric_view(patch, 1)[0], patch[:, -1])  # the right edge comes to the top
    assert np.array_equal(symmetric_view(patch, 4), patch[:, ::-1])


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_patches_and_batches_are_turned_alike(symmetry: int) -> None:
    patches = np.stack([noise(seed) for seed in range(3)])
    turned = apply_symmetry(torch.from_numpy(patches).permute(0, 3, 1, 2), symmetry).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(turned, [symmetric_view(patch, symmetry) for patch in patches])
