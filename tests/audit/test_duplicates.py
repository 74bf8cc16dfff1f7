from __future__ import annotations

import numpy as np
import pytest

from sentinode.audit.duplicates import Duplicate, hash_pixels, match_sums, sum_pixels
from sentinode.data.patches import symmetric_view


def duplicates(pixels: np.ndarray) -> list[Duplicate]:
    return match_sums(pixels, sum_pixels(hash_pixels(pixels)))


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize("symmetry", range(8))
def test_a_duplicate_under_each_symmetry_is_found_and_named(symmetry: int) -> None:
    patch, other = noise(11), noise(12)
    pixels = np.stack([other, patch, symmetric_view(patch, symmetry)])
    assert duplicates(pixels) == [Duplicate(1, 2, symmetry)]


def test_duplicates_name_the_first_patch_of_their_kind() -> None:
    patch, other = noise(13), noise(14)
    pixels = np.stack([patch, other, np.rot90(patch), patch, other[::-1]])
    assert duplicates(pixels) == [Duplicate(0, 2, 1), Duplicate(0, 3, 0), Duplicate(1, 4, 6)]


def test_the_same_pixels_in_another_order_are_no_duplicate() -> None:
    patch = noise(15)
    shuffled = np.random.default_rng(3).permutation(patch.reshape(-1, 3)).reshape(patch.shape)
    assert duplicates(np.stack([patch, shuffled])) == []


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_patches_have_no_duplicates(count: int) -> None:
    assert match_sums(np.zeros((count, 96, 96, 3), np.uint8), np.zeros(count, np.uint64)) == []
