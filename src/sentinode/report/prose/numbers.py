"""Numbers and counts in words: they become text here, and only here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np

MISSING: Final = "–"


def number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else MISSING


def mean_and_spread(values: Iterable[float], digits: int = 4) -> str:
    """Mean ± standard deviation over seeds (n - 1); a single value stands alone."""
    array = np.array(list(values), dtype=float)
    if len(array) == 1:
        return number(float(array[0]), digits)
    return f"{number(float(array.mean()), digits)} ± {number(float(array.std(ddof=1)), digits)}"


def many(count: int, one: str, several: str = "") -> str:
    """Such as "1 run" and "6 runs"."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
