"""CSV tables keyed by patch id: labels, slides, groups, sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sentinode.errors import DataError

_ID_COLUMNS = ("id", "patch", "patch_id", "patch_name", "name", "filename")
SLIDE_COLUMNS = ("slide", "wsi")
GROUP_COLUMNS = ("group", "overlap_group")


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
    id_column = next((name for name in _ID_COLUMNS if name in table.columns), None)
    column = next((name for name in wanted if name in table.columns), None)
    if id_column is None or column is None:
        raise DataError(
            f"has the columns {', '.join(table.columns)}",
            where=file,
            remedy=f"It must have the columns id and {' or '.join(wanted)}.",
        )
    ids = table[id_column].str.strip().str.rsplit("/", n=1).str[-1]
    ids = ids.str.replace(r"\.(tiff?|png|jpe?g|webp|bmp)$", "", regex=True)
    pairs = pd.DataFrame({"id": ids, "value": table[column].str.strip()}).drop_duplicates()
    twice = pairs["id"][pairs["id"].duplicated()]
    if len(twice):
        raise DataError(
            f"{len(twice)} ids have two different values of {column} (first: {twice.iloc[0]})",
            where=file,
            remedy="Keep one row for each id.",
        )
    return dict(zip(pairs["id"].tolist(), pairs["value"].tolist(), strict=True))
