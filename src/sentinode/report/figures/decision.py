"""The reliability diagram: what was said against what was so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from sentinode.evaluation.calibration import Reliability
from sentinode.report.figures.style import MUTED, SURFACE, panel

_ASIDE = 0.012  # of the scale: so that bars of two families stand side by side


@dataclass(frozen=True, eq=False)
class Believed:
    """One scale's reliability, as it is drawn; `marker` tells it apart without its colour."""

    label: str
    colour: str
    marker: str
    reliability: Reliability


def reliability_diagram(name: str, families: Sequence[Believed]) -> Markup:
    """Observed share of tumour by mean probability, with 95 % bars, and above it the patches of each bin.

    A bin without patches is left out; one whose patches come from a single slide or group has no bar.
    """
    labels = ", ".join(family.label for family in families)
    with panel(name, f"Reliability diagram: observed share of tumour by probability: {labels}", height_in=4.3) as p:
        p.axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1.0)
        counts = p.axes.inset_axes((0, 1.03, 1, 0.16), sharex=p.axes)
        for place, family in enumerate(families):
            found = family.reliability
            aside = _ASIDE * (place - (len(families) - 1) / 2)
            filled = found.count > 0
            x, y = found.mean_probability[filled] + aside, found.observed_share[filled]
            p.axes.vlines(x, found.lower[filled], found.upper[filled], color=family.colour, linewidth=5.0, alpha=0.3)
            p.axes.plot(
                x,
                y,
                color=family.colour,
                linewidth=1.2,
                marker=family.marker,
                markersize=6,
                markeredgecolor=SURFACE,
                markeredgewidth=0.7,
                label=family.label,
            )
            width = 0.8 * np.diff(found.edges) / len(families)
            middle = (found.edges[:-1] + found.edges[1:]) / 2
            offset = width * (place - (len(families) - 1) / 2)
            counts.bar(middle + offset, found.count, width=width, color=family.colour, linewidth=0)
        counts.set_ylabel("patches", fontsize=8.5, labelpad=2)
        counts.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        counts.tick_params(labelbottom=False, bottom=False)
        counts.grid(visible=False, axis="x")
        p.axes.set(
            xlabel="probability of tumour",
            ylabel="observed share of tumour",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            aspect="equal",
        )
        p.legend(columns=len(families))
    return p.svg
