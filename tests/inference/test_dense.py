"""What networks see of an image's cells is what they see of the cells' patches, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sentinode.config.run import PreprocessConfig
from sentinode.inference.dense import inputs_of_cells, is_shared
from sentinode.inputs.preprocess import preprocess

WAYS: list[dict[str, Any]] = [
    {"crop_px": 96, "size_px": 32, "resize": "area"},
    {"crop_px": 96, "size_px": 32, "resize": "nearest"},
    {"crop_px": 96, "size_px": 40, "resize": "nearest"},
    {"crop_px": 64, "size_px": 32, "resize": "area"},
    {"crop_px": 32, "size_px": 32},
    {"crop_px": 96, "size_px": 96},
    {"crop_px": 50, "size_px": 25, "resize": "area"},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_inputs_are_those_of_the_patches(way: dict[str, Any]) -> None:
    config, rng = PreprocessConfig(**way), np.random.default_rng(0)
    rgb = rng.integers(0, 256, (32 * 5 + 64, 32 * 4 + 64, 3), dtype=np.uint8)
    cells = rng.random((5, 4)) < 0.6
    patches = np.stack([rgb[32 * r : 32 * r + 96, 32 * c : 32 * c + 96] for r, c in np.argwhere(cells)])
    assert np.array_equal(inputs_of_cells(rgb, cells, config), preprocess(patches, config)[0])


def test_no_cell_is_no_input() -> None:
    rgb = np.zeros((96, 96, 3), np.uint8)
    assert len(inputs_of_cells(rgb, np.zeros((1, 1), bool), PreprocessConfig())) == 0


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="need an image of the shape"):
        inputs_of_cells(np.zeros((96, 100, 3), np.uint8), np.ones((1, 1), bool), PreprocessConfig())


def test_stains_are_normalised_patch_by_patch() -> None:
    assert is_shared(PreprocessConfig())
    assert not is_shared(PreprocessConfig(stain="macenko"))
