"""Tissue is found pale or strong, and what is not tissue is told apart from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from sentinode import read_slide
from sentinode.slides.reader import Overview
from sentinode.slides.tissue import Reason, Tissue, find_tissue

PLACE = np.s_[60:140, 60:180]


def overview(rgb: np.ndarray) -> Overview:
    return Overview(rgb, np.zeros(rgb.shape[:2], bool), (8.0, 8.0), (8.0, 8.0))


@pytest.fixture
def glass() -> np.ndarray:
    return np.random.default_rng(0).integers(240, 245, (200, 240, 3)).astype(np.uint8)


def stained(colour: tuple[int, int, int], shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 4, (*shape, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "colour", [(120, 70, 150), (220, 150, 190), (235, 225, 234)], ids=["haematoxylin", "eosin", "pale"]
)
def test_stained_tissue_is_found_where_it_is(glass: np.ndarray, colour: tuple[int, int, int]) -> None:
    glass[PLACE] = stained(colour, (80, 120))
    found = find_tissue(overview(glass))
    expected = np.zeros(glass.shape[:2], bool)
    expected[PLACE] = True
    assert (found.is_tissue[expected]).mean() > 0.98
    assert (found.is_tissue & ~ndimage.binary_dilation(expected, iterations=4)).sum() == 0
    assert found.area_mm2 == pytest.approx(80 * 120 * 64e-6, rel=0.1)


def test_glass_alone_holds_no_tissue(glass: np.ndarray) -> None:
    assert (find_tissue(overview(glass)).reason == Reason.GLASS).all()
    assert (find_tissue(overview(np.full_like(glass, 255))).reason == Reason.GLASS).all()


def test_fat_between_thin_walls_is_tissue(glass: np.ndarray) -> None:
    for row in range(60, 141, 10):
        glass[row, 60:181] = (225, 190, 215)
    for column in range(60, 181, 10):
        glass[60:141, column] = (225, 190, 215)
    assert find_tissue(overview(glass)).is_tissue[65:135, 65:175].mean() > 0.95


def test_padding_dust_and_dark_edges_are_no_tissue(glass: np.ndarray) -> None:
    glass[:30] = 0
    glass[170:172, :] = 110  # the edge of the coverslip
    glass[100:104, 200:204] = 120  # dust
    found = find_tissue(overview(glass))
    assert (found.reason[:29] == Reason.PADDING).all()
    assert not (found.reason == Reason.JUDGED).any()


@pytest.mark.parametrize("colour", [(20, 110, 50), (30, 50, 150), (200, 30, 40), (35, 35, 38)])
def test_ink_on_tissue_is_named(glass: np.ndarray, colour: tuple[int, int, int]) -> None:
    glass[PLACE] = stained((180, 110, 170), (80, 120))
    glass[80:100, 80:150] = colour
    found = find_tissue(overview(glass))
    assert (found.reason[82:98, 82:148] == Reason.PEN).all()
    assert (found.reason[PLACE] == Reason.JUDGED).mean() > 0.7


def test_tissue_in_two_layers_is_a_fold(glass: np.ndarray) -> None:
    one = stained((190, 130, 185), (80, 120)).astype(float)
    glass[PLACE] = one.astype(np.uint8)
    glass[70:130, 100:110] = (one[10:70, 40:50] ** 2 / 242).astype(np.uint8)  # two layers absorb twice
    found = find_tissue(overview(glass))
    assert (found.reason[75:125, 102:108] == Reason.FOLD).mean() > 0.9
    assert (found.reason[PLACE] == Reason.FOLD).mean() < 0.1


def test_a_cell_is_judged_where_any_tissue_touches_it(glass: np.ndarray) -> None:
    reason = np.full(glass.shape[:2], Reason.GLASS, np.uint8)
    reason[61:140, 61:180] = Reason.JUDGED
    slide = read_slide(np.zeros((1600, 1920, 3), np.uint8), spacing=1.0)
    cells = Tissue(reason, overview(glass)).of_cells(slide.plane(1.0), 32)
    rows, columns = np.nonzero(cells == Reason.JUDGED)
    assert cells.shape == (50, 60)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15, 34, 15, 44)


def test_sections_of_real_slides_are_found(shared: Callable[[str], Path]) -> None:
    """All of the tumour is tissue, and most of the slide is glass."""
    with read_slide(shared("camelyon16_tumor_072_overview.dcm")) as slide:
        found = find_tissue(slide.overview(8.0))
    lesions = np.asarray(Image.open(shared("camelyon16_tumor_072_mask.png")).convert("L")) > 0
    assert found.is_tissue[lesions].mean() > 0.98
    assert 0.25 < found.is_tissue.mean() < 0.5
