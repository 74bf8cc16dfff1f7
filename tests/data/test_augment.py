"""Augmentation: agrees with Keras, keeps tissue on its side of the centre's border, draws reproducibly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sentinode.config import AugmentConfig, PreprocessConfig
from sentinode.data.augment import apply, draw, stain, turn, zoom, zoom_by_grid
from sentinode.data.preprocess import shrink
from sentinode.data.symmetry import SYMMETRIES, apply_symmetry

pytestmark = pytest.mark.numeric

KERAS = Path(__file__).parents[1] / "models" / "keras_reference.npz"


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [17, 32, 96])
def test_compiled_zoom_is_the_grid_samplers(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    images = torch.rand(9, 3, size, size, generator=generator)
    factors = 0.5 + torch.rand(9, 2, generator=generator)
    factors[0] = 1
    exact = zoom_by_grid(images.double(), factors.double())
    zoomed = zoom(images, factors)
    assert torch.equal(zoomed[0], images[0])
    off, of_grid = ((told.double() - exact).abs().max() for told in (zoomed, zoom_by_grid(images, factors)))
    assert off < 2e-5
    assert off <= of_grid


def test_bytes_and_floats_zoom_alike() -> None:
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    factors = torch.full((5, 2), 0.9)
    torch.testing.assert_close(zoom(images, factors), zoom(images / 255, factors), rtol=0, atol=1e-6)


def test_zoom_agrees_with_keras() -> None:
    with np.load(KERAS, allow_pickle=False) as reference:
        image = torch.from_numpy(reference["zoom/image"].astype(np.float32)).permute(2, 0, 1)
        for (zx, zy), expected in zip(reference["zoom/factors"], reference["zoom/outputs"], strict=True):
            factors = torch.tensor([[zy, zx]], dtype=torch.float32)
            ours = zoom(image[None] / 255, factors)[0].permute(1, 2, 0).numpy() * 255
            np.testing.assert_allclose(ours, expected, atol=0.01)


def test_nearest_resize_agrees_with_keras() -> None:
    with np.load(KERAS, allow_pickle=False) as reference:
        ours = shrink(reference["resize/image"][None], PreprocessConfig(resize="nearest"))[0]
        assert np.array_equal(ours, reference["resize/output"])


def test_area_resize_is_the_rounded_mean_of_each_block() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    ours = shrink(patches, PreprocessConfig(resize="area"))
    mean = patches.reshape(4, 32, 3, 32, 3, 3).mean(axis=(2, 4))
    assert np.array_equal(ours, np.floor(mean + 0.5).astype(np.uint8))


def test_a_crop_keeps_the_centre() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    assert np.array_equal(shrink(patches, PreprocessConfig(crop_px=32, size_px=32)), patches[:, 32:64, 32:64])


def test_the_symmetries_are_eight_and_undo_each_other(images: torch.Tensor) -> None:
    views = [apply_symmetry(images, k) for k in SYMMETRIES]
    for first in range(8):
        for second in range(first):
            assert not torch.equal(views[first], views[second])
    assert torch.equal(views[0], images)
    assert torch.equal(apply_symmetry(views[1], 3), images)
    assert torch.equal(apply_symmetry(views[6], 6), images)


def test_each_image_is_turned_by_its_own_symmetry(images: torch.Tensor) -> None:
    numbers = torch.tensor([3, 0, 7, 1, 5, 2, 4, 6])
    turned = turn(images, numbers)
    for row, number in enumerate(numbers.tolist()):
        assert torch.equal(turned[row], apply_symmetry(images[row : row + 1], number)[0])


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(symmetries="flips")])
def test_label_safe_augmentation_keeps_tissue_on_its_side_of_the_centre(config: AugmentConfig) -> None:
    centre = torch.zeros(32, 3, 96, 96)
    centre[:, :, 32:64, 32:64] = 1
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(apply(centre, draw(config, 32, generator)), centre)


def test_stain_jitter_of_one_leaves_the_image_and_never_moves_tissue(images: torch.Tensor) -> None:
    still = stain(images, torch.ones(8, 3))
    torch.testing.assert_close(still, images.clamp(min=1 / 255), atol=1e-5, rtol=0)
    changed = stain(images, torch.full((8, 3), 1.2))
    one_pixel = stain(images[:, :, 5:6, 7:8], torch.full((8, 3), 1.2))
    torch.testing.assert_close(changed[:, :, 5:6, 7:8], one_pixel)


def test_more_of_every_stain_scales_the_optical_density(images: torch.Tensor) -> None:
    bright = 0.2 + 0.8 * images
    twice = stain(bright, torch.full((8, 3), 1.5))
    torch.testing.assert_close(-torch.log(twice), -1.5 * torch.log(bright), atol=1e-4, rtol=1e-4)


def test_white_stays_white(images: torch.Tensor) -> None:
    white = torch.ones_like(images)
    torch.testing.assert_close(stain(white, torch.rand(8, 3) + 0.5), white)


def test_draws_are_in_their_ranges_and_follow_the_generator() -> None:
    config = AugmentConfig(zoom_across_centre=0.2, stain_jitter=0.1)
    first, again = (draw(config, 500, torch.Generator().manual_seed(4)) for _ in range(2))
    assert first.zoom is not None
    assert again.zoom is not None
    assert first.symmetry is not None
    assert first.stain is not None
    assert torch.equal(first.zoom, again.zoom)
    assert 0.8 <= first.zoom.min() < 0.82
    assert 1.18 < first.zoom.max() <= 1.2
    assert set(first.symmetry.tolist()) == set(range(8))
    assert first.stain.min() >= 0.9
    assert first.stain.max() <= 1.1


def test_nothing_asked_for_changes_nothing(images: torch.Tensor) -> None:
    config = AugmentConfig(symmetries="none")
    assert torch.equal(apply(images, draw(config, 8, torch.Generator())), images)
