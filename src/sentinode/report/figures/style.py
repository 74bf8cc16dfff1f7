"""The look that all figures share, and the way from a drawing to an inline SVG.

A figure is one panel about as wide as a phone; a page sets panels side by side where there is room, so
text stays legible at every width. Titles are the page's affair. Nothing here computes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape

from sentinode.report.shown import keep_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito 2008, who chose colours for any kind of colour vision; those too pale for a line are darkened, so
# that each has a contrast of 3 to 1 to the page, light or dark (WCAG 1.4.11).
NEGATIVE: Final = "#0072b2"
POSITIVE: Final = "#d55e00"
VARIANTS: Final = ("#009e73", "#c4689b", "#b77f00", "#2b8cc4", "#8c6d1f", "#7a6cc9")

# These four follow the page's colour scheme, light or dark: each becomes a CSS variable.
INK: Final = "#1c2833"
MUTED: Final = "#5d6b78"
RULE: Final = "#dfe4e8"
SURFACE: Final = "#fdfdfc"
_VARIABLES: Final = {INK: "ink", MUTED: "muted", RULE: "rule", SURFACE: "surface"}

_WIDTH_IN: Final = 4.15
_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.labelcolor": INK,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelsize": 8.5,
    "xtick.major.width": 0.7,
    "ytick.color": MUTED,
    "ytick.labelsize": 8.5,
    "ytick.major.width": 0.7,
}


@dataclass(eq=False)
class Panel:
    """One pair of axes to draw on; `svg` holds the finished figure after its `with` block."""

    figure: Figure
    axes: Axes
    svg: Markup = field(init=False)

    def legend(self, *, columns: int) -> None:
        self.figure.legend(loc="outside upper left", ncols=columns, borderaxespad=0.2, columnspacing=1.4)


@contextmanager
def panel(name: str, description: str, *, height_in: float = 2.7, width_in: float = _WIDTH_IN) -> Iterator[Panel]:
    """Axes in the common style. Figures of one page need different names: ids are derived from them."""
    from matplotlib import style  # here: a page without figures does without it
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]):  # not what a matplotlibrc may say
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        drawing = Panel(figure, figure.add_subplot())
        yield drawing
        buffer = io.StringIO()
        # `savefig` would draw everything a first time for the layout alone.
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
        drawing.svg = _inline(buffer.getvalue(), description)
        keep_figure(figure, name)


def _inline(document: str, description: str) -> Markup:
    """An SVG document as a part of a page: no prologue, no ids but the referenced ones, the page's font."""
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", document[document.index("<svg") :], flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', body)
    assert view_box is not None
    opening = f'<svg {view_box.group()} role="img" aria-label="{escape(description)}">'
    body = re.sub(r"^<svg[^>]*>", lambda _: opening, body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable}, {colour})")
    return Markup(body.strip())
