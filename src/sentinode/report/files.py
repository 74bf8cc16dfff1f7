"""What a page shows, as files for a paper or a talk: each figure as SVG, PDF and PNG, each table as CSV and LaTeX.

    figures/<name>.svg, .pdf, .png    85 mm wide, a column of a journal, on white; the PNG with 300 dots an inch
    tables/<name>.csv, .tex           the page's own text; LaTeX for the package booktabs

Figures are drawn, and tables are made, while a page is written. `kept_in` says where they go meanwhile.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sentinode.artefacts import claim, write_bytes, write_text
from sentinode.errors import storage_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sentinode.report.sections.tables import Table

_COLUMN_IN: Final = 85 / 25.4
_DPI: Final = 300
_LONGEST_NAME: Final = 60
_SPECIAL: Final = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "\N{MINUS SIGN}": "$-$",
    "\N{NO-BREAK SPACE}": "~",
}
_PLACE: Final[ContextVar[Path | None]] = ContextVar("place", default=None)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Let every figure and table of the pages that are written meanwhile go into a new folder too.

    Raises RunError where the folder is not empty, StorageError where it cannot be written.
    """
    with claim(folder):
        token = _PLACE.set(folder)
        try:
            yield
        finally:
            _PLACE.reset(token)


def keep_figure(figure: Figure, name: str) -> None:
    """Save a figure that a page shows; it is laid out anew for its width, and left so."""
    place = _PLACE.get()
    if place is None:
        return
    from matplotlib import rc_context

    width, height = figure.get_size_inches()
    figure.set_size_inches(_COLUMN_IN, height * _COLUMN_IN / width)
    (place / "figures").mkdir(exist_ok=True)
    for kind, undated in (("svg", {"Date": None}), ("pdf", {"CreationDate": None}), ("png", {})):
        buffer = io.BytesIO()
        with rc_context({"pdf.fonttype": 42, "savefig.facecolor": "white"}):  # letters stay letters
            figure.savefig(buffer, format=kind, dpi=_DPI, metadata=undated)
        write_bytes(place / "figures" / f"{_as_name(name)}.{kind}", buffer.getvalue())


def keep_tables(context: Mapping[str, Any]) -> None:
    """Save every table among what a page is made of."""
    place = _PLACE.get()
    if place is None:
        return
    folder = place / "tables"
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
    for table in _tables_in(context):
        name = stem = _as_name(table.caption or " ".join(table.head[:3]))
        number = 1
        while (folder / f"{name}.csv").exists():
            number += 1
            name = f"{stem}-{number}"
        write_text(folder / f"{name}.csv", as_csv(table))
        write_text(folder / f"{name}.tex", as_latex(table))


def as_csv(table: Table) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.head, *table.rows])
    return text.getvalue()


def as_latex(table: Table) -> str:
    """A tabular with its caption, words to the left and numbers to the right."""
    columns = "".join("l" if at == 0 or name in table.text else "r" for at, name in enumerate(table.head))
    rows = [" & ".join(map(_escaped, cells)) + r" \\" for cells in (table.head, *table.rows)]
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
    ]
    caption = [rf"\caption{{{_escaped(table.caption)}}}"] if table.caption else []
    return "\n".join([r"\begin{table}", r"\centering", *caption, *lines, r"\end{table}", ""])


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(c, c) for c in text)


def _tables_in(found: object) -> Iterator[Table]:
    """The tables in nested mappings, sequences and records, each once, in order."""
    from sentinode.report.sections.tables import Table

    seen: set[int] = set()

    def walk(value: object) -> Iterator[Table]:
        if id(value) in seen or isinstance(value, str | bytes):
            return
        seen.add(id(value))
        if isinstance(value, Table):
            yield value
        elif isinstance(value, Mapping):
            for inner in value.values():
                yield from walk(inner)
        elif isinstance(value, Sequence):
            for inner in value:
                yield from walk(inner)
        elif is_dataclass(value):
            for of in fields(value):
                yield from walk(getattr(value, of.name, None))

    return walk(found)


def _as_name(text: str) -> str:
    """A file's name from words: what they begin with, up to the first stop."""
    first = re.split(r"[.,;:]\s", text)[0]
    plain = unicodedata.normalize("NFKD", first).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST_NAME].strip("-") or "table"
