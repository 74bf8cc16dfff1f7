"""Figures of the data: class counts, colours by class and by slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sentinode.report.figures.style import INK, MUTED, NEGATIVE, POSITIVE, panel

CHANNELS: Final = {"red": "#d03a3f", "green": "#2e8b3d", "blue": "#3f6fc4"}
_MOST_NAMED_SLIDES: Final = 16


def class_counts(name: str, negative: int, positive: int) -> Markup:
    """Charts 1 and 2 of the notebook: one bar a class."""
    total = max(negative + positive, 1)
    with panel(name, f"Bar chart: {negative:,} negative and {positive:,} positive patches", height_in=2.3) as p:
        bars = p.axes.bar(["negative", "positive"], [negative, positive], color=[NEGATIVE, POSITIVE], width=0.62)
        p.axes.bar_label(bars, [f"{n:,}  ({n / total:.1%})" for n in (negative, positive)], padding=3, color=INK)
        p.axes.set(ylabel="patches", ylim=(0, 1.15 * max(negative, positive, 1)))
        p.axes.tick_params(axis="x", length=0, labelsize=9.5, labelcolor=INK)
        p.axes.grid(visible=False, axis="x")
        _count_ticks(p.axes)
    return p.svg


def distributions(
    name: str, quantity: str, edges: Sequence[float], negative: Sequence[float], positive: Sequence[float]
) -> Markup:
    """Two histograms over the same bins, as shares of each class in percent; the page holds the key."""
    with panel(name, f"Histograms of {quantity}, negative and positive patches", height_in=1.45) as p:
        for colour, shares in ((NEGATIVE, negative), (POSITIVE, positive)):
            p.axes.stairs(shares, edges, color=colour, fill=True, alpha=0.16)
            p.axes.stairs(shares, edges, color=colour, linewidth=1.5)
        p.axes.set(ylabel="% of class")
        p.axes.set_ylim(bottom=0)
        p.axes.yaxis.set_major_locator(MaxNLocator(4))
        p.axes.grid(visible=False, axis="x")
    return p.svg


def slide_colours(
    name: str, slides: Sequence[str], channels: Mapping[str, Sequence[float]], brightness: Sequence[float]
) -> Markup:
    """Mean colour of each slide, in the order given."""
    x = np.arange(len(slides))
    size = 22 if len(slides) <= 40 else 8
    with panel(name, f"Mean red, green and blue and mean brightness of {len(slides)} slides") as p:
        for channel, values in channels.items():
            p.axes.scatter(x, values, s=size, color=CHANNELS[channel], linewidths=0, alpha=0.9, label=channel)
        p.axes.plot(x, brightness, color=INK, linewidth=1.3, label="brightness")
        p.axes.set(ylabel="mean value, 0 to 255")
        _name_slides(p.axes, slides)
        p.legend(columns=4)
    return p.svg


def slide_counts(name: str, slides: Sequence[str], negative: Sequence[float], positive: Sequence[float]) -> Markup:
    """Patches of each slide, stacked by class, in the order given."""
    x = np.arange(len(slides))
    with panel(name, f"Negative and positive patches of {len(slides)} slides") as p:
        p.axes.bar(x, negative, color=NEGATIVE, width=0.8, label="negative")
        p.axes.bar(x, positive, bottom=negative, color=POSITIVE, width=0.8, label="positive")
        p.axes.set(ylabel="patches")
        p.axes.grid(visible=False, axis="x")
        _name_slides(p.axes, slides)
        _count_ticks(p.axes)
        p.legend(columns=2)
    return p.svg


def _name_slides(axes: Axes, slides: Sequence[str]) -> None:
    if len(slides) > _MOST_NAMED_SLIDES:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(slides)} slides, dark to light")
        return
    shown = [slide if len(slide) <= 14 else f"{slide[:6]}…{slide[-7:]}" for slide in slides]
    axes.set_xticks(range(len(slides)), shown, rotation=55, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_xlabel("slide, dark to light", color=MUTED)


def _count_ticks(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
