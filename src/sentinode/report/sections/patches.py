"""Pieces that several pages share: galleries of mistakes, the confusion matrix, left-out counts."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentinode.data.listing import TableHead
from sentinode.evaluation.metrics import Confusion
from sentinode.explain.galleries import MISTAKES_A_CLASS, worst_mistakes
from sentinode.inference.predictions import Predictions
from sentinode.report.figures.charts import Chart
from sentinode.report.prose.numbers import number
from sentinode.report.sections.tables import Table, confusion_of
from sentinode.runs.study_record import InputRange


@dataclass(frozen=True)
class Answer:
    """What begins a page: a question, its answer, and how sure that is, beside the chart that shows it."""

    question: str
    answer: str
    sure: Sequence[str]
    charts: Sequence[Chart] = ()
    section: str = ""
    """The section of the page that has the details."""


@dataclass(frozen=True)
class Gallery:
    title: str
    kind: str
    """"negative" or "positive": the colour of its frame."""
    pictures: list[Picture]
    caption: str = ""


@dataclass(frozen=True)
class SideBySide:
    """Pictures that are to be looked at together."""

    pictures: Sequence[Picture]
    caption: str


@dataclass(frozen=True)
class Matrix:
    """Counts at the threshold 0.5, and in words whose they are, on which patches."""

    whose: str
    counts: Confusion

    @property
    def caption(self) -> str:
        rates = {"Sensitivity": self.counts.sensitivity, "specificity": self.counts.specificity}
        told = [f"{name} {number(rate, 3) if rate == rate else 'undefined'}" for name, rate in rates.items()]
        return f"{self.whose}. {', '.join(told)}."

    def share(self, part: int, of_class: int) -> float:
        return part / of_class if of_class else 0.0


def matrix(whose: str, predictions: Predictions) -> Matrix:
    return Matrix(whose, confusion_of(predictions))


def mistakes(folder: Path, predictions: Predictions) -> list[Gallery]:
    """False positives and false negatives, the most confident first, with the pictures that the folder has of them."""
    titles = (
        ("Called tumour, labelled tumour-free", "negative", "False positives, most confident first."),
        ("Tumour missed", "positive", "False negatives, most confident first."),
    )
    galleries = []
    for rows, (title, kind, caption) in zip(worst_mistakes(predictions), titles, strict=True):
        shown = rows[:MISTAKES_A_CLASS]
        pairs = zip(predictions.ids[shown].tolist(), predictions.probabilities[shown].tolist(), strict=True)
        galleries.append(Gallery(title, kind, [picture(folder, i, f"p = {p:.3f}") for i, p in pairs], caption))
    return galleries


def inputs(folder: Path, ranges: Sequence[InputRange]) -> list[SideBySide]:
    """Each patch, what a network is given of it, and how training varies that; the last where there is a picture."""
    strips = []
    for of in ranges:
        shown = {
            "patch": picture(folder, of.id),
            f"input, {of.lowest:.2f} to {of.highest:.2f}": picture(folder, f"{of.id}.input"),
            "varied": picture(folder, f"{of.id}.varied"),
        }
        found = {name: each for name, each in shown.items() if each.source}
        strips.append(SideBySide(list(found.values()), "; ".join(found)))
    return [strip for strip in strips if strip.pictures]


def head(table: TableHead) -> list[Table]:
    """The first rows of a table, and its schema."""
    names = [column.name for column in table.columns]
    schema = [[column.name, column.kind, f"{column.empty:,}"] for column in table.columns]
    return [
        Table(f"{table.file}: the first {len(table.first)} of {table.rows:,} rows.", names, table.first),
        Table(f"{table.file}: its columns.", ["column", "holds", "empty"], schema, frozenset({"holds"})),
    ]


def left_out(counts: Mapping[str, int]) -> Table | None:
    if not any(counts.values()):
        return None
    rows = [[reason, f"{count:,}"] for reason, count in counts.items()]
    return Table("Patches left out.", ["reason", "patches"], rows)


@dataclass(frozen=True)
class Picture:
    """A patch to show; `source` is a data: URI, "" where the folder holds no picture of it."""

    id: str
    source: str
    caption: str = ""

    @property
    def short_id(self) -> str:
        return self.id if len(self.id) <= 12 else f"{self.id[:8]}…"


def picture(folder: Path, patch_id: str, caption: str = "") -> Picture:
    path = folder / "pictures" / f"{patch_id}.png"
    if path.parent != folder / "pictures" or not path.is_file():
        return Picture(patch_id, "", caption)
    return Picture(patch_id, "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"), caption)


def thumbnail(folder: Path, patch_id: str, caption: str = "") -> Picture:
    """A small picture of a patch, for where there are many."""
    path = folder / "pictures" / f"{patch_id}.small.jpg"
    if path.parent != folder / "pictures" or not path.is_file():
        return Picture(patch_id, "", caption)
    return Picture(patch_id, "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii"), caption)


def pictures(folder: Path, patch_ids: Iterable[str]) -> list[Picture]:
    return [picture(folder, patch_id) for patch_id in patch_ids]
