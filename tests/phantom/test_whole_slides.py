"""Phantom slides: read back without loss, the same for the same seed, with what was planted where it is said to be."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from scipy.spatial.distance import pdist

from sentinode import read_slide
from sentinode.errors import DataError
from sentinode.phantom import whole_slides
from sentinode.phantom.tissue import paint_section
from sentinode.phantom.whole_slides import SLIDE_DEFECTS, asap_xml, paint_slide, write_pyramid, write_whole_slides
from sentinode.phantom.zones import Planted


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Slides of a few tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_slides, "_SIDE_PX", dict.fromkeys(["negative", "itc", "micro", "macro"], 300))
        patch.setattr(whole_slides, "_MARGIN_PX", 40)
        patch.setitem(whole_slides._RADII_UM, "micro", (60, 70))
        patch.setitem(whole_slides._RADII_UM, "macro", (90, 100))
        patch.setattr(whole_slides, "_EMPTY_PX", 1500)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One slide of each defect, and three without."""
    return write_whole_slides(tmp_path_factory.mktemp("slides") / "dest", 12, defects=SLIDE_DEFECTS, seed=4)


def of_defect(folder: Path, defect: str) -> Path:
    table = pd.read_csv(folder / "reference.csv", keep_default_na=False)
    return folder / "slides" / f"{table.loc[table['defect'] == defect, 'slide'].iloc[0]}.tif"


def test_openslide_reads_a_pyramid_without_loss(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    write_pyramid(tmp_path / "a.tif", rgb)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((900, 700), (450, 350), (225, 175))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.972)
        assert np.array_equal(np.asarray(slide.read_region((0, 0), 0, (900, 700)))[..., :3], rgb)
        halved = np.asarray(Image.fromarray(rgb).reduce(2))
        assert np.array_equal(np.asarray(slide.read_region((0, 0), 1, (450, 350)))[..., :3], halved)


def test_the_same_seed_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    def written(name: str, seed: int) -> dict[str, bytes]:
        folder = write_whole_slides(tmp_path / name, 2, seed=seed)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = written("a", 5)
    assert set(first) == {
        "slides/slide-001.tif", "slides/slide-002.tif", "annotations/slide-002.xml", "masks/slide-002.png",
        "reference.csv", "phantom.json",
    }  # fmt: skip
    assert written("b", 5) == first
    assert written("c", 6)["slides/slide-001.tif"] != first["slides/slide-001.tif"]


def test_tumour_is_painted_within_its_outline_and_nowhere_else() -> None:
    rng = np.random.default_rng(2)
    lesion = whole_slides._plant("macro", rng, 300)[0]
    planted = Planted(whole_slides._level(lesion, 300), np.empty((0, 2), np.int64))
    tumour = paint_section(rng, side_px=300, tumour_share=0.0, planted=planted).tumour
    outlined = Image.new("1", (300, 300))
    ImageDraw.Draw(outlined).polygon([(x, y) for x, y in lesion.outline.tolist()], fill=1)
    differing = tumour != np.asarray(outlined)
    assert differing.sum() < 0.03 * tumour.sum()
    assert tumour.mean() > 0.2
    assert not paint_section(
        rng, side_px=300, tumour_share=0.0, planted=Planted(np.full((300, 300), -1.0, np.float32), planted.cells)
    ).tumour.any()


def test_kinds_have_the_sizes_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    for kind, low, high in (("macro", 2000, 3000), ("micro", 200, 2000), ("itc", 0, 200)):
        largest = whole_slides._plant(kind, rng, 2900)[0]
        low_px, high_px = whole_slides._RADII_UM[kind]
        longest = pdist(largest.outline).max() * 0.972
        assert longest >= 2 * low_px
        assert longest <= max(2.8 * high_px, 60)
        assert low == 0 or low < high


def test_annotations_are_asaps(folder: Path) -> None:
    _, lesions = paint_slide("micro", np.random.default_rng(1))
    root = ElementTree.fromstring(asap_xml(lesions))
    found = root.findall("./Annotations/Annotation")
    assert len(found) == len(lesions)
    corners = [(float(c.get("X", "")), float(c.get("Y", ""))) for c in found[0].iter("Coordinate")]
    assert np.allclose(corners, lesions[0].outline, atol=0.006)
    table = pd.read_csv(folder / "reference.csv", keep_default_na=False)
    tumour = table.loc[table["type"] == "Tumor", "slide"]
    assert {path.stem for path in (folder / "annotations").iterdir()} == set(tumour)
    assert (table["type"] == "Tumor").mean() == 0.5


def test_every_defect_is_there(folder: Path) -> None:
    with read_slide(of_defect(folder, "no spacing")) as slide:
        assert slide.spacing is None
    with read_slide(of_defect(folder, "wrong spacing")) as slide:
        assert slide.spacing == pytest.approx((3.888, 3.888))
    with read_slide(of_defect(folder, "one level")) as slide:
        assert len(slide.levels) == 1
    with read_slide(of_defect(folder, "damaged tile")) as slide:
        size = slide.levels[0]
        _, lost = slide.read_what_can_be(0, 0, 0, size.width, size.height)
        assert lost is not None
        assert 0 < lost.mean() < 0.5
    with read_slide(of_defect(folder, "black padding")) as slide:
        assert (slide.overview(8.0).rgb == 0).all(axis=2).mean() > 0.3
    with read_slide(of_defect(folder, "two sections")) as slide:
        assert slide.levels[0].width == 2 * slide.levels[0].height
    with read_slide(of_defect(folder, "glass")) as slide:
        assert slide.levels[0].width > 1500


def test_what_cannot_be_painted_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="cannot be painted"):
        write_whole_slides(tmp_path / "a", 1, defects=["pen", "pale"])
    with pytest.raises(DataError, match="is there already"):
        write_whole_slides(folder, 3, seed=4)
    assert write_whole_slides(folder, 12, defects=SLIDE_DEFECTS, seed=4) == folder
