"""What is unlike lymph node in H&E is told from what is like it, on real patches where these are at hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from sentinode import read_slide
from sentinode.slides.guard import (
    Look,
    Unlike,
    features_of_cells,
    features_of_patches,
    look_at,
    out_of_focus,
    raw_spacing,
    spacing_of,
    spectrum_of,
    unlike,
)


@pytest.fixture(scope="module")
def real_patches(shared: Callable[[str], Path]) -> np.ndarray:
    """Two sets of 50 patches, none of which the guard was made from."""
    table = pd.read_csv(shared("composite_dev.csv")).sample(100, random_state=1)
    with read_slide(shared("composite_dev.tif")) as slide:
        return np.stack([slide.read(0, x, y, 96, 96) for x, y in zip(table["x"], table["y"], strict=True)])


def look(patches: np.ndarray) -> Look:
    codes = [unlike(features_of_cells(patch))[0, 0] for patch in np.ascontiguousarray(patches)]
    return look_at(np.array(codes), patches)


def test_real_patches_are_like_themselves(real_patches: np.ndarray) -> None:
    found = look(real_patches)
    assert found.unlike <= 4
    assert found.warnings(0.972) == []


@pytest.mark.parametrize("change", ["glass", "inverted", "BGR", "brown", "blurred", "enlarged"])
def test_what_is_unlike_them_is_warned_of(real_patches: np.ndarray, change: str) -> None:
    some = real_patches[:50]
    match change:
        case "glass":
            some = np.full_like(some, 243)
        case "inverted":
            some = 255 - some
        case "BGR":
            some = some[..., ::-1]
        case "brown":
            density = -np.log((some.astype(float) + 1) / 256).sum(axis=3, keepdims=True)
            some = (255 * np.exp(-density / 2.2 * np.array([0.5, 0.9, 1.25]))).astype(np.uint8)
        case "blurred":
            some = np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(3))) for p in some])
        case "enlarged":
            some = np.stack([np.asarray(Image.fromarray(p[36:60, 36:60]).resize((96, 96))) for p in some])
    found = look(some)
    (told,) = found.warnings(0.972)
    assert "unlike lymph node in H&E" in told
    if change in ("BGR", "brown"):
        assert max(found.aspects, key=found.aspects.__getitem__) == "channels"


def test_a_block_is_looked_at_as_its_patches_are(tissue_rgb: np.ndarray) -> None:
    """But for the differences across a patch's right edge, which a block knows and a patch does not."""
    block = tissue_rgb[100 : 100 + 32 * 9, 160 : 160 + 32 * 10]
    found = features_of_cells(block)
    assert found.shape == (7, 8, 15)
    alone = features_of_cells(np.ascontiguousarray(block[64:160, 96:192]))[0, 0]
    assert np.abs(found[2, 3] - alone).max() < 0.05
    without_edges = [k for k in range(15) if k not in (5, 6, 7, 8)]
    assert np.allclose(found[2, 3, without_edges], alone[without_edges], atol=1e-4)
    for cell_px in (16, 8):
        times = 32 // cell_px
        assert np.allclose(features_of_cells(block, cell_px)[::times, ::times], found, atol=1e-3)


def test_patches_together_get_the_numbers_of_each_alone(tissue_rgb: np.ndarray) -> None:
    patches = np.stack([tissue_rgb[k : k + 96, 5 * k : 5 * k + 96] for k in range(0, 90, 9)])
    patches[3], patches[6] = 0, 255
    alone = np.concatenate([features_of_cells(patch)[0] for patch in patches])
    np.testing.assert_array_equal(features_of_patches(patches), alone)


def test_what_is_out_of_focus_is_told_from_what_is_sharp_or_flat(tissue_rgb: np.ndarray) -> None:
    sharp = tissue_rgb[100 : 100 + 32 * 9, 160 : 160 + 32 * 9]
    assert out_of_focus(features_of_cells(sharp)).shape == (7, 7)
    assert not out_of_focus(features_of_cells(sharp)).any()
    assert not out_of_focus(features_of_cells(np.full_like(sharp, 243))).any()
    soft = ndimage.gaussian_filter(sharp.astype(float), (3, 3, 0)).astype(np.uint8)
    assert out_of_focus(features_of_cells(soft)).mean() > 0.85  # some of it shows too little to tell


@pytest.mark.parametrize("spacing", [0.5, 0.7, 1.4])
def test_nuclei_tell_the_spacing(real_patches: np.ndarray, spacing: float) -> None:
    side = round(96 * 0.972 / spacing)
    margin = max(side - 96, 0) // 2
    for some in (real_patches[:50], real_patches[50:]):
        made = np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.LANCZOS)) for p in some])
        made = made[:, margin : margin + 96, margin : margin + 96]
        assert spacing_of(made) == pytest.approx(spacing, rel=0.2)


def test_a_spectrum_lies_on_itself_at_its_own_spacing() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    spectrum = spectrum_of(patches)
    assert raw_spacing(spectrum, spectrum, 0.972) == pytest.approx(0.972)
    assert math.isnan(spacing_of(np.full((3, 96, 96, 3), 200, np.uint8)))
    assert np.isfinite(features_of_cells(patches[0])).all()


def test_a_warning_is_chosen_by_what_was_found() -> None:
    assert [what.word for what in (Unlike.NOTHING, Unlike.STAIN)] == ["", "unlike stain"]
    fine = Look(100, 3, {"stain": 3}, 1.0)
    assert fine.warnings(0.972) == []
    assert "by their focus" in Look(100, 60, {"focus": 50, "stain": 10}, 1.0).warnings(0.972)[0]
    assert "nuclei look as at 0.5 um/px" in Look(100, 3, {}, 0.5).warnings(0.972)[0]
    assert Look(100, 3, {}, math.nan).warnings(0.972) == []
