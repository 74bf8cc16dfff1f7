"""The head and the schema of a table, as one looks at it first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

_ROWS: Final = 5


@dataclass(frozen=True)
class Column:
    """A column of a table; `empty` cells hold nothing or say that a value is not known."""

    name: str
    kind: Literal["text", "numbers"]
    empty: int


@dataclass(frozen=True)
class TableHead:
    """What is seen of a table at the first look; `first` are its first rows."""

    file: str
    rows: int
    columns: tuple[Column, ...]
    first: tuple[tuple[str, ...], ...]


def head_of(path: Path) -> TableHead:
    """The first five rows and the columns of a table; raises DataError for a file that is none."""
    import pandas as pd

    from sentinode.data.tables import is_unknown, read_table

    def column(name: str) -> Column:
        cells = table[name]
        unknown = is_unknown(cells)
        numbers = pd.to_numeric(cells[~unknown], errors="coerce").notna()
        return Column(name, "numbers" if len(numbers) and numbers.all() else "text", int(unknown.sum()))

    table = read_table(path, purpose="id,label")
    first = tuple(tuple(row) for row in table.head(_ROWS).itertuples(index=False))
    return TableHead(path.name, len(table), tuple(column(str(name)) for name in table.columns), first)
