"""The page in a real browser: what people do with it, by mouse, keyboard and link, light and dark, from 390 pixels."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

import sentinode
from browser import Page, needs_browser, opened
from conftest import make_patches
from sentinode import Classifier
from sentinode.api.slides import judge_one_more, judge_slides, model_of, usual_settings
from sentinode.apps.web.deep_zoom import Slides
from sentinode.apps.web.jobs import Jobs
from sentinode.apps.web.judge import Task, Told
from sentinode.apps.web.sent_slides import SentSlides
from sentinode.apps.web.server import application, bound
from sentinode.apps.web.service import Service, ShownMaps
from sentinode.apps.web.uploads import Limits
from sentinode.config.presets import load_preset
from sentinode.data.images import encode_tiff
from sentinode.explain.neighbours import NeighbourSearch
from sentinode.inference.attribution import ExplainedLogit
from sentinode.phantom.tissue import paint_section
from sentinode.phantom.whole_slides import write_pyramid
from sentinode.runs.load import digest_of_model
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override
from sentinode.slides.cohort import SlideRow

pytestmark = needs_browser
PATCHES = np.ascontiguousarray(make_patches(3, seed=5).pixels)
SPACING = 0.972
AXE = importlib.util.find_spec("axe_core_python")
AA = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


def painted(seed: int) -> np.ndarray:
    """A small section on glass."""
    rgb = np.full((500, 600, 3), 243, np.uint8)
    rgb[40:440, 100:500] = paint_section(np.random.default_rng(seed), side_px=400, tumour_share=0.3).rgb
    return rgb


class Here:
    """A judge of slides in this process."""

    def __init__(self, model: Path, session: Session) -> None:
        self._model, self._session = model_of(model, session), session
        self.settings = usual_settings(self._model.classifier, session)

    def judge(self, task: Task, told: Told) -> SlideRow:
        def progress(step: str, done: int, total: int, note: str = "", /) -> None:
            if step == "judge cells":
                told(done, total, note)

        session = replace(self._session, progress=progress)
        return judge_one_more(task[0], self._model, self.settings, task[1], session)

    def stop(self) -> None:
        """What was begun is done by then."""


@pytest.fixture(scope="module")
def pair(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks in one model, which can differ."""
    settings = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1, "split.validation_fraction": 0.5}
    members = {"ensemble.weights": "equal", "ensemble.members": {"one": {}, "other": {"fit.seed": 26}}}
    folder = tmp_path_factory.mktemp("pair") / "run"
    train_run(material, override(load_preset("fair").run_config(), settings | members), folder)
    return folder


@pytest.fixture(scope="module")
def model(pair: Path) -> Classifier:
    return sentinode.load(pair, device="cpu")


@pytest.fixture(scope="module")
def address(
    pair: Path, model: Classifier, material: Material, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of a service with a judged slide and one that is not judged, in a thread of this process."""
    top, digest = tmp_path_factory.mktemp("page"), digest_of_model(pair)
    session = Session(top / "cache", torch.device("cpu"), workers=1)
    (top / "slides").mkdir()
    write_pyramid(top / "slides" / "judged.tif", painted(3), spacing=SPACING)
    judge_slides(pair, [top / "slides"], top / "found", session=session)
    write_pyramid(top / "slides" / "new <b>.tif", painted(4), spacing=SPACING)
    judge = Here(pair, session)
    maps = ShownMaps("occlusion", ExplainedLogit.of(model), 0.5)
    slides, jobs = Slides(top / "slides", top / "found"), Jobs(judge, digest, judge.settings)
    (top / "sent").mkdir()
    sent = SentSlides(top / "sent", slides, Limits())
    nearest = NeighbourSearch(Run.open(pair), material.patches, session=session)
    service = Service(
        model, digest, maps=maps, limits=Limits(), slides=slides, sent=sent, jobs=jobs, neighbours=nearest
    )
    with bound("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(application(service), log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened("about:blank", tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, address: str) -> Iterator[Page]:
    """The page, opened; whatever a test does there, the console shows no error."""
    browser.resize(1280, 900)
    browser.prefer(reduced_motion="reduce", color_scheme="light")
    browser.goto(address)
    browser.wait(f"{SHOWN} && location.hash.includes('zoom')")  # the slide is drawn, and stands still
    yield browser
    assert browser.complaints() == []


SHOWN = "document.querySelector('#viewer .cells') && document.querySelector('#lesions').children.length"


def text(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)}).textContent"


def dropped(page: Page, selector: str, **files: bytes) -> None:
    """Drop files on an element, as the mouse does."""
    each = [
        f"new File([Uint8Array.from(atob('{base64.b64encode(data).decode()}'), (c) => c.charCodeAt(0))], {name!r})"
        for name, data in files.items()
    ]
    page.evaluate(
        f"""{{
            const carried = new DataTransfer();
            for (const file of [{", ".join(each)}]) carried.items.add(file);
            const event = {{ bubbles: true, cancelable: true, dataTransfer: carried }};
            document.querySelector('{selector}').dispatchEvent(new DragEvent('drop', event));
        }}"""
    )


def put(page: Page, selector: str, value: object) -> None:
    """Set a control, as a hand does."""
    page.evaluate(
        f"""{{
            const control = document.querySelector('{selector}');
            control.value = {json.dumps(value)};
            for (const kind of ['input', 'change']) control.dispatchEvent(new Event(kind, {{ bubbles: true }}));
        }}"""
    )


def requests(page: Page, path: str) -> int:
    """How often the page has asked for such a path."""
    named = f"({{ name }}) => name.includes({path!r})"
    count: int = page.evaluate(f"performance.getEntriesByType('resource').filter({named}).length")
    assert count > 0
    return count


def heat_of(page: Page) -> np.ndarray:
    """What is laid over the slide: RGBA."""
    page.wait("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(() => go(true))))")
    url = page.evaluate("document.querySelector('#viewer .cells').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


def test_dropped_patches_get_cards_which_another_threshold_decides_without_the_service(
    page: Page, model: Classifier
) -> None:
    png = io.BytesIO()
    Image.fromarray(PATCHES[1]).save(png, "PNG")
    dropped(page, "#drop", **{"a.tif": encode_tiff(PATCHES[0]), "<i>b</i>.png": png.getvalue(), "c.tif": b"II*\0"})
    page.wait("document.querySelectorAll('#patches .neighbours:not([hidden])').length === 2")
    page.wait("document.querySelector('#patches .refused')")
    said = page.evaluate("[...document.querySelectorAll('#patches .decision')].map((each) => each.textContent)")
    point, expected = model.operating_point("youden"), model(PATCHES[:2])
    for told, p in zip(said, expected, strict=False):
        assert told == f"{'Tumour' if p > point.threshold else 'No tumour'}: {100 * p:.1f} %"
    assert page.evaluate(text("#patches li:nth-child(2) h3")) == "<i>b</i>.png"
    drawn = "[...document.querySelector('.patch').getContext('2d').getImageData(0, 0, 96, 96).data]"
    np.testing.assert_array_equal(np.reshape(page.evaluate(drawn), (96, 96, 4))[..., :3], PATCHES[0])
    asked = requests(page, "v1/predict")
    for limit, word in ((0, "Tumour"), (1, "No tumour")):
        put(page, "#decide-above", limit)
        said = page.evaluate("[...document.querySelectorAll('.decision')].slice(0, 2).map((each) => each.textContent)")
        assert all(told.startswith(f"{word}: ") for told in said)
    assert requests(page, "v1/predict") == asked
    page.complaints()  # the browser itself tells of the refused file


def test_a_card_shows_the_nearest_training_patches_and_which_is_the_same(
    page: Page, pair: Path, material: Material
) -> None:
    known = material.patches.pixels[material.patches.rows_of(np.array([min(Run.open(pair).training_ids)]))[0]]
    dropped(page, "#drop", **{"a.tif": encode_tiff(known)})
    page.wait("document.querySelectorAll('#patches .neighbours li').length === 6")
    said = page.evaluate("[...document.querySelectorAll('#patches .neighbours li')].map((each) => each.textContent)")
    assert [told.startswith("tumour, of s") for told in said].count(True) == 3
    assert sum(told.endswith("similarity 1.000, the same patch") for told in said) == 1
    assert "from training" in page.evaluate(text("#patches .warned"))
    page.wait("document.querySelector('.neighbours canvas').width === 96")


def test_the_threshold_of_the_heat_map_moves_without_the_service(page: Page) -> None:
    page.wait("document.querySelector('#viewer').ariaBusy === 'false'")
    page.evaluate("document.querySelector('#outlined').click()")
    put(page, "#threshold", 0)
    everything = heat_of(page)[..., 3] > 0
    asked = requests(page, "heatmap_files")
    put(page, "#threshold", 0.5)
    above = heat_of(page)[..., 3] > 0
    put(page, "#threshold", 1)
    nothing = heat_of(page)[..., 3] > 0
    assert 0 < above.sum() < everything.sum()
    assert not (above & ~everything).any()
    assert not nothing.any()
    assert requests(page, "heatmap_files") == asked


def test_where_the_networks_differ_is_a_layer_of_its_own(page: Page) -> None:
    page.wait("document.querySelector('#viewer').ariaBusy === 'false'")
    page.evaluate("document.querySelector('#outlined').click()")
    put(page, "#threshold", 0)
    probability = heat_of(page)
    put(page, "#layer", "disagreement")
    page.wait("document.querySelector('#viewer').ariaBusy === 'false'")
    assert page.evaluate(text("#legend-is")).startswith("networks differ by: 0.0 % to 50.0 %")
    disagreement = heat_of(page)
    assert (disagreement[..., 3] > 0).any()
    assert (disagreement != probability).any()


def test_a_slide_is_judged_when_asked_and_its_heat_map_comes_by_itself(page: Page) -> None:
    put(page, "#slide", "new <b>")
    page.wait("document.querySelector('#judge:not([hidden])') && document.querySelector('#findings[hidden]')")
    page.evaluate(
        "window.told = []; new MutationObserver(() => told.push(document.querySelector('#judged-is').textContent))"
        ".observe(document.querySelector('#judged-is'), { childList: true })"
    )
    page.evaluate("document.querySelector('#judge').click()")
    page.wait(f"{SHOWN} && document.querySelector('#judge[hidden]')")
    told = page.evaluate("told")
    assert told[-1].startswith("new <b> is judged")
    assert any("cells" in words for words in told)
    assert page.evaluate("document.querySelector('#judged').hidden")


def test_a_dropped_slide_is_shown_until_it_is_removed(page: Page, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "mine.tif", painted(5), spacing=SPACING)
    dropped(page, "#slides", **{"mine.tif": (tmp_path / "mine.tif").read_bytes()})
    page.wait("document.querySelector('#remove:not([hidden])') && document.querySelector('#slide').value === 'mine'")
    assert page.evaluate(text("#slide-is")).startswith("600 x 500 pixels, 0.972 um a pixel; not judged yet")
    page.wait("document.querySelector('#viewer canvas')")
    page.evaluate("document.querySelector('#remove').click()")
    page.wait(f"{text('#sent-is')} === 'mine is removed.' && {SHOWN}")
    assert "mine" not in page.evaluate("[...document.querySelector('#slide').options].map((each) => each.value)")
    dropped(page, "#patches-title", **{"none.svs": b"no slide"})
    page.wait(f"{text('#sent-is')}.startsWith('none.svs: does not begin')")
    page.complaints()  # the browser itself tells of what is refused


def test_every_control_of_the_slide_has_a_key(page: Page) -> None:
    page.evaluate("document.querySelector('#viewer .openseadragon-canvas').focus()")
    controls = (
        "['threshold', 'opacity', 'layer', 'colours', 'outlined'].map((id) => document.getElementById(id))"
        ".map((of) => of.type === 'checkbox' ? of.checked : of.value)"
    )
    before = page.evaluate(controls)
    for key, changed in (("]", 0), (".", 1), ("c", 3), ("o", 4)):
        page.press(key)
        after = page.evaluate(controls)
        assert [k for k in range(5) if after[k] != before[k]] == [changed], key
        before = after
    page.press("n")
    assert page.evaluate("document.querySelector('#lesions [aria-current]').closest('li').previousSibling") is None
    page.press("i")
    page.wait(f"{text('#cell')}.includes('tumour ')")


def test_a_click_on_a_lesion_goes_there_and_the_link_opens_the_same_view(page: Page, address: str) -> None:
    whole = heat_of(page)
    page.evaluate("document.querySelector('#lesions button').click()")
    page.wait("location.hash.includes('zoom') && document.querySelector('#viewer').ariaBusy === 'false'")
    put(page, "#colours", "cividis")
    put(page, "#threshold", 0.6)
    put(page, "#opacity", 0.8)
    seen, link = heat_of(page), page.evaluate("location.href")
    assert (seen != whole).any()
    area, longest = page.evaluate(text("#lesions button")).split(", ")[1:3]
    assert (area.split()[1], longest.split()[1]) == ("mm2", "um")
    page.goto(link)
    page.wait(f"{SHOWN} && document.querySelector('#viewer').ariaBusy === 'false'")
    assert (
        np.abs(heat_of(page).astype(int) - seen).max(axis=-1).mean() < 0.5
    )  # a hair's breadth at the edges of outlines
    assert page.evaluate("['colours', 'opacity', 'threshold'].map((id) => document.getElementById(id).value)") == [
        "cividis", "0.8", "0.6",
    ]  # fmt: skip
    page.goto(f"{address}#slide=none&x=a&zoom=-1&colours=red&threshold=7")
    page.wait(SHOWN)
    assert page.evaluate(text("#link-is")) == "The slide of the link, none, is not here."
    page.goto(f"{address}#slide=judged&layer=none&colours=toString&threshold=7&opacity=-3&x=1e999&y=2&zoom=0")
    page.wait(SHOWN)
    assert page.evaluate("['colours', 'opacity', 'threshold'].map((id) => document.getElementById(id).value)") == [
        "violet", "0", "1",
    ]  # fmt: skip


def test_the_scale_bar_is_as_long_as_it_says(page: Page) -> None:
    words, px = page.evaluate(
        "[document.querySelector('#scale-bar b').textContent, document.querySelector('#scale-bar span').offsetWidth]"
    )
    um, unit = words.split()
    zoom = float(page.evaluate("new URLSearchParams(location.hash.slice(1)).get('zoom')"))
    assert unit == "um"
    assert px == pytest.approx(float(um) / SPACING * zoom, abs=0.6)


def test_colour_maps_need_no_colour_vision(page: Page) -> None:
    """Their light rises or falls all the way, to every kind of eye; by the simulation of Machado and others, 2009."""
    tables = page.evaluate(
        "import('./colours.js').then(({ MAPS, table }) => Object.fromEntries("
        "Object.keys(MAPS).map((name) => [name, [...table(name, 0, 1)]])))"
    )
    eyes = {
        "normal": np.eye(3),
        "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
        "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    }
    assert len(tables) >= 3
    for name, table in tables.items():
        rgba = np.reshape(table, (256, 4))[2:]
        assert (rgba[:, 3] == 255).all()
        linear = (rgba[:, :3] / 255) ** 2.2
        for eye, sees in eyes.items():
            light = (linear @ np.transpose(sees)).clip(0) @ [0.2126, 0.7152, 0.0722]
            steps = np.diff(light[::16]) * np.sign(light[-1] - light[0])
            assert (steps > 0).all(), (name, eye)


def test_the_view_is_saved_as_a_png_with_its_scale_and_words(page: Page, tmp_path: Path) -> None:
    seen = "document.querySelector('#viewer canvas')"
    pixels = f"{seen}.getContext('2d').getImageData(0, 0, {seen}.width, {seen}.height).data.buffer"
    page.wait(f"new Set(new Uint32Array({pixels})).size > 100")  # the slide's tiles are there
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.evaluate("document.querySelector('#save').click()")
    saved = tmp_path / "judged.png"
    while not saved.is_file():
        page.wait("new Promise((go) => setTimeout(() => go(true), 20))")
    picture = np.asarray(Image.open(saved).convert("RGB"))
    width, height = page.evaluate("[(of = document.querySelector('#viewer canvas')).width, of.height]")
    assert picture.shape[1] == width
    assert picture.shape[0] > height
    assert np.unique(picture[:height].reshape(-1, 3), axis=0).shape[0] > 100
    assert (picture[height:] < 128).any()


def test_nothing_is_wider_than_the_screen(page: Page, address: str) -> None:
    dropped(page, "#drop", **{f"{'long' * 30}.tif": encode_tiff(PATCHES[0])})
    page.wait("document.querySelector('.neighbours:not([hidden])')")
    for path in ("", "docs"):
        if path:
            page.goto(address + path)
            page.wait("document.querySelector('#types section')")
        for width in (390, 768, 1280, 2560):
            page.resize(width, 844)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)


@pytest.mark.skipif(AXE is None, reason="no axe is installed (axe-core-python)")
def test_axe_finds_nothing_against_wcag_aa_in_light_and_dark(page: Page, address: str) -> None:
    assert AXE is not None
    assert AXE.origin is not None
    dropped(page, "#drop", **{"a.tif": encode_tiff(PATCHES[0]), "none.tif": b"no image"})
    page.wait("document.querySelector('.neighbours:not([hidden])') && document.querySelector('.refused')")
    page.complaints()  # the browser itself tells of what is refused
    for path in ("", "docs"):
        if path:
            page.goto(address + path)
            page.wait("document.querySelector('#types section')")
        page.evaluate((Path(AXE.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
        for scheme in ("light", "dark"):
            page.prefer(reduced_motion="reduce", color_scheme=scheme)
            found = page.evaluate(f"axe.run({{ runOnly: {AA}, resultTypes: ['violations'] }})")
            assert len(found["passes"]) > 10
            assert [(of["id"], [node["html"] for node in of["nodes"]]) for of in found["violations"]] == [], (
                path,
                scheme,
            )
