"""Every cell of tissue has the probability of the patch whose centre it is, and a lost one its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from sentinode import Classifier, heat_map, judge_slides, read_slide
from sentinode.config.run import PreprocessConfig
from sentinode.errors import ConfigError, DataError
from sentinode.inference.classifier import NetworkInputs
from sentinode.slides import heatmap
from sentinode.slides.heatmap import BLOCK_CELLS, Grid, Sweep, judge_blocks, judge_places
from sentinode.slides.tissue import Reason
from slides.conftest import GLASS, classifier_of, destroy_tile, write_pyramid


def patch_around(rgb: np.ndarray, row: int, column: int, cell_px: int = 32) -> np.ndarray:
    """The 96 x 96 pixels whose centre is a cell, with white beyond the image."""
    padded = np.pad(rgb, ((96, 96), (96, 96), (0, 0)), constant_values=255)
    top, left = (cell_px * at + cell_px // 2 + 48 for at in (row, column))
    return padded[top : top + 96, left : left + 96]


@pytest.mark.parametrize("stride", [32, 16])
def test_a_cell_is_judged_by_the_patch_whose_centre_it_is(
    slide: Path, tissue_rgb: np.ndarray, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    monkeypatch.setattr(heatmap, "BLOCK_CELLS", 5 * 32 // stride)  # several blocks, the last of them cut off
    with read_slide(slide) as found:
        drawn = heat_map(found, classifier, stride=stride)
    assert drawn.probability.shape == (-(-600 // stride), 800 // stride)
    rows, columns = np.nonzero(drawn.reason == Reason.JUDGED)
    assert len(rows) > 150 * (32 // stride) ** 2 * 0.8  # finer cells follow the rim of the tissue
    patches = np.stack([patch_around(tissue_rgb, *at, stride) for at in zip(rows, columns, strict=True)])
    expected = classifier(patches)
    assert np.abs(drawn.probability[rows, columns] - expected).max() < 1e-6
    assert np.isnan(drawn.probability[drawn.reason != Reason.JUDGED]).all()


def test_all_tissue_is_judged(slide: Path, classifier: Classifier) -> None:
    with read_slide(slide) as found:
        drawn = heat_map(found, classifier)
    painted = np.zeros((608, 800), bool)
    painted[90:510, 150:530] = True
    touched = painted.reshape(19, 32, 25, 32).any(axis=(1, 3))
    assert (drawn.reason[touched] == Reason.JUDGED).mean() > 0.9  # a section has vessels and cracks, too
    assert not (drawn.reason[~ndimage.binary_dilation(touched)] == Reason.JUDGED).any()


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_marker_of_one_pixel_lies_in_its_cell(corner: tuple[int, int], stride: int) -> None:
    """The model says how dark the darkest pixel of a cell is: it sees it in that cell alone."""
    rgb = np.full((600, 800, 3), 200, np.uint8)
    rgb[corner] = 0
    shape = -(-600 // stride), 800 // stride

    class Darkest(Classifier):
        def __init__(self) -> None:
            """Without any network."""

        def prepared(self, rgb: np.ndarray, cells: np.ndarray, *, cell_px: int, dense: bool = False) -> NetworkInputs:
            rows, columns = cells.shape
            margin = (96 - cell_px) // 2
            own = rgb[margin:-margin, margin:-margin].reshape(rows, cell_px, columns, cell_px, 3)
            return NetworkInputs({PreprocessConfig(): own.transpose(0, 2, 1, 3, 4)[cells]}, int(cells.sum()), 0)

        def on_prepared(self, prepared: NetworkInputs) -> tuple[np.ndarray, np.ndarray]:
            (cells,) = prepared.patches.values()
            return 1 - cells.min(axis=(1, 2, 3)) / 255, np.full(prepared.count, np.nan)

    plane = read_slide(rgb, spacing=0.972).plane(0.972)
    found = np.full(shape, np.nan)
    for block in judge_blocks(Sweep(plane, Darkest(), stride), np.full(shape, Reason.JUDGED, np.uint8)):
        found[block.rows, block.columns] = block.probability
    assert found[corner] == 1
    assert (found == 1).sum() == 1


def test_networks_that_disagree_say_so(slide: Path) -> None:
    with read_slide(slide) as found:
        alone, two = heat_map(found, classifier_of(1)), heat_map(found, classifier_of(1, 2))
        other = heat_map(found, classifier_of(2))
    assert np.isnan(alone.disagreement).all()
    judged = two.reason == Reason.JUDGED
    each = np.stack([alone.probability[judged], other.probability[judged]])
    assert np.allclose(two.probability[judged], each.mean(axis=0), atol=1e-6)
    assert np.allclose(two.disagreement[judged], each.std(axis=0), atol=1e-6)


def test_a_damaged_tile_takes_only_the_cells_whose_patches_it_touches(
    tmp_path: Path, slide: Path, tissue_rgb: np.ndarray, classifier: Classifier
) -> None:
    damaged = write_pyramid(tmp_path / "damaged.tif", tissue_rgb)
    destroy_tile(damaged, 2 * 7 + 3)  # pixels 256 to 384 of rows, 384 to 512 of columns
    with read_slide(slide) as whole, read_slide(damaged) as torn:
        before, after = heat_map(whole, classifier), heat_map(torn, classifier)
    lost = after.reason == Reason.UNREADABLE
    rows, columns = np.nonzero(lost)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 12, 11, 16)
    assert np.array_equal(before.probability[~lost], after.probability[~lost], equal_nan=True)


def test_places_are_judged_alone_whatever_they_show(
    slide: Path, tissue_rgb: np.ndarray, classifier: Classifier
) -> None:
    centres = np.array([[300.0, 300.0], [301.0, 299.0], [10.0, 10.0]])
    with read_slide(slide) as found:
        probability, _ = judge_places(found.plane(0.972), classifier, centres)
    assert np.array_equal(probability[0], classifier(tissue_rgb[None, 252:348, 252:348])[0])
    assert np.array_equal(probability[1], classifier(tissue_rgb[None, 251:347, 253:349])[0])
    assert np.isfinite(probability).all()


def test_a_slide_without_tissue_is_an_error(classifier: Classifier) -> None:
    with pytest.raises(DataError, match="shows no tissue"):
        heat_map(read_slide(np.full((400, 400, 3), GLASS, np.uint8), spacing=0.5), classifier)


def test_the_grid_begins_at_the_origin_in_pixels_of_level_0() -> None:
    grid = Grid.of(read_slide(np.zeros((1000, 2000, 3), np.uint8), spacing=(0.243, 0.486)).plane(0.972))
    assert grid == Grid(16, 16, (128.0, 64.0), (31.104, 31.104))
    assert grid.cell_mm2 == pytest.approx(0.031104**2)
    assert BLOCK_CELLS * 32 == 1024


def test_another_stride_is_refused_in_one_line(slide: Path, classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^stride: 24 is no side of a cell\. Give 32, 16 or 8\.$"):
        heat_map(read_slide(slide), classifier, stride=24)
    with pytest.raises(ConfigError, match="is no side of a cell"):
        judge_slides(tmp_path / "run", slide, tmp_path / "out", stride=0)
    with pytest.raises(ConfigError, match="single places have no cells"):
        judge_slides(tmp_path / "run", slide, tmp_path / "out", stride=16, at=tmp_path / "places.csv")
    assert list(tmp_path.iterdir()) == [slide]


def test_on_real_tissue_the_heat_map_says_what_predict_does(
    shared: Callable[[str], Path], classifier: Classifier, tmp_path: Path
) -> None:
    """A piece of the composite; of all its labelled patches, those on the grid."""
    table = pd.read_csv(shared("composite_dev.csv"))
    with read_slide(shared("composite_dev.tif")) as slide:
        rgb = slide.read(0, 0, 0, 1024, 1024)
    on_grid = table[(table["x"] % 32 == 0) & (table["y"] % 32 == 0) & (table[["x", "y"]].max(axis=1) <= 1024 - 96)]
    Image.fromarray(rgb).save(tmp_path / "piece.png")
    drawn = heat_map(read_slide(tmp_path / "piece.png", spacing=0.972), classifier)
    patches = np.stack([rgb[y : y + 96, x : x + 96] for x, y in zip(on_grid["x"], on_grid["y"], strict=True)])
    found = drawn.probability[on_grid["y"] // 32 + 1, on_grid["x"] // 32 + 1]
    judged = ~np.isnan(found)
    assert judged.sum() > 10
    assert np.abs(found - classifier(patches))[judged].max() < 1e-5
