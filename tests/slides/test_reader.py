"""Pixels come back as they were written, at the spacing that is asked for, and what is wrong is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sentinode import read_slide
from sentinode.data.images import patch_id
from sentinode.errors import DataError
from sentinode.slides.reader import Slide
from slides.conftest import GLASS, destroy_tile, write_pyramid


def test_a_tiled_tiff_is_read_back_pixel_for_pixel_with_its_levels_and_spacing(
    slide: Path, tissue_rgb: np.ndarray
) -> None:
    with read_slide(slide) as found:
        assert found.spacing == pytest.approx((0.972, 0.972))
        assert [(level.width, level.height, level.downsample) for level in found.levels] == [
            (800, 600, 1),
            (400, 300, 2),
        ]
        assert np.array_equal(found.read(0, 37, 91, 200, 150), tissue_rgb[91:241, 37:237])
        assert np.array_equal(found.read(1, 10, 20, 50, 60), tissue_rgb[::2, ::2][20:80, 10:60])


def test_beyond_the_slide_all_is_white(slide: Path, tissue_rgb: np.ndarray) -> None:
    for source in (slide, tissue_rgb):
        with read_slide(source, spacing=0.972) as found:
            corner = found.read(0, -3, 598, 6, 5)
            assert (corner[2:] == 255).all()
            assert (corner[:, :3] == 255).all()
            assert np.array_equal(corner[:2, 3:], tissue_rgb[598:, :3])


def test_transparent_pixels_are_white_and_never_black(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "half.png")
    rgb = read_slide(tmp_path / "half.png").read(0, 0, 0, 8, 8)
    assert (rgb[:4] == (10, 20, 30)).all()
    assert (rgb[4:] == 255).all()


@pytest.mark.parametrize("name", ["plain.png", "plain.tif", "plain.bmp.tiff"])
def test_plain_images_need_a_spacing(tmp_path: Path, name: str) -> None:
    Image.fromarray(np.full((40, 50, 3), 200, np.uint8)).save(tmp_path / name)
    assert read_slide(tmp_path / name, spacing=(0.5, 0.6)).spacing == (0.5, 0.6)
    with pytest.raises(DataError, match=r"no spacing.*--spacing.*column spacing.*file with one"):
        read_slide(tmp_path / name).plane(0.972)


def test_the_plane_is_the_level_itself_where_spacings_are_the_same(slide: Path, tissue_rgb: np.ndarray) -> None:
    with read_slide(slide) as found:
        plane = found.plane(0.972)
        assert (plane.level, plane.ratio, plane.scale) == (0, (1, 1), (1, 1))
        assert np.array_equal(plane.read(100, 200, 96, 96)[0], tissue_rgb[200:296, 100:196])
        coarse = found.plane(1.944)
        assert (coarse.level, coarse.ratio, coarse.scale) == (1, (1, 1), (2, 2))


@pytest.mark.parametrize("spacing", [(0.243, 0.243), (0.486, 0.243), (0.5, 0.5), (0.4, 0.31)])
def test_a_plane_of_finer_pixels_is_their_area_average(spacing: tuple[float, float]) -> None:
    """Against every fine pixel's share of every coarse one, written out."""
    rgb = np.random.default_rng(0).integers(0, 256, (97, 83, 3), dtype=np.uint8)
    plane = read_slide(rgb, spacing=spacing).plane(0.972)
    found, _ = plane.read(2, 3, 12, 14)
    weights = [
        overlaps(start, count, ratio, n)
        for start, count, ratio, n in zip((3, 2), (14, 12), plane.ratio[::-1], rgb.shape, strict=False)
    ]
    expected = np.einsum("ij,kl,jlc->ikc", *weights, rgb.astype(float))
    assert np.abs(found - expected).max() <= 0.51
    assert plane.spacing == pytest.approx((0.972, 0.972), rel=0.01)


def overlaps(start: int, count: int, ratio: float, size: int) -> np.ndarray:
    edges = (start + np.arange(count + 1)) * ratio
    fine = np.arange(size)
    shared = np.minimum(edges[1:, None], fine + 1) - np.maximum(edges[:-1, None], fine)
    return np.clip(shared, 0, None) / ratio


def test_pixels_do_not_depend_on_how_a_plane_is_cut_into_rectangles() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    plane = read_slide(rgb, spacing=0.41).plane(0.972)
    whole = plane.read(0, 0, 100, 80)[0]
    assert np.array_equal(plane.read(31, 17, 40, 50)[0], whole[17:67, 31:71])


def test_a_slide_that_is_far_too_coarse_is_refused() -> None:
    with pytest.raises(DataError, match="too coarse"):
        read_slide(np.zeros((50, 50, 3), np.uint8), spacing=28.97).plane(0.972)


def test_an_impossible_spacing_is_refused() -> None:
    for spacing in (0.0, -1.0, float("nan"), 2540.0):
        with pytest.raises(DataError, match="no spacing of a slide"):
            read_slide(np.zeros((5, 5, 3), np.uint8), spacing=spacing)


def test_a_damaged_tile_is_an_error_alone_and_white_where_the_rest_is_read(slide: Path, tissue_rgb: np.ndarray) -> None:
    destroy_tile(slide, 8)  # of 7 columns: the second of the second row
    with read_slide(slide) as found:
        with pytest.raises(DataError, match="cannot be decoded"):
            found.read(0, 0, 0, 300, 300)
        rgb, lost = found.read_what_can_be(0, 0, 0, 300, 300)
        assert lost is not None
        where = np.zeros((300, 300), bool)
        where[128:256, 128:256] = True
        assert np.array_equal(lost, where)
        assert (rgb[where] == 255).all()
        assert np.array_equal(rgb[~where], tissue_rgb[:300, :300][~where])
        assert np.array_equal(found.read(0, 0, 0, 100, 100), tissue_rgb[:100, :100])


def test_what_is_no_slide_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a slide")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.tif")
    for name, words in {
        "absent.svs": "is missing",
        ".": "is a directory",
        "notes.txt": "neither a slide",
        "torn.png": "torn.png",
        "deep.tif": "mode I;16",
    }.items():
        with pytest.raises(DataError, match=words) as refused:
            read_slide(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_the_identity_follows_the_content_and_not_the_name(tmp_path: Path, slide: Path, tissue_rgb: np.ndarray) -> None:
    first = read_slide(slide).identity
    moved = slide.rename(tmp_path / "moved.tif")
    assert read_slide(moved).identity == first
    other = write_pyramid(tmp_path / "other.tif", np.full_like(tissue_rgb, GLASS))
    assert read_slide(other).identity != first


def test_a_file_that_openslide_gives_no_hash_is_not_read_whole_to_be_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 1536, 1536, 3), dtype=np.uint8)  # above what is hashed
    files = [write_pyramid(tmp_path / f"{n}.tif", rgb, levels=1) for n, rgb in enumerate(noise)]
    slides = [read_slide(path) for path in files]
    assert "openslide.quickhash-1" not in slides[0].properties
    monkeypatch.setattr(Slide, "read", None)
    first, other = (slide.identity for slide in slides)
    assert first != other
    assert read_slide(files[0].rename(tmp_path / "moved.tif")).identity == first


def test_every_patch_of_a_real_composite_is_read_back(shared: Callable[[str], Path]) -> None:
    table = pd.read_csv(shared("composite_dev.csv"))
    with read_slide(shared("composite_dev.tif")) as found:
        plane = found.plane(0.972)
        ids = [patch_id(plane.read(x, y, 96, 96)[0]) for x, y in zip(table["x"], table["y"], strict=True)]
    assert ids == table["id"].tolist()


def test_real_slides_have_the_spacing_of_their_files(shared: Callable[[str], Path]) -> None:
    with read_slide(shared("CMU-1-Small-Region.svs")) as aperio:
        assert aperio.spacing == (0.499, 0.499)
        assert aperio.plane(0.972).spacing == pytest.approx((0.972, 0.972))
    with read_slide(shared("camelyon16_tumor_072_overview.dcm")) as dicom:
        assert dicom.spacing == pytest.approx((28.969, 28.968))
    assert read_slide(shared("no-spacing.svs")).spacing is None
