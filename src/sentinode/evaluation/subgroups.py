"""Scores by subgroup: slides, or parts of a quantity such as brightness, stain or tumour fraction."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Real, Shaped

from sentinode.evaluation import metrics

FEW_PATCHES: Final = "few patches"
ONE_CLASS: Final = "one class only"
FEW_OF_A_CLASS: Final = "few of one class"
UNKNOWN: Final = "unknown"


def scores_by_subgroup(
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, " n"],
    names: Shaped[np.ndarray, " n"],
    *,
    threshold: float = 0.5,
    few: int = 50,
) -> pd.DataFrame:
    """One line for each subgroup, in the order of their names; "" is named "unknown" and comes first.

    Labels must be known (0 or 1). Columns: subgroup, patches, positive (a count), auc, accuracy,
    sensitivity, specificity, log_loss, flag. Scores that need a class that is absent are NaN. The flag
    is "few patches" for fewer than `few`, "one class only" for enough patches of one class, "few of one class" for
    fewer than a fifth of `few` in one of two, else "": flagged lines bear no conclusion.
    """
    lines: list[dict[str, Any]] = []
    for name in np.unique(names):
        inside = names == name
        own, p = labels[inside], probabilities[inside]
        at_threshold = metrics.confusion(own, p, threshold)
        lines.append(
            {
                "subgroup": str(name) or UNKNOWN,
                "patches": len(own),
                "positive": int(np.sum(own == 1)),
                "auc": metrics.auc(own, p),
                "accuracy": metrics.accuracy(own, p, threshold),
                "sensitivity": at_threshold.sensitivity,
                "specificity": at_threshold.specificity,
                "log_loss": metrics.log_loss(own, p),
                "flag": _flag(own, few),
            }
        )
    return pd.DataFrame(lines)


def _flag(labels: Int[np.ndarray, " n"], few: int) -> str:
    fewer = min(int(np.sum(labels == label)) for label in (0, 1))
    if len(labels) < few:
        return FEW_PATCHES
    return ONE_CLASS if not fewer else FEW_OF_A_CLASS if fewer < few / 5 else ""


def quantile_groups(quantity: str, values: Real[np.ndarray, " n"], parts: int = 4) -> Shaped[np.ndarray, " n"]:
    """Name each patch's part of the quantity's range, like "brightness 1 of 4 (34-120)", parts of equal size.

    The bounds are the part's own least and largest value, to three digits. Equal values stay together,
    so there may be fewer parts, of unequal size; NaN is named "".
    """
    known = np.isfinite(values)
    names = np.full(len(values), "", dtype=object)
    if known.any():
        cuts = np.quantile(values[known], np.arange(1, parts) / parts)
        numbers, part = np.unique(np.searchsorted(cuts, values[known]), return_inverse=True)
        width = len(str(len(numbers)))  # so that part 10 sorts after part 9
        bounds = [(values[known][part == k].min(), values[known][part == k].max()) for k in range(len(numbers))]
        of_part = [
            f"{quantity} {k + 1:0{width}d} of {len(numbers)} ({_short(float(low))}-{_short(float(high))})"
            for k, (low, high) in enumerate(bounds)
        ]
        names[known] = np.array(of_part, dtype=object)[part]
    return names.astype(str)


def _short(value: float) -> str:
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")
