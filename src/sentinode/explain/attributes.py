"""What is known of patches beside their labels, and the subgroups that it makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float, Real, Shaped

from sentinode.audit.appearance import QUANTITIES, appearance
from sentinode.config.run import DataConfig
from sentinode.data.patches import PatchSet
from sentinode.data.tables import ID_COLUMNS, column_of, columns_of, is_unknown, read_table, require_ids, table_at
from sentinode.errors import DataError
from sentinode.progress import StepProgress

FROM_PIXELS: Final = ("brightness", "optical_density", "saturation")
PARTS: Final = 4
_FEW_VALUES: Final = 8


@dataclass(frozen=True, eq=False)
class Subgrouping:
    """The subgroup of each of n patches, "" where unknown; `order` names them from least to most, if they have one."""

    names: Shaped[np.ndarray, " n"]
    order: tuple[str, ...] | None


def attributes(
    patches: PatchSet,
    ids: Shaped[np.ndarray, " n"],
    given: pd.DataFrame | None = None,
    *,
    on_progress: StepProgress | None = None,
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


def parts_of(values: pd.Series) -> Subgrouping:
    """Cut an attribute into subgroups.

    Words are taken as they are, and so are up to 8 different numbers. More numbers are cut into 4 parts of equal
    size; where more than a quarter of them are 0, these are a part of their own, and the others are cut.
    """
    if not pd.api.types.is_numeric_dtype(values):
        return Subgrouping(values.to_numpy(dtype=str), None)
    numbers = values.to_numpy(dtype=np.float64)
    known = np.isfinite(numbers)
    different = np.unique(numbers[known])
    if len(different) <= _FEW_VALUES:
        order = tuple(f"{value:g}" for value in different)
        return Subgrouping(
            np.array([f"{value:g}" if np.isfinite(value) else "" for value in numbers], dtype=str), order
        )
    none = numbers == 0
    if none.sum() <= known.sum() / PARTS:
        return _cut(numbers)
    rest = _cut(np.where(none, np.nan, numbers))
    assert rest.order is not None
    return Subgrouping(np.where(none, "0", rest.names), ("0", *rest.order))


def _cut(numbers: Float[np.ndarray, " n"]) -> Subgrouping:
    names = quantile_groups("part", numbers)
    return Subgrouping(names, tuple(np.unique(names[names != ""]).tolist()))


def quantile_groups(quantity: str, values: Real[np.ndarray, " n"], parts: int = PARTS) -> Shaped[np.ndarray, " n"]:
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


def attributes_of_folder(root: Path, config: DataConfig, ids: np.ndarray) -> pd.DataFrame | None:
    """The attributes that the settings name, or else those of attributes.csv in a data folder; None without either.

    Raises DataError where the table knows none of `ids`, (n,) str, or has a quantity that `appearance` computes.
    """
    path = config.attributes or table_at(root / "attributes.csv")
    if path is None:
        return None
    attributes = read_attributes(path)
    taken = [name for name in attributes.columns if name in QUANTITIES]
    if taken:
        raise DataError(f"has a column {taken[0]}, which is computed from the pixels", where=path, remedy="Rename it.")
    if not attributes.index.isin(ids).any():
        raise DataError(
            f"has {len(attributes)} rows, none of a training patch",
            where=path,
            remedy="Fix its ids, or give the table of these patches.",
        )
    return attributes


def read_attributes(path: Path) -> pd.DataFrame:
    """Read a table id,<column>,... of any properties of patches, indexed by id.

    A column is float64 where every known cell is a finite number, else str. What is not known, in any spelling of
    `is_unknown`, is NaN, or "" among words. An id may occur twice only with the same values.
    """
    table = read_table(path, purpose="id and a column for each property")
    id_column = column_of(table, ID_COLUMNS)
    if id_column is None or len(table.columns) < 2:
        raise DataError(
            f"has the columns {columns_of(table)}",
            where=path,
            remedy="It must have the column id and one for each property.",
        )
    columns = {str(name): _numbers_or_words(table[name]) for name in table.columns if name != id_column}
    attributes = pd.DataFrame({"id": require_ids(table, path), **columns}).drop_duplicates().set_index("id")
    twice = attributes.index[attributes.index.duplicated()]
    if len(twice):
        raise DataError(
            f"{len(twice)} ids have two different rows (first: {twice[0]})",
            where=path,
            remedy="Keep one row for each id.",
        )
    return attributes


def _numbers_or_words(cells: pd.Series) -> pd.Series:
    words = cells.str.strip()
    words = words.mask(is_unknown(words), "")
    known = words != ""
    numbers = pd.to_numeric(words.where(known), errors="coerce").astype(np.float64)
    return numbers if np.isfinite(numbers[known]).all() else words
