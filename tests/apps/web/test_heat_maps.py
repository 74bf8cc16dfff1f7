"""Heat maps over HTTP are the cells that `sentinode slides` wrote: each tile of each level, each cell, all lesions."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sentinode import Classifier
from sentinode.apps.web.deep_zoom import Slides
from sentinode.apps.web.server import application
from sentinode.apps.web.service import Service
from sentinode.apps.web.uploads import Limits
from sentinode.slides.guard import Unlike
from sentinode.slides.heatmap import Grid, HeatMap
from sentinode.slides.lesions import lesions_in
from sentinode.slides.outputs import CELLS, LESIONS, Request, SlideRecord, write_results
from sentinode.slides.tissue import Reason

ROWS, COLUMNS = 260, 310
STEP = (32.9218, 33.0)  # no whole number: cells.csv rounds the corners
SIZE = int(COLUMNS * STEP[0]) - 5, int(ROWS * STEP[1]) - 5
STRANGE = "a b&<i>"


def heat_map_of_chance() -> HeatMap:
    rng = np.random.default_rng(3)
    reason = rng.choice(7, (ROWS, COLUMNS), p=[0.3, 0.6, 0.02, 0.02, 0.02, 0.02, 0.02]).astype(np.uint8)
    judged = reason == Reason.JUDGED
    unlike = np.where(judged, rng.choice(7, (ROWS, COLUMNS)), 0).astype(np.uint8)
    layers = [np.where(judged, rng.random((ROWS, COLUMNS)), np.nan).astype(np.float32) for _ in range(2)]
    return HeatMap(Grid(ROWS, COLUMNS, STEP, (31.1, 31.1)), *layers, reason, unlike)


def write(folder: Path, found: HeatMap) -> SlideRecord:
    """What `sentinode slides` writes of a heat map."""
    tissue = int(np.isin(found.reason, (0, *(reason for reason in Reason if reason > Reason.PADDING))).sum())
    lesions = lesions_in(found, np.nan_to_num(found.probability) > 0.999)
    record = SlideRecord(
        slide="x.png", model="run", judged_spacing=(0.97, 0.97), level=0, width_px=SIZE[0], height_px=SIZE[1],
        request=Request("m" * 64, "s" * 64, (0.97, 0.97), "file", 0.999, None, False, None, "1"), rows=ROWS,
        columns=COLUMNS, step=STEP, step_um=(31.1, 31.1), tissue_mm2=1.0, tissue_cells=tissue, judged_cells=1,
        left_out={}, threshold_rule="as given", networks_disagree=True, parity=None, look=None, max_probability=1.0,
        mean_probability=0.5, lesions=tuple(lesions), lesions_not_drawn=0, note="", warnings=(),
    )  # fmt: skip
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "thumbnail.png")
    write_results(folder, found, record, Image.new("RGB", (64, 64)))
    return record


@pytest.fixture(scope="module")
def found() -> HeatMap:
    return heat_map_of_chance()


@pytest.fixture(scope="module")
def results(found: HeatMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("judged")
    (place / "slides").mkdir()
    for name in (STRANGE, "other"):
        Image.new("RGB", (200, 100), "white").save(place / "slides" / f"{name}.png")
    write(place / "out" / STRANGE, found)
    return place


@pytest.fixture(scope="module")
def client(classifier: Classifier, results: Path) -> Iterator[TestClient]:
    service = Service(classifier, "", maps="none", limits=Limits(), slides=Slides(results / "slides", results / "out"))
    with TestClient(application(service), base_url="http://localhost") as client:
        yield client


OF_SLIDE = "/v1/slides/a%20b%26%3Ci%3E"


def levels_of(layer: np.ndarray) -> np.ndarray:
    known = ~np.isnan(layer)
    return np.where(known, 1 + np.rint(254 * np.where(known, layer, 0)), 0).astype(np.uint8)


@pytest.mark.parametrize("layer", ["probability", "disagreement"])
def test_tiles_of_every_level_are_the_cells_and_of_coarser_ones_the_greatest(
    client: TestClient, found: HeatMap, layer: str
) -> None:
    card = client.get(OF_SLIDE).json()["heat_map"]
    assert (card["layers"], card["tile"], card["max_level"]) == (["probability", "disagreement"], 256, 9)
    expected = levels_of(getattr(found, layer))
    for level in range(card["max_level"], -1, -1):
        rows, columns = (math.ceil(side / 2 ** (card["max_level"] - level)) for side in (ROWS, COLUMNS))
        whole = np.zeros((rows, columns), np.uint8)
        for row in range(math.ceil(rows / 256)):
            for column in range(math.ceil(columns / 256)):
                answer = client.get(f"{OF_SLIDE}/heatmap_files/{layer}/{level}/{column}_{row}.png")
                assert answer.headers["content-type"] == "image/png"
                tile = np.asarray(Image.open(io.BytesIO(answer.content)))
                whole[row * 256 : row * 256 + 256, column * 256 : column * 256 + 256] = tile  # raises for another size
        np.testing.assert_array_equal(whole, expected, err_msg=f"level {level}")
        even = np.pad(expected, ((0, rows % 2), (0, columns % 2)))
        expected = even.reshape(len(even) // 2, 2, -1, 2).max(axis=(1, 3))


def test_any_cell_is_found_by_a_pixel_of_it(client: TestClient, found: HeatMap) -> None:
    rng = np.random.default_rng(4)
    places = rng.random((150, 2)) * SIZE
    for x, y in [(0, 0), (SIZE[0] - 1, SIZE[1] - 1), (SIZE[0] - 1, 0), (0, SIZE[1] - 1), *places.tolist()]:
        said = client.get(f"{OF_SLIDE}/cells?x={x}&y={y}").json()
        cell = int(y // STEP[1]), int(x // STEP[0])
        reason, unlike = Reason(found.reason[cell]), Unlike(found.unlike[cell])
        assert said["reason"] == (unlike.word if reason is Reason.JUDGED else reason.word)
        for layer in ("probability", "disagreement"):
            value = float(getattr(found, layer)[cell])
            assert said[layer] == (None if math.isnan(value) else pytest.approx(value, abs=1e-6))
    assert client.get(f"{OF_SLIDE}/cells?x={SIZE[0]}&y=0").status_code == 404
    for wrong in ("x=-1&y=0", "x=nan&y=0", "x=inf&y=0", "x=1", "x=1e300&y=1"):
        assert client.get(f"{OF_SLIDE}/cells?{wrong}").status_code == 422


def test_the_shares_of_reasons_are_those_of_the_cells(client: TestClient, found: HeatMap) -> None:
    said = client.get(OF_SLIDE).json()["heat_map"]["reasons"]
    tissue = (found.reason == Reason.JUDGED) | (found.reason > Reason.PADDING)
    assert said["blur"] == pytest.approx((found.reason == Reason.BLUR).sum() / tissue.sum())
    assert said["unlike stain"] == pytest.approx((found.unlike == Unlike.STAIN).sum() / tissue.sum())
    assert len(said) == 4 + 6
    assert "glass" not in said


def test_lesions_are_the_file_that_was_written(client: TestClient, results: Path) -> None:
    answer = client.get(f"{OF_SLIDE}/lesions.geojson")
    assert answer.headers["content-type"] == "application/geo+json"
    assert answer.content == (results / "out" / STRANGE / LESIONS).read_bytes()
    assert answer.json()["features"]


@pytest.mark.parametrize(
    "path",
    ["heatmap_files/probability/10/0_0.png", "heatmap_files/probability/-1/0_0.png", "heatmap_files/reason/0/0_0.png",
     "heatmap_files/probability/9/2_0.png", "heatmap_files/probability/9/0_-1.png", "heatmap_files/..%2f/0/0_0.png",
     "heatmap_files/probability/99999999999999999999/0_0.png"],
)  # fmt: skip
def test_what_is_not_there_is_told_in_one_line(client: TestClient, path: str) -> None:
    answer = client.get(f"{OF_SLIDE}/{path}")
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].isprintable()


def test_a_heat_map_that_cannot_be_read_here_says_what_is_missing(
    classifier: Classifier, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    slides = Slides(results / "slides", results / "out")
    client = TestClient(
        application(Service(classifier, "", maps="", limits=Limits(), slides=slides)), base_url="http://localhost"
    )
    answer = client.get(f"{OF_SLIDE}/heatmap.png")
    assert answer.status_code == 501
    assert "pip install 'sentinode[slides]'" in answer.json()["detail"]


def test_a_slide_that_was_not_judged_has_none_of_it(client: TestClient) -> None:
    assert client.get("/v1/slides/other").json()["heat_map"] is None
    for path in ("heatmap.png", "lesions.geojson", "cells?x=0&y=0", "heatmap_files/probability/0/0_0.png"):
        answer = client.get(f"/v1/slides/other/{path}")
        assert answer.status_code == 404
        assert "has no heat map" in answer.json()["detail"]


def test_files_that_change_are_no_longer_believed_and_new_ones_are(
    classifier: Classifier, found: HeatMap, tmp_path: Path
) -> None:
    (tmp_path / "slides").mkdir()
    Image.new("RGB", (200, 100), "white").save(tmp_path / "slides" / "x.png")
    service = Service(classifier, "", maps="", limits=Limits(), slides=Slides(tmp_path / "slides", tmp_path / "out"))
    client = TestClient(application(service), base_url="http://localhost")
    assert client.get("/v1/slides/x").json()["heat_map"] is None
    write(tmp_path / "out" / "x", found)
    assert client.get("/v1/slides/x").json()["heat_map"]["rows"] == ROWS
    with (tmp_path / "out" / "x" / CELLS).open("a") as file:
        file.write("\n")
    answer = client.get("/v1/slides/x/heatmap.png")
    assert answer.status_code == 409
    assert str(tmp_path) not in json.dumps(answer.json())
