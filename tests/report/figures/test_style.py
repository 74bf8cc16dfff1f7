from __future__ import annotations

import re
from importlib import resources

import matplotlib as mpl
import numpy as np
import pytest

from sentinode.evaluation.bands import Band
from sentinode.report.figures.data import CHANNELS, class_counts, slide_counts
from sentinode.report.figures.scores import (
    Banded,
    Curve,
    Curves,
    common_limits,
    learning_curves,
    roc_bands,
    scores_by_seed,
)
from sentinode.report.figures.style import NEGATIVE, POSITIVE, VARIANTS


def family(label: str = "before") -> Curves:
    epochs = np.arange(1, 31)
    each = tuple(Curve(epochs, np.sin(epochs + k)) for k in range(3))
    return Curves(label, "#009e73", each, Curve(epochs, np.sin(epochs)))


def test_one_epoch_is_epoch_1_and_no_fraction_of_one() -> None:
    once = Curve(np.array([1]), np.array([0.7]))
    svg = learning_curves("once", "loss", [Curves("training", "#009e73", (once,), once)])
    assert re.findall(r">([\d.]+)</text>", svg[: svg.index(">epoch<")]) == ["1"]


def ids(svg: str) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', svg))


def contrast(a: str, b: str) -> float:
    """Of two colours, by WCAG 2: 1 for equal ones, 21 for black on white."""
    lighter, darker = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_line_stands_out_from_the_page(scheme: int) -> None:
    css = resources.files("sentinode.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    surface = re.findall(r"--surface: (#\w{6})", css)[scheme]
    muted = re.findall(r"--muted: (#\w{6})", css)[scheme]
    for colour in (*VARIANTS, NEGATIVE, POSITIVE, *CHANNELS.values(), muted):
        assert contrast(colour, surface) >= 3, colour


def test_the_same_numbers_give_the_same_figure() -> None:
    assert learning_curves("a", "loss", [family()]) == learning_curves("a", "loss", [family()])


def test_figures_of_one_page_share_no_ids() -> None:
    first, second = (learning_curves(name, "loss", [family()]) for name in "ab")
    assert ids(first)
    assert not ids(first) & ids(second)


def test_a_figure_is_scalable_named_and_without_prologue() -> None:
    svg = class_counts("chart", 755, 495)
    assert svg.startswith("<svg viewBox=")
    assert 'role="img"' in svg
    assert "755 negative and 495 positive" in svg
    assert "755  (60.4%)" in svg
    assert "http" not in svg
    assert "<metadata" not in svg


def test_names_are_escaped_and_never_read_as_formulas() -> None:
    svg = slide_counts("slides", ["<b>$x$"], [3], [4])
    assert "<b>" not in svg
    assert "&lt;b&gt;$x$" in svg


def test_drawing_leaves_global_settings_alone() -> None:
    keys = ("svg.hashsalt", "font.size", "axes.grid")
    before = [mpl.rcParams[key] for key in keys]
    band = Band(np.array([0.0, 1.0]), np.array([0.2, 1.0]), np.array([0.1, 1.0]), np.array([0.3, 1.0]))
    roc_bands("roc", [Banded("before", "#009e73", band)])
    scores_by_seed("seeds", "AUC", [("before", "#009e73", [0.7, 0.8]), ("after", "#cc79a7", [0.6, 0.9])])
    assert [mpl.rcParams[key] for key in keys] == before


def test_empty_classes_and_undefined_scores_can_be_drawn() -> None:
    class_counts("empty", 0, 0)
    undefined = Curve(np.array([1.0]), np.array([np.nan]))
    families = [Curves("a", "#009e73", (undefined,), undefined)]
    assert common_limits(families) is None
    learning_curves("nan", "AUC", families, limits=common_limits(families))
