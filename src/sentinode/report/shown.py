"""What a page shows, for a paper, a talk or a notebook: each figure as SVG, PDF and PNG, each table as CSV and LaTeX.

    figures/<name>.svg, .pdf, .png    85 mm wide, a column of a journal, on white; the PNG with 300 dots an inch
    tables/<name>.csv, .tex           the page's own text; LaTeX for the package booktabs

Figures are drawn, and tables are made, while a page is; `gathered` keeps them, for files or for a notebook.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from sentinode.artefacts import claim, write_bytes, write_text
from sentinode.errors import ConfigError, storage_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sentinode.report.sections.tables import Table

_COLUMN_IN: Final = 85 / 25.4
_DPI: Final = 300
Kind = Literal["svg", "pdf", "png"]
_SAVED: Final[dict[Any, Any]] = {
    "pdf.fonttype": 42,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "sentinode",
}
KINDS: Final[tuple[Kind, ...]] = ("svg", "pdf", "png")
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


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure as a page shows it, 85 mm wide and on white; a notebook displays it."""

    figure: Figure

    def as_bytes(self, kind: Kind) -> bytes:
        """The PNG has 300 dots an inch; letters stay letters in the others."""
        from matplotlib import rc_context

        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
        buffer = io.BytesIO()
        with rc_context(_SAVED):
            self.figure.savefig(buffer, format=kind, dpi=_DPI, metadata=undated)
        return buffer.getvalue()

    def save(self, path: Path) -> None:
        """As the path's ending says: .svg, .pdf or .png."""
        kind = next((kind for kind in KINDS if path.suffix.lower() == f".{kind}"), None)
        if kind is None:
            raise ConfigError("is no .svg, .pdf or .png", where=path, remedy="Choose one of these endings.")
        write_bytes(path, self.as_bytes(kind))

    def _repr_svg_(self) -> str:
        return self.as_bytes("svg").decode()


@dataclass(eq=False)
class Shown:
    """The figures and tables of a page, by the names of their files."""

    figures: dict[str, Drawing] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Raises RunError where the folder is not empty, StorageError where it cannot be written."""
        with claim(folder), storage_errors(folder):
            for inner in ("figures", "tables"):
                (folder / inner).mkdir(exist_ok=True)
            for name, drawing in self.figures.items():
                for kind in KINDS:
                    write_bytes(folder / "figures" / f"{name}.{kind}", drawing.as_bytes(kind))
            for name, table in self.tables.items():
                write_text(folder / "tables" / f"{name}.csv", as_csv(table))
                write_text(folder / "tables" / f"{name}.tex", as_latex(table))


_GATHERED: Final[ContextVar[Shown | None]] = ContextVar("gathered", default=None)


@contextmanager
def gathered() -> Iterator[Shown]:
    """Every figure and table of the pages that are made meanwhile."""
    shown = Shown()
    token = _GATHERED.set(shown)
    try:
        yield shown
    finally:
        _GATHERED.reset(token)


def keep_figure(figure: Figure, name: str) -> None:
    """Keep a figure that a page shows, if anyone gathers; it is laid out anew for its width, and left so."""
    shown = _GATHERED.get()
    if shown is not None:
        width, height = figure.get_size_inches()
        figure.set_size_inches(_COLUMN_IN, height * _COLUMN_IN / width)
        shown.figures[_as_name(name)] = Drawing(figure)


def keep_tables(context: Mapping[str, Any]) -> None:
    """Keep every table among what a page is made of, if anyone gathers."""
    shown = _GATHERED.get()
    if shown is None:
        return
    for table in _tables_in(context):
        name = stem = _as_name(table.caption or " ".join(table.head[:3]))
        number = 1
        while name in shown.tables:
            number += 1
            name = f"{stem}-{number}"
        shown.tables[name] = table


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
