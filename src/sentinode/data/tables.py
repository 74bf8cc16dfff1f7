"""CSV tables keyed by patch id: labels, slides, groups, training and validation set, further attributes."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import os
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from sentinode.data.listing import Column, TableHead
from sentinode.errors import DataError
from sentinode.files import read_bytes

ID_COLUMNS = ("id", "patch", "patch_id", "patch_name", "name", "filename")
SLIDE_COLUMNS = ("slide", "wsi")
PATIENT_COLUMNS = ("patient", "patient_id")
GROUP_COLUMNS = ("group", "overlap_group", *PATIENT_COLUMNS)
# How R, pandas, databases and spreadsheets write what is not known, in lower case.
_UNKNOWN: Final = frozenset((
    "", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "none", "null", "nil", "nat", "unknown", "missing",
    ".", "-", "?",
))  # fmt: skip

# Far above any table of patches, and low enough that a table of any content takes neither a minute nor 1.5 GB.
_LARGEST_MB: Final = 128
_MOST_COLUMNS: Final = 10_000
_MOST_CELLS: Final = 8_000_000
_LONGEST_LINE: Final = 1_000_000  # characters
_SEPARATORS: Final = {",": "comma", ";": "semicolon", "\t": "tab"}
_BINARY: Final = {
    b"PK\x03\x04": "a zip file or a workbook",
    b"\x89HDF": "an HDF5 file",
    b"\xd0\xcf\x11\xe0": "a workbook",
}


def is_unknown(cells: pd.Series) -> pd.Series:
    """Which cells say that a value is not known: empty ones, and NA in the spellings of R, pandas and spreadsheets."""
    return cells.str.strip().str.lower().isin(_UNKNOWN)


def ids_of(cells: pd.Series) -> pd.Series:
    """Ids from cells that may be paths or names of image files, of any system: "train\\a.TIF" is "a"."""
    ids = cells.str.strip().str.replace("\\", "/", regex=False).str.rsplit("/", n=1).str[-1]
    return ids.str.replace(r"\.(tiff?|png|jpe?g|webp|bmp)$", "", regex=True, case=False)


def read_table(path: Path, *, purpose: str) -> pd.DataFrame:
    """Read a table as text, nothing guessed: every cell a str, an empty or absent one "".

    Separated by commas, semicolons or tabs, as the header tells; UTF-8, or UTF-16 with its mark; plain or gzipped.
    Letters are brought to one form of Unicode (NFC), so that an "ö" of macOS is an "ö". Columns without a name are
    dropped where they are empty, and so are empty rows. Raises DataError where a row has more cells than the header
    has names, two columns share a name, or the file is larger than any table of patches.
    """
    remedy = f"Give a CSV file with a header row: {purpose}."
    lines = _lines(_text(path, remedy), path, remedy)
    header = next((line for line in lines if line.strip()), "")
    if not header:
        raise DataError("is empty", where=path, remedy=remedy)
    hint = re.fullmatch(r'"?sep=(.)"?\s*', header)  # a first line of its own for Excel
    if hint:
        header = next(lines, "")
    separator = hint[1] if hint else _separator(header, path)
    reader = csv.reader(itertools.chain([header], lines), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        names = [name.strip() for name in next(reader)]
        if len(names) > _MOST_COLUMNS:
            raise DataError(
                f"has {len(names):,} columns, more than the {_MOST_COLUMNS:,} that are read", where=path, remedy=remedy
            )
        rows = list(_rows(reader, len(names), path, remedy))
    except csv.Error as error:
        raise DataError(f"cannot be read as CSV ({error})", where=path, remedy=remedy) from error
    if not rows:
        raise DataError("has a header but no rows", where=path, remedy=remedy)
    columns = [(name, cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True) if name or any(cells)]
    twice = next((name for name, count in Counter(name for name, _ in columns).items() if name and count > 1), None)
    if twice is not None:
        raise DataError(f"has two columns {twice!r}", where=path, remedy="Remove or rename one of them.")
    return pd.DataFrame({name: pd.Series(cells, dtype=str) for name, cells in columns})


def columns_of(table: pd.DataFrame) -> str:
    """The names of a table's columns for a message: the first few, and how many more there are."""
    names = [str(name) for name in table.columns]
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return f"{', '.join(name[:60] for name in names[:10])}{more}"


def _text(path: Path, remedy: str) -> str:
    content = read_bytes(path, limit_mb=_LARGEST_MB, remedy=remedy)
    if content[:2] == b"\x1f\x8b":
        content = _unzipped(content, path, remedy)
    binary = next((what for mark, what in _BINARY.items() if content.startswith(mark)), None)
    if binary:
        raise DataError(f"is {binary}, not CSV", where=path, remedy="Save it as CSV (UTF-8).")
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"is not written in UTF-8 (line {line:,})", where=path, remedy="Save it as CSV (UTF-8)."
        ) from error
    if "\0" in text:
        raise DataError(
            "holds NUL characters: it is no text, or UTF-16 without its mark",
            where=path,
            remedy="Save it as CSV (UTF-8).",
        )
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _unzipped(content: bytes, path: Path, remedy: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            text = file.read(int(_LARGEST_MB * 1e6) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"is a damaged gzip file ({error})", where=path, remedy="Restore the file.") from error
    if len(text) > _LARGEST_MB * 1e6:
        raise DataError(
            f"holds more than the {_LARGEST_MB} MB that are read once it is unzipped", where=path, remedy=remedy
        )
    return text


def _lines(text: str, path: Path, remedy: str) -> Iterator[str]:
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if len(line) > _LONGEST_LINE:
            raise DataError(f"has a line of {len(line):,} characters (line {number:,})", where=path, remedy=remedy)
        yield line


def _separator(header: str, path: Path) -> str:
    unquoted = re.sub(r'"[^"]*"', "", header)
    found = [separator for separator in _SEPARATORS if separator in unquoted]
    if len(found) > 1:
        raise DataError(
            f"has {' and '.join(_SEPARATORS[separator] + 's' for separator in found)} in its header, so what separates "
            "the columns cannot be told",
            where=path,
            remedy="Quote the names, or save it as CSV with commas.",
        )
    return found[0] if found else ","


def _rows(reader: Iterator[list[str]], width: int, path: Path, remedy: str) -> Iterator[list[str]]:
    """The rows that hold anything, each with a cell for every name."""
    cells = 0
    for number, row in enumerate(reader, 2):  # as spreadsheets count, the header first
        if not any(row):
            continue
        if len(row) != width:
            if any(row[width:]):
                raise DataError(
                    f"has {len(row):,} cells in row {number:,}, and {width:,} names in its header",
                    where=path,
                    remedy="Name every column, and quote cells that hold the separator.",
                )
            row = [*row[:width], *[""] * (width - len(row))]  # trailing separators; or Excel, which drops empty cells
        cells += width
        if cells > _MOST_CELLS:
            raise DataError(f"has more than the {_MOST_CELLS:,} cells that are read", where=path, remedy=remedy)
        yield row


def column_of(table: pd.DataFrame, candidates: Sequence[str]) -> str | None:
    """The first of `candidates` that is a column of the table, under the name it has there; case does not count."""
    named = {str(name).casefold(): str(name) for name in table.columns}
    return next((named[name.casefold()] for name in candidates if name.casefold() in named), None)


def read_column_by_id(path: Path, candidates: Sequence[str]) -> dict[str, str]:
    """Read an id -> value table for a join by id; an id may occur twice only with the same value.

    The first of `candidates` that is a column gives the values. "FILE.csv:column" names another. A value that is not
    known, in any spelling of `is_unknown`, is "".
    """
    return read_named_column(path, candidates)[1]


def read_named_column(path: Path, candidates: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The name of the column that `read_column_by_id` reads, as the table has it, and what it holds."""
    file, _, named = str(path).rpartition(":") if not path.exists() and ":" in str(path) else (str(path), "", "")
    wanted = (named,) if named else tuple(candidates)
    table = read_table(Path(file), purpose=f"id,{wanted[0]}")
    column = column_of(table, wanted)
    if column_of(table, ID_COLUMNS) is None or column is None:
        raise DataError(
            f"has the columns {columns_of(table)}",
            where=file,
            remedy=f"It must have the columns id and {' or '.join(wanted)}.",
        )
    values = table[column].str.strip()
    pairs = pd.DataFrame({"id": require_ids(table, Path(file)), "value": values.mask(is_unknown(values), "")})
    pairs = pairs.drop_duplicates()
    twice = pairs["id"][pairs["id"].duplicated()]
    if len(twice):
        raise DataError(
            f"{len(twice)} ids have two different values of {column} (first: {twice.iloc[0]})",
            where=file,
            remedy="Keep one row for each id.",
        )
    return column, dict(zip(pairs["id"].tolist(), pairs["value"].tolist(), strict=True))


def table_at(path: Path) -> Path | None:
    """The path, if anything lies there: a directory or a link to nothing is to be refused, not passed over."""
    return path if os.path.lexists(path) else None


def require_ids(table: pd.DataFrame, path: Path) -> pd.Series:
    """The ids of a table that has a column of them; raises DataError where a row has none."""
    ids = ids_of(table[column_of(table, ID_COLUMNS)])
    without = int((ids == "").sum())
    if without:
        raise DataError(f"{without:,} of {len(ids):,} rows have no id", where=path, remedy="Fix the table.")
    return ids


_ROWS: Final = 5


def head_of(path: Path) -> TableHead:
    """The first five rows and the columns of a table; raises DataError for a file that is none."""

    def column(name: str) -> Column:
        cells = table[name]
        unknown = is_unknown(cells)
        numbers = pd.to_numeric(cells[~unknown], errors="coerce").notna()
        return Column(name, "numbers" if len(numbers) and numbers.all() else "text", int(unknown.sum()))

    table = read_table(path, purpose="id,label")
    first = tuple(tuple(row) for row in table.head(_ROWS).itertuples(index=False))
    return TableHead(path.name, len(table), tuple(column(str(name)) for name in table.columns), first)
