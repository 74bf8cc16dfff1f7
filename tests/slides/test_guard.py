"""What is unlike lymph node in H&E is told from what is like it, on real patches where these are at hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from sentinode import read_slide
from sentinode.slides.guard import Look, features, look_at, raw_spacing, spacing_of, spectrum_of


@pytest.fixture(scope="module")
def real_patches(shared: Callable[[str], Path]) -> np.ndarray:
    """Two sets of 50 patches, none of which the guard was made from."""
    table = pd.read_csv(shared("composite_dev.csv")).sample(100, random_state=1)
    with read_slide(shared("composite_dev.tif")) as slide:
        return np.stack([slide.read(0, x, y, 96, 96) for x, y in zip(table["x"], table["y"], strict=True)])


def test_real_patches_are_like_themselves(real_patches: np.ndarray) -> None:
    found = look_at(real_patches)
    assert found.unlike <= 8
    assert found.warnings(0.972) == []


@pytest.mark.parametrize("change", ["glass", "inverted", "blurred", "enlarged"])
def test_what_is_unlike_them_is_warned_of(real_patches: np.ndarray, change: str) -> None:
    some = real_patches[:50]
    match change:
        case "glass":
            some = np.full_like(some, 243)
        case "inverted":
            some = 255 - some
        case "blurred":
            some = np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(3))) for p in some])
        case "enlarged":
            some = np.stack([np.asarray(Image.fromarray(p[36:60, 36:60]).resize((96, 96))) for p in some])
    (told,) = look_at(some).warnings(0.972)
    assert "unlike lymph node in H&E" in told


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
    assert np.isfinite(features(patches)).all()


def test_a_warning_is_chosen_by_what_was_found() -> None:
    fine = Look(100, 3, {"stain": 3}, 1.0)
    assert fine.warnings(0.972) == []
    assert "by their focus" in Look(100, 60, {"focus": 50, "stain": 10}, 1.0).warnings(0.972)[0]
    assert "nuclei look as at 0.5 um/px" in Look(100, 3, {}, 0.5).warnings(0.972)[0]
    assert Look(100, 3, {}, math.nan).warnings(0.972) == []
