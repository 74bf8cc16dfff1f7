"""What is known of patches beside their labels, and the subgroups that it makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from sentinode.data.appearance import appearance
from sentinode.data.patches import PatchSet
from sentinode.evaluation.subgroups import quantile_groups

FROM_PIXELS: Final = ("brightness", "optical_density", "saturation")
PARTS: Final = 4
_FEW_VALUES: Final = 8


@dataclass(frozen=True, eq=False)
class Parts:
    """The subgroup of each of n patches, "" where unknown; `order` names them from least to most, if they have one."""

    names: Shaped[np.ndarray, " n"]
    order: tuple[str, ...] | None


def attributes(
    patches: PatchSet,
    ids: Shaped[np.ndarray, " n"],
    given: pd.DataFrame | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """The attributes of some patches, a line for each of `ids`, indexed by id.

    From the pixels: `brightness` (0 to 255), `optical_density` and `saturation` (0 to 1), as `appearance` has
    them; then the columns of `given`, a table indexed by id, unknown (NaN or "") for ids that it lacks.
    """
    seen = appearance(patches.pixels, patches.rows_of(ids), on_progress=on_progress)[list(FROM_PIXELS)]
    table = seen.set_axis(pd.Index(ids, name="id"), axis=0)
    if given is None:
        return table
    joined = given.reindex(table.index)
    words = [name for name in joined.columns if not pd.api.types.is_numeric_dtype(joined[name])]
    return table.join(joined.fillna(dict.fromkeys(words, "")))


def parts_of(values: pd.Series) -> Parts:
    """Cut an attribute into subgroups.

    Words are taken as they are, and so are up to 8 different numbers. More numbers are cut into 4 parts of equal
    size; where more than a quarter of them are 0, these are a part of their own, and the others are cut.
    """
    if not pd.api.types.is_numeric_dtype(values):
        return Parts(values.to_numpy(dtype=str), None)
    numbers = values.to_numpy(dtype=np.float64)
    known = np.isfinite(numbers)
    different = np.unique(numbers[known])
    if len(different) <= _FEW_VALUES:
        order = tuple(f"{value:g}" for value in different)
        return Parts(np.array([f"{value:g}" if np.isfinite(value) else "" for value in numbers], dtype=str), order)
    none = numbers == 0
    if none.sum() <= known.sum() / PARTS:
        return _cut(numbers)
    rest = _cut(np.where(none, np.nan, numbers))
    assert rest.order is not None
    return Parts(np.where(none, "0", rest.names), ("0", *rest.order))


def _cut(numbers: Float[np.ndarray, " n"]) -> Parts:
    names = quantile_groups("part", numbers, PARTS)
    return Parts(names, tuple(np.unique(names[names != ""]).tolist()))
