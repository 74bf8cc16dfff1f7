"""CSV tables keyed by patch id: labels, slides, groups, sides of a split, further attributes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sentinode.config import DataConfig
from sentinode.data.appearance import QUANTITIES
from sentinode.errors import DataError

_ID_COLUMNS = ("id", "patch", "patch_id", "patch_name", "name", "filename")
SLIDE_COLUMNS = ("slide", "wsi")
GROUP_COLUMNS = ("group", "overlap_group")
_UNKNOWN = ("", "na", "nan")


def read_table(path: Path, *, purpose: str) -> pd.DataFrame:
    """Read a CSV as text, nothing guessed: every cell a str, an empty one ""."""
    remedy = f"Give a CSV file with a header row: {purpose}."
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError("is missing", where=path, remedy=remedy) from error
    except pd.errors.EmptyDataError as error:
        raise DataError("is empty", where=path, remedy=remedy) from error
    except (OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise DataError(f"cannot be read as CSV ({error})", where=path, remedy=remedy) from error
    table.columns = [str(name).strip() for name in table.columns]
    if table.empty:
        raise DataError("has a header but no rows", where=path, remedy=remedy)
    return table


def read_column_by_id(path: Path, candidates: Sequence[str]) -> dict[str, str]:
    """Read an id -> value table for a join by id; an id may stand twice only with the same value.

    The first of `candidates` that is a column gives the values. "FILE.csv:column" names another.
    """
    file, _, named = str(path).rpartition(":") if not path.exists() and ":" in str(path) else (str(path), "", "")
    wanted = (named,) if named else tuple(candidates)
    table = read_table(Path(file), purpose=f"id,{wanted[0]}")
    id_column = _id_column(table)
    column = next((name for name in wanted if name in table.columns), None)
    if id_column is None or column is None:
        raise DataError(
            f"has the columns {', '.join(table.columns)}",
            where=file,
            remedy=f"It must have the columns id and {' or '.join(wanted)}.",
        )
    pairs = pd.DataFrame({"id": _ids(table[id_column]), "value": table[column].str.strip()}).drop_duplicates()
    twice = pairs["id"][pairs["id"].duplicated()]
    if len(twice):
        raise DataError(
            f"{len(twice)} ids have two different values of {column} (first: {twice.iloc[0]})",
            where=file,
            remedy="Keep one row for each id.",
        )
    return dict(zip(pairs["id"].tolist(), pairs["value"].tolist(), strict=True))


def read_attributes(path: Path) -> pd.DataFrame:
    """Read a table id,<column>,... of any properties of patches, indexed by id.

    A column is float64 where every known cell is a finite number, else str. An empty cell, "NA" or "NaN" is
    unknown: NaN, or "" among words. An id may stand twice only with the same values.
    """
    table = read_table(path, purpose="id and a column for each property")
    id_column = _id_column(table)
    if id_column is None or len(table.columns) < 2:
        raise DataError(
            f"has the columns {', '.join(table.columns)}",
            where=path,
            remedy="It must have the column id and one for each property.",
        )
    columns = {str(name): _numbers_or_words(table[name]) for name in table.columns if name != id_column}
    attributes = pd.DataFrame({"id": _ids(table[id_column]), **columns}).drop_duplicates().set_index("id")
    twice = attributes.index[attributes.index.duplicated()]
    if len(twice):
        raise DataError(
            f"{len(twice)} ids have two different rows (first: {twice[0]})",
            where=path,
            remedy="Keep one row for each id.",
        )
    return attributes


def attributes_of_folder(root: Path, config: DataConfig, ids: np.ndarray) -> pd.DataFrame | None:
    """The attributes that the settings name, or else those of attributes.csv in a data folder; None without either.

    Raises DataError where the table knows none of `ids`, (n,) str, or has a quantity that `appearance` computes.
    """
    default = root / "attributes.csv"
    path = config.attributes or (default if default.is_file() else None)
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
            remedy="Mend its ids, or give the table of these patches.",
        )
    return attributes


def _id_column(table: pd.DataFrame) -> str | None:
    return next((name for name in _ID_COLUMNS if name in table.columns), None)


def _ids(cells: pd.Series) -> pd.Series:
    """Ids from cells that may be paths or names of image files."""
    ids = cells.str.strip().str.rsplit("/", n=1).str[-1]
    return ids.str.replace(r"\.(tiff?|png|jpe?g|webp|bmp)$", "", regex=True)


def _numbers_or_words(cells: pd.Series) -> pd.Series:
    words = cells.str.strip()
    words = words.mask(words.str.lower().isin(_UNKNOWN), "")
    known = words != ""
    numbers = pd.to_numeric(words.where(known), errors="coerce").astype(np.float64)
    return numbers if np.isfinite(numbers[known]).all() else words
