"""A model in one HTML file: in a real browser it computes what the run computes, of patches and of regions."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import sentinode
from browser import needs_browser, opened
from conftest import make_patches
from drawn import classifier_of, network_of
from sentinode.config.presets import load_preset
from sentinode.data.images import encode_tiff
from sentinode.errors import ExportError
from sentinode.evaluation.calibration import Temperature
from sentinode.exports.html_page import HTML, describe, html_runtimes, write_html
from sentinode.inference.classifier import Classifier, TrainedRun
from sentinode.inference.exported import Exported
from sentinode.inference.trained import TrainedNetwork
from sentinode.models.build import build
from sentinode.session import Session
from sentinode.settings import override

CPU = torch.device("cpu")
PATCHES = np.ascontiguousarray(make_patches(6, seed=5).pixels)
SMALL = {"preprocess.size_px": 32, "predict.views": 8}


@pytest.fixture(scope="module")
def record(material: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """What is known of a real run, whose weights the tests replace."""
    from sentinode.api.export import _described
    from sentinode.runs.load import classifier_of as loaded
    from sentinode.runs.train import train_run

    config = override(load_preset("fair").run_config(), {"fit.epochs": 1, "fit.batch_size": 16})
    run = train_run(material, config, tmp_path_factory.mktemp("runs") / "run")
    return _described(loaded([run], CPU), [run])


def ensemble() -> Classifier:
    """Of two networks with unlike inputs, views and weights."""
    after = {**SMALL, "model.norm": "after", "preprocess.resize": "nearest", "predict.views": 1}
    networks = (network_of(SMALL, 1), network_of(after, 2))
    return classifier_of(TrainedRun(networks, np.array([0.3, 0.7])))


def page_of(classifier: Classifier, record: Exported, folder: Path) -> Path:
    write_html(classifier, record, folder)
    return folder / HTML


def files(**content: bytes) -> str:
    """JavaScript for a list of dropped files."""
    each = [
        f"new File([Uint8Array.from(atob('{base64.b64encode(data).decode()}'), (c) => c.charCodeAt(0))], '{name}')"
        for name, data in content.items()
    ]
    return f"[{', '.join(each)}]"


def texts(selector: str) -> str:
    return f"[...document.querySelectorAll('{selector}')].map((each) => each.textContent)"


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@needs_browser
def test_dropped_patches_get_the_probabilities_of_the_run(record: Exported, tmp_path: Path) -> None:
    """Of every kind of file that the page reads; a patch's logit is the run's to 1e-4."""
    classifier = ensemble()
    page = page_of(classifier, replace(record, calibrations={"temperature": Temperature(2.0)}), tmp_path)
    tiled = io.BytesIO()
    tifffile.imwrite(tiled, PATCHES[5], tile=(64, 64), compression="zlib", predictor=True, byteorder=">")
    dropped = files(
        **{
            "a.tif": encode_tiff(PATCHES[0]),
            "b.png": encoded(PATCHES[1], "PNG"),
            "c.tif": encoded(PATCHES[2], "TIFF", compression="tiff_lzw"),
            "d.webp": encoded(PATCHES[3], "WEBP", lossless=True),
            "e.tif": encoded(PATCHES[4], "TIFF", compression="tiff_adobe_deflate"),
            "f.tif": tiled.getvalue(),
            "broken.png": b"no image",
            "cut.tif": encoded(PATCHES[2], "TIFF", compression="tiff_lzw")[:-2000],
        }
    )
    with opened(page.as_uri(), tmp_path / "profile") as browser:
        logits = browser.evaluate(
            f"(async () => {{ const all = {dropped}; await openFiles(all); return await Promise.all("
            "all.slice(0, 6).map(async (file) => model.logit(await imageOf(file)))); })()"
        )
        said = browser.evaluate(texts("#patches .said"))
        errors = browser.evaluate(texts(".error"))
        browser.evaluate("at('threshold').value = 1; at('threshold').dispatchEvent(new Event('input'))")
        after = browser.evaluate(texts("#patches .said"))
        assert browser.complaints() == []
    assert logits == pytest.approx(classifier.logits(PATCHES), abs=1e-4)
    for told, probability in zip(said, classifier(PATCHES), strict=True):
        assert told.startswith(f"{probability:.3f}, calibrated ")
    assert errors == ["broken.png: it is no image that this browser reads.", "cut.tif: it ends before it should."]
    assert all(told.endswith(": no tumour") for told in after)


@needs_browser
def test_a_dropped_region_is_scanned_cell_by_cell(record: Exported, tmp_path: Path) -> None:
    classifier = classifier_of(TrainedRun((network_of({**SMALL, "predict.views": 1}, 3),)))
    page = page_of(classifier, record, tmp_path)
    region = np.random.default_rng(1).integers(0, 255, (160, 200, 3), dtype=np.uint8)
    with opened(page.as_uri(), tmp_path / "profile", width=390) as browser:
        browser.evaluate(f"openFiles({files(**{'r.png': encoded(region, 'PNG')})})")
        cells = browser.evaluate("[...regions[0].cells]")
        said = browser.evaluate(texts("section p"))
        overflow = browser.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert browser.complaints() == []
    assert overflow <= 0
    patches = np.stack([region[32 * r : 32 * r + 96, 32 * c : 32 * c + 96] for r in range(3) for c in range(4)])
    assert cells == pytest.approx(classifier(patches), abs=1e-5)
    assert said[0].startswith("12 of 12 cells")


def test_node_computes_the_same_where_it_is_installed(record: Exported, tmp_path: Path) -> None:
    classifier = ensemble()
    page_of(classifier, record, tmp_path)
    runtimes, missing = html_runtimes(tmp_path)
    if not runtimes:
        assert missing == {"node": "not installed"}
        return
    (logits_of,) = runtimes.values()
    assert logits_of(PATCHES) == pytest.approx(classifier.logits(PATCHES), abs=1e-5)


def test_the_page_asks_for_nothing_and_a_name_is_never_markup(record: Exported, tmp_path: Path) -> None:
    named = replace(record, name="</script><img src=x onerror=alert(1)>")
    text = page_of(ensemble(), named, tmp_path).read_text()
    assert "</script><img" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"https?://", text)
    assert "innerHTML" not in text


def test_a_network_that_the_page_does_not_know_is_refused_and_all_goes_on_without_it(
    record: Exported, tmp_path: Path
) -> None:
    config = override(load_preset("fair").run_config(), {"model.architecture": "p4m", "fit.learning_rate": 0.001})
    network = build(config.model, input_size_px=32, generator=torch.Generator().manual_seed(0))
    classifier = classifier_of(TrainedRun((TrainedNetwork(network, config, CPU),)))
    with pytest.raises(ExportError, match="a page does not compute LiftingConv"):
        describe(classifier, record)


def test_the_command_writes_the_page_with_its_certificate(material: Any, tmp_path: Path) -> None:
    from sentinode.runs.train import train_run

    config = override(load_preset("fair").run_config(), {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1})
    train_run(material, config, tmp_path / "run")
    found = sentinode.export(tmp_path / "run", "html", tmp_path / "out", Session(tmp_path / "cache", CPU))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {HTML, "manifest.json", "parity.json"}
    for parity in found["html"].runtimes.values():
        assert parity.largest_logit_difference < 1e-5
