"""Slides that clients send are shown and judged like others, bounded before they are read, and never kept."""

from __future__ import annotations

import asyncio
import io
import struct
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sentinode import Classifier
from sentinode.apps.web import service as service_module
from sentinode.apps.web.deep_zoom import Slides
from sentinode.apps.web.jobs import Jobs
from sentinode.apps.web.judge import StoppedError, Task, Told
from sentinode.apps.web.sent_slides import SentSlides
from sentinode.apps.web.server import application
from sentinode.apps.web.service import Service
from sentinode.apps.web.uploads import Limits, RefusedError
from sentinode.artefacts import passing_folder
from sentinode.errors import DataError
from sentinode.phantom.whole_slides import write_pyramid
from sentinode.slides.cohort import SlideRow
from sentinode.slides.judging import SlideSettings

RGB = np.full((300, 400, 3), 243, np.uint8)
RAW = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("own") / "x.tif"
    write_pyramid(path, RGB, spacing=0.972)
    return path.read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("sent", "own"):
        (tmp_path / name).mkdir()
    Image.fromarray(RGB).save(tmp_path / "own" / "here.png")
    return tmp_path


def client_of(classifier: Classifier, place: Path, limits: Limits | None = None) -> TestClient:
    limits, slides = limits or Limits(), Slides(place / "own")
    sent = SentSlides(place / "sent", slides, limits)
    service = Service(classifier, "", maps="", limits=limits, slides=slides, sent=sent)
    return TestClient(application(service), base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture
def client(classifier: Classifier, place: Path) -> Iterator[TestClient]:
    with client_of(classifier, place) as client:
        yield client


def left_in(place: Path) -> list[Path]:
    return [path for path in (place / "sent").rglob("*") if path.is_file()]


def test_a_slide_that_is_sent_is_shown_until_it_is_removed(client: TestClient, place: Path, slide: bytes) -> None:
    answer = client.post("/v1/slides?name=HERE.tif", content=slide, headers=RAW)
    assert answer.status_code == 201, answer.text
    card = answer.json()
    assert (card["name"], card["uploaded"], card["width_px"]) == ("HERE-2", True, 400)  # beside "here"
    assert card["spacing_um_per_px"] == pytest.approx([0.972, 0.972])
    assert client.get("/v1/slides").json() == {"slides": ["here", "HERE-2"]}
    assert client.get("/v1/slides/here").json()["uploaded"] is False
    assert client.get("/v1/slides/HERE-2/image_files/9/0_0.jpeg").status_code == 200
    assert left_in(place)[0].read_bytes() == slide
    assert client.delete("/v1/slides/HERE-2").status_code == 204
    assert left_in(place) == []
    assert client.get("/v1/slides/HERE-2").status_code == client.delete("/v1/slides/HERE-2").status_code == 404
    refused = client.delete("/v1/slides/here")
    assert refused.status_code == 403
    assert (place / "own" / "here.png").exists()


def test_a_picture_gets_the_spacing_that_is_told(client: TestClient) -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG")
    answer = client.post("/v1/slides?name=a%20b.jpeg&spacing=0.5", content=file.getvalue(), headers=RAW)
    assert answer.json()["spacing_um_per_px"] == [0.5, 0.5]


@pytest.mark.parametrize(
    "name", ["../../evil.tif", "..\\evil.tif", "/etc/evil.tif", "a\0b.tif", "a:b|<i>*?.tif", "\u202ea.tif", "x" * 255]
)
def test_no_name_leads_out_of_the_folder(client: TestClient, place: Path, slide: bytes, name: str) -> None:
    name = name if name.endswith(".tif") else f"{'é' * 200}.tif"
    answer = client.post("/v1/slides", params={"name": name}, content=slide, headers=RAW)
    assert answer.status_code == 201, answer.text
    (path,) = left_in(place)
    assert path.parent.parent == place / "sent"
    assert set(path.stem) <= set("evil ab_ié-u202ex")
    assert not any(found.name.startswith("evil") for found in place.iterdir())


def png_header(side: int) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9999) + b"IDAT"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # the command silences its decoders
@pytest.mark.parametrize(
    ("name", "body", "status", "says"),
    [
        ("a.tif", b"", 422, "does not begin"),
        ("a.tif", b"GIF89a" + b"x" * 3_000_000, 422, "does not begin"),
        ("a.tif", b"II*\0" + b"\xff" * 3000, 422, "neither a slide"),
        ("a.svs", b"MM\0+" + b"\0" * 3000, 422, "neither a slide"),
        ("a.png", png_header(9000), 422, "not tiled"),
        ("a.png", png_header(2**30), 422, "not tiled"),
        ("a.png", png_header(100), 422, "cannot be read"),
        ("a.mrxs", b"II*\0", 422, "one file"),
        ("a", b"II*\0", 422, "one file"),
        (".tif", b"II*\0", 422, "one file"),
    ],
)
def test_what_is_no_slide_is_refused_and_leaves_nothing(
    client: TestClient, place: Path, name: str, body: bytes, status: int, says: str
) -> None:
    answer = client.post(f"/v1/slides?name={name}", content=body, headers=RAW)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
    assert str(place) not in answer.json()["detail"]
    assert left_in(place) == []


def test_openslides_own_words_name_no_folder(
    client: TestClient, place: Path, slide: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise DataError(f"OpenSlide cannot read it (Invalid TIFF: {path})", where=path, remedy="")

    for module in ("sent_slides", "deep_zoom"):
        monkeypatch.setattr(f"sentinode.apps.web.{module}.read_slide", refuse)
    for answer in (client.post("/v1/slides?name=a.tif", content=slide, headers=RAW), client.get("/v1/slides/here")):
        assert answer.status_code in (409, 422)
        assert "Invalid TIFF" in answer.json()["detail"]
        assert str(place) not in answer.json()["detail"]


def test_what_is_not_installed_is_named(
    client: TestClient, place: Path, slide: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    answer = client.post("/v1/slides?name=a.tif", content=slide, headers=RAW)
    assert answer.status_code == 501
    assert "pip install 'sentinode[slides]'" in answer.json()["detail"]
    assert left_in(place) == []
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    assert client.post("/v1/slides?name=a.png", content=file.getvalue(), headers=RAW).status_code == 201  # needs none


def test_slides_are_bounded_in_bytes_and_number(classifier: Classifier, place: Path, slide: bytes) -> None:
    limits = Limits(slide_bytes=len(slide), slides=1)
    with client_of(classifier, place, limits) as client:
        assert client.post("/v1/slides?name=a.tif", content=slide + b"x", headers=RAW).status_code == 413
        unannounced = client.post("/v1/slides?name=a.tif", content=iter([slide, b"x"]), headers=RAW)
        assert unannounced.status_code == 413
        assert left_in(place) == []
        assert client.post("/v1/slides?name=a.tif", content=iter([slide]), headers=RAW).status_code == 201
        full = client.post("/v1/slides?name=b.tif", content=slide, headers=RAW)
        assert full.status_code == 409
        assert "Remove one" in full.json()["detail"]
        client.delete("/v1/slides/a")
        assert client.post("/v1/slides?name=b.tif", content=slide, headers=RAW).status_code == 201
        assert client.post("/v1/slides?name=c.tif", content=slide).status_code == 415
        assert client.post("/v1/slides", content=slide, headers=RAW).status_code == 422


def test_a_full_disk_is_no_fault_of_the_service(
    client: TestClient, place: Path, slide: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20})())
    assert client.post("/v1/slides?name=a.tif", content=slide, headers=RAW).status_code == 507
    assert left_in(place) == []


def test_a_client_that_is_slow_or_goes_leaves_nothing(place: Path, slide: bytes) -> None:
    sent = SentSlides(place / "sent", Slides(), Limits(body_s=0.05))

    async def slow() -> AsyncIterator[bytes]:
        yield slide[:1000]
        await asyncio.sleep(10)

    async def gone() -> AsyncIterator[bytes]:
        yield slide[:1000]
        raise asyncio.CancelledError

    with pytest.raises(RefusedError, match="too slowly"):
        asyncio.run(sent.receive("a.tif", None, None, slow()))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(sent.receive("a.tif", None, None, gone()))
    assert left_in(place) == []


def test_what_nobody_asks_for_goes(
    classifier: Classifier, place: Path, slide: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_LOOKED_FOR_UNUSED_S", 0.05)
    with client_of(classifier, place, Limits(slide_s=0.4)) as client:
        client.post("/v1/slides?name=a.tif", content=slide, headers=RAW)
        for _ in range(6):
            time.sleep(0.1)
            assert client.get("/v1/slides/a/image.dzi").status_code == 200  # asked for, again and again
        time.sleep(0.7)
        assert client.get("/v1/slides").json() == {"slides": ["here"]}
        assert left_in(place) == []


class Endless:
    """A judge that is never done."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def judge(self, _task: Task, _told: Told) -> SlideRow:
        self._stop.clear()  # an idle queue stops its judge, too
        self._stop.wait(20)
        raise StoppedError

    def stop(self) -> None:
        self._stop.set()


def test_a_slide_that_is_being_judged_is_still_wanted_and_can_be_removed(
    classifier: Classifier, place: Path, slide: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_LOOKED_FOR_UNUSED_S", 0.05)
    limits, slides = Limits(slide_s=0.3), Slides()
    service = Service(
        classifier, "m", maps="", limits=limits, slides=slides, sent=SentSlides(place / "sent", slides, limits),
        jobs=Jobs(Endless(), "m", SlideSettings(0.5, "default")),
    )  # fmt: skip
    with TestClient(application(service), base_url="http://localhost") as client:
        client.post("/v1/slides?name=a.tif", content=slide, headers=RAW)
        assert client.post("/v1/slides/a/heatmap").status_code == 202
        time.sleep(0.6)
        assert client.get("/v1/slides").json() == {"slides": ["a"]}
        assert client.delete("/v1/slides/a").status_code == 204
        assert client.get("/v1/jobs").json() == {"jobs": []}
        assert left_in(place) == []


def test_the_folder_of_what_is_sent_goes_with_its_process_however_that_ends(tmp_path: Path) -> None:
    with passing_folder(tmp_path) as mine:
        (mine / "slide.tif").write_bytes(b"x")
        (tmp_path / "killed").mkdir()

        def another_service() -> Path:
            with passing_folder(tmp_path) as second:
                assert second != mine
                return second

        with ThreadPoolExecutor(1) as elsewhere:
            second = elsewhere.submit(another_service).result()
        assert not (tmp_path / "killed").exists()  # nobody holds it
        assert (mine / "slide.tif").exists()
    assert not mine.exists()
    assert not second.exists()
