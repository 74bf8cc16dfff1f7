"""Tiles are the slide's own pixels at every level, and no name leads out of the folder."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sentinode import Classifier
from sentinode.api.slides import judge_slides
from sentinode.apps.web.deep_zoom import Slides
from sentinode.apps.web.server import application
from sentinode.apps.web.service import Service
from sentinode.apps.web.uploads import Limits
from sentinode.phantom.tissue import paint_section
from sentinode.phantom.whole_slides import write_pyramid
from sentinode.session import Session
from sentinode.slides.outputs import open_heat_map, open_slide_record

WIDTH, HEIGHT = 1100, 700
SMOOTH = np.stack(
    [np.broadcast_to(axis, (HEIGHT, WIDTH)) for axis in (
        np.linspace(0, 255, WIDTH)[None], np.linspace(0, 255, HEIGHT)[:, None], np.full((1, 1), 90.0))], axis=-1,
).astype(np.uint8)  # fmt: skip
NAME = "a b&<i>.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "slides"
    place.mkdir()
    Image.fromarray(SMOOTH).save(place / NAME)
    Image.fromarray(SMOOTH).save(tmp_path / "secret.png")
    return place


def tile(slides: Slides, *place: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(slides.tile(Path(NAME).stem, *place))).convert("RGB"))


def test_tiles_of_every_level_make_up_the_slide(folder: Path) -> None:
    slides = Slides(folder, None)
    last = math.ceil(math.log2(WIDTH))
    for level in range(last + 1):
        scale = 2 ** (last - level)
        width, height = math.ceil(WIDTH / scale), math.ceil(HEIGHT / scale)
        whole = np.zeros((height, width, 3), np.uint8)
        for row in range(math.ceil(height / 256)):
            for column in range(math.ceil(width / 256)):
                found = tile(slides, level, column, row)
                whole[row * 256 : row * 256 + 256, column * 256 : column * 256 + 256] = found  # raises for another size
        expected = Image.fromarray(SMOOTH).resize((width, height), Image.Resampling.BOX)
        if height >= 16:  # two pixels of a gradient, and JPEG's own error
            apart = np.abs(whole.astype(int) - np.asarray(expected, int))
            assert apart.max() <= 2 * 255 / height + 12, level


def service_client(classifier: Classifier, slides: Slides | None) -> TestClient:
    service = Service(classifier, "", maps="none", limits=Limits(), slides=slides)
    return TestClient(application(service), base_url="http://localhost", raise_server_exceptions=False)


def test_slides_are_served_by_name_and_nothing_else_is(classifier: Classifier, folder: Path) -> None:
    with service_client(classifier, Slides(folder, None)) as client:
        assert client.get("/v1/slides").json() == {"slides": ["a b&<i>"]}
        said = client.get("/v1/slides/a%20b%26%3Ci%3E").json()
        assert (said["width_px"], said["height_px"], said["heat_map"]) == (WIDTH, HEIGHT, None)
        found = client.get("/v1/slides/a%20b%26%3Ci%3E/image_files/11/0_0.jpeg")
        assert found.headers["content-type"] == "image/jpeg"
        assert '<Size Width="1100" Height="700"/>' in client.get("/v1/slides/a%20b%26%3Ci%3E/image.dzi").text
        for name in ("secret", "../secret", "..%2Fsecret", "%2e%2e%2fsecret.png", "a%00b", "%2Fetc%2Fpasswd", "C:%5Cx"):
            for path in ("", "/image.dzi", "/heatmap.png", "/image_files/0/0_0.jpeg"):
                answer = client.get(f"/v1/slides/{name}{path}")
                assert answer.status_code == 404, (name, path)
                assert answer.headers["content-type"] == "application/problem+json"
        for place in ("12/0_0", "-1/0_0", "11/9_0", "11/-1_0", "11/x_0", "99999999999999999999/0_0"):
            answer = client.get(f"/v1/slides/a%20b%26%3Ci%3E/image_files/{place}.jpeg")
            assert answer.status_code in (404, 422), place
            assert "\n" not in answer.json()["detail"]


def test_a_service_without_slides_says_so(classifier: Classifier) -> None:
    with service_client(classifier, None) as client:
        assert client.get("/v1/slides").json() == {"slides": []}
        assert "/v1/slides" in client.get("/v1/slides/x").json()["detail"]
        answer = client.post("/v1/slides?name=x.tif", content=b"", headers={"content-type": "application/octet-stream"})
        assert answer.status_code == 403


def test_a_heat_map_is_that_of_its_folder(served: Path, tmp_path: Path, session: Session) -> None:
    place = tmp_path / "judged"
    place.mkdir()
    rgb = np.full((300, 400, 3), 243, np.uint8)
    rgb[40:260, 50:350] = paint_section(np.random.default_rng(3), side_px=300, tumour_share=0.3).rgb[:220]
    write_pyramid(place / "one.tif", rgb, spacing=0.972)
    judge_slides(served, [place], tmp_path / "out", session=session)
    slides = Slides(place, tmp_path / "out")
    record = open_slide_record(tmp_path / "out" / "one")
    expected = open_heat_map(tmp_path / "out" / "one", record).probability
    levels = np.asarray(Image.open(io.BytesIO(slides.heat_map("one").picture())))
    assert ((levels == 0) == np.isnan(expected)).all()
    judged = levels > 0
    assert judged.any()
    np.testing.assert_allclose((levels[judged] - 1) / 254, expected[judged], atol=0.5 / 254 + 1e-6)
    card = slides.card("one").heat_map
    assert card is not None
    assert (card.rows, card.columns, card.threshold) == (*levels.shape, record.request.threshold)
