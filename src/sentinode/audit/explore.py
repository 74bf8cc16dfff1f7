"""Colour and brightness of patches by class and by slide, as one record for explore.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from sentinode.audit.appearance import QUANTITIES, appearance, appearance_by
from sentinode.data.patches import PatchSet
from sentinode.progress import Progress, of_step, silent

EXPLORED: Final = "explore.json"
_MOST_PATCHES: Final = 20_000
_BINS: Final = 40
_ALIKE_AUC: Final = 0.55  # below it a quantity hardly separates the classes


@dataclass(frozen=True)
class Histogram:
    """Patches of each class by a quantity; of the edges there is one more than of the counts."""

    edges: list[float]
    negative: list[int]
    positive: list[int]
    auc: float | None
    """What the quantity alone scores, below 0.5 where it is lower in positives; None where a class is missing."""


@dataclass(frozen=True)
class SlideAppearance:
    """One slide: the mean of each quantity over its patches, and the share of them with tumour."""

    slide: str
    patches: int
    tumour_fraction: float
    means: dict[str, float]


@dataclass(frozen=True)
class Explored:
    """explore.json: every quantity by class over so many patches, and by slide where slides are known."""

    patches: int
    quantities: dict[str, Histogram]
    slides: tuple[SlideAppearance, ...]


def explore(patches: PatchSet, *, seed: int, progress: Progress = silent) -> Explored:
    """Histograms of every quantity by class, and its mean by slide, over at most 20,000 labelled patches."""
    rows = _drawn(patches, seed)
    table = appearance(patches.pixels, rows, on_progress=of_step(progress, "explore"))
    labels, slides = patches.labels[rows], patches.slides[rows]
    quantities = {}
    for name in QUANTITIES:
        values = table[name].to_numpy()
        edges = np.histogram_bin_edges(values, bins=_BINS)
        counts = [np.histogram(values[labels == label], edges)[0].tolist() for label in (0, 1)]
        auc = _auc(values[labels == 1], values[labels == 0])
        quantities[name] = Histogram(edges.tolist(), counts[0], counts[1], auc)
    by_slide = appearance_by(table, slides).reset_index(names="slide")
    by_slide = by_slide[by_slide["slide"] != ""]
    return Explored(
        len(rows),
        quantities,
        tuple(
            SlideAppearance(
                str(row["slide"]),
                int(row["patches"]),
                float((labels[slides == row["slide"]] == 1).mean()),
                {name: float(row[name]) for name in QUANTITIES},
            )
            for row in by_slide.to_dict("records")
        ),
    )


def brightness_auc(patches: PatchSet, *, seed: int = 0) -> float | None:
    """What mean brightness alone scores, a number to beat; as `auc` in `explore`, and over as many patches."""
    rows = _drawn(patches, seed)
    values, labels = appearance(patches.pixels, rows)["brightness"].to_numpy(), patches.labels[rows]
    return _auc(values[labels == 1], values[labels == 0])


def baseline(auc: float | None) -> str:
    """What an AUC of brightness alone means for a network, in a sentence."""
    if auc is None:
        return "There is no baseline: only one class has labels."
    best = max(auc, 1 - auc)
    if best < _ALIKE_AUC:
        return f"Brightness alone hardly separates the classes: its AUC is {best:.2f}."
    how = "darker" if auc < 0.5 else "lighter"
    return f"A network should beat brightness alone, whose AUC is {best:.2f}: positive patches are {how}."


def _drawn(patches: PatchSet, seed: int) -> np.ndarray:
    """Rows of labelled patches, at most 20,000 of them."""
    labelled = np.flatnonzero(patches.labels >= 0)
    if len(labelled) <= _MOST_PATCHES:
        return labelled
    return np.sort(np.random.default_rng(seed).choice(labelled, _MOST_PATCHES, replace=False))


def _auc(positive: np.ndarray, negative: np.ndarray) -> float | None:
    """The chance that a positive patch has the higher value, ties halved: Mann and Whitney's U over all pairs."""
    if not (len(positive) and len(negative)):
        return None
    ranks = pd.Series(np.concatenate([positive, negative])).rank().to_numpy()[: len(positive)]
    return float((ranks.sum() / len(positive) - (len(positive) + 1) / 2) / len(negative))
