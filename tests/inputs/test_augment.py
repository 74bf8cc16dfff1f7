"""Augmentation: agrees with Keras, keeps tissue on its side of the centre's border, draws reproducibly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rounding import Rounding
from sentinode.config.fit import AugmentConfig
from sentinode.config.run import PreprocessConfig
from sentinode.data.patches import SYMMETRIES, apply_symmetry
from sentinode.inputs.augment import _STAINS, apply, draw, rotate_or_flip, stain, zoom, zoom_by_grid
from sentinode.inputs.preprocess import downsample

pytestmark = pytest.mark.numeric

KERAS = Path(__file__).parents[1] / "models" / "keras_reference.npz"
SEEDS = range(4)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [17, 32, 96])
def test_compiled_zoom_is_the_grid_samplers(size: int) -> None:
    """Of floats and of bytes."""
    rounding = Rounding()
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (9, 3, size, size), dtype=torch.uint8, generator=generator)
        factors = 0.5 + torch.rand(9, 2, generator=generator)
        factors[0] = 1
        images = pixels / 255
        zoomed, by_grid = zoom(images, factors), zoom_by_grid(images, factors)
        assert torch.equal(zoomed[0], images[0])
        rounding.add("floats", zoomed, by_grid, zoom_by_grid(images.double(), factors.double()))
        rounding.add("bytes", zoom(pixels, factors), by_grid, zoom_by_grid(pixels.double() / 255, factors.double()))
    rounding.check()


def test_zoom_agrees_with_keras() -> None:
    """Which has its places in double precision, so it is the truth here, to the last digit of 255."""
    rounding = Rounding()
    with np.load(KERAS, allow_pickle=False) as reference:
        image = torch.from_numpy(reference["zoom/image"].astype(np.float32)).permute(2, 0, 1)[None]
        for (zx, zy), expected in zip(reference["zoom/factors"], reference["zoom/outputs"], strict=True):
            factors = torch.tensor([[zy, zx]], dtype=torch.float32)
            ours, by_grid = zoom(image / 255, factors) * 255, zoom_by_grid(image, factors)
            rounding.add("zoom", ours[0], by_grid[0], torch.from_numpy(expected).permute(2, 0, 1).double())
    rounding.check()


def test_nearest_resize_agrees_with_keras() -> None:
    with np.load(KERAS, allow_pickle=False) as reference:
        ours = downsample(reference["resize/image"][None], PreprocessConfig(resize="nearest"))[0]
        assert np.array_equal(ours, reference["resize/output"])


def test_area_resize_is_the_rounded_mean_of_each_block() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    ours = downsample(patches, PreprocessConfig(resize="area"))
    mean = patches.reshape(4, 32, 3, 32, 3, 3).mean(axis=(2, 4))
    assert np.array_equal(ours, np.floor(mean + 0.5).astype(np.uint8))


def test_a_crop_keeps_the_centre() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    assert np.array_equal(downsample(patches, PreprocessConfig(crop_px=32, size_px=32)), patches[:, 32:64, 32:64])


def test_the_symmetries_are_eight_and_undo_each_other(images: torch.Tensor) -> None:
    views = [apply_symmetry(images, k) for k in SYMMETRIES]
    for first in range(8):
        for second in range(first):
            assert not torch.equal(views[first], views[second])
    assert torch.equal(views[0], images)
    assert torch.equal(apply_symmetry(views[1], 3), images)
    assert torch.equal(apply_symmetry(views[6], 6), images)


def test_each_image_is_rotated_or_flipped_by_its_own_symmetry(images: torch.Tensor) -> None:
    numbers = torch.tensor([3, 0, 7, 1, 5, 2, 4, 6])
    result = rotate_or_flip(images, numbers)
    for row, number in enumerate(numbers.tolist()):
        assert torch.equal(result[row], apply_symmetry(images[row : row + 1], number)[0])


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(symmetries="flips")])
def test_label_safe_augmentation_keeps_tissue_on_its_side_of_the_centre(config: AugmentConfig) -> None:
    centre = torch.zeros(32, 3, 96, 96)
    centre[:, :, 32:64, 32:64] = 1
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(apply(centre, draw(config, 32, generator)), centre)


def stained_step_by_step(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Each pixel's amounts of the stains, scaled, put together again, in the precision of the images."""
    stains = F.normalize(images.new_tensor(_STAINS), dim=1)
    density = -torch.log(images.clamp(min=1 / 255)).permute(0, 2, 3, 1)
    amounts = density @ torch.linalg.inv(stains) * strength[:, None, None, :]
    return torch.exp(-(amounts @ stains)).clamp(0, 1).permute(0, 3, 1, 2)


def test_each_stain_is_scaled_where_it_is() -> None:
    """A strength of one changes nothing; one strength for all stains is a power of the light; no pixel sees another."""
    rounding = Rounding()
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(8, 3, 32, 32, generator=generator)
        same, more, any_strength = (
            torch.ones(8, 3),
            torch.full((8, 3), 1.5),
            0.7 + torch.rand(8, 3, generator=generator),
        )
        light = images.double().clamp(min=1 / 255)
        truth = stained_step_by_step(images.double(), any_strength.double())
        stained = stain(images, any_strength)
        rounding.add("any strength", stained, stained_step_by_step(images, any_strength), truth)
        rounding.add("none changed", stain(images, same), stained_step_by_step(images, same), light)
        rounding.add("more of all", stain(images, more), stained_step_by_step(images, more), light**1.5)
        one_pixel = np.s_[:, :, 5:6, 7:8]
        rounding.add("one pixel", stain(images[one_pixel], any_strength), stained[one_pixel], truth[one_pixel])
    rounding.check()


def test_white_stays_white(images: torch.Tensor) -> None:
    white = torch.ones_like(images)
    assert torch.equal(stain(white, torch.rand(8, 3) + 0.5), white)


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
