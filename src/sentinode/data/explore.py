"""Colour and brightness of patches by class and by slide, as one record for explore.json."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from scipy.stats import rankdata

from sentinode.data.appearance import QUANTITIES, appearance, appearance_by
from sentinode.data.patches import PatchSet
from sentinode.progress import Progress, of_step, silent

_MOST_PATCHES: Final = 20_000
_BINS: Final = 40
_ALIKE_AUC: Final = 0.55  # below it a quantity hardly separates the classes


def explore(patches: PatchSet, *, seed: int, progress: Progress = silent) -> dict[str, Any]:
    """Histograms of every quantity by class, and its mean by slide, over at most 20,000 patches.

    {"patches": int, "quantities": {name: {"edges": [41], "negative": [40], "positive": [40], "auc"}},
    "slides": [{"slide", "patches", "tumour_fraction", name: mean, ...}]}; counts, not densities. `auc` is what the
    quantity alone scores, below 0.5 where it is lower in positive patches; None where a class is missing.
    """
    rows = _drawn(patches, seed)
    table = appearance(patches.pixels, rows, on_progress=of_step(progress, "explore"))
    labels, slides = patches.labels[rows], patches.slides[rows]
    quantities = {}
    for name in QUANTITIES:
        values = table[name].to_numpy()
        edges = np.histogram_bin_edges(values, bins=_BINS)
        quantities[name] = {
            "edges": edges.tolist(),
            "negative": np.histogram(values[labels == 0], edges)[0].tolist(),
            "positive": np.histogram(values[labels == 1], edges)[0].tolist(),
            "auc": _auc(values[labels == 1], values[labels == 0]),
        }
    by_slide = appearance_by(table, slides).reset_index(names="slide")
    by_slide["tumour_fraction"] = [float((labels[slides == name] == 1).mean()) for name in by_slide["slide"]]
    known = by_slide[by_slide["slide"] != ""]
    return {
        "patches": len(rows),
        "quantities": quantities,
        "slides": [{str(key): value for key, value in row.items()} for row in known.to_dict("records")],
    }


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
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.sum() / len(positive) - (len(positive) + 1) / 2) / len(negative))
