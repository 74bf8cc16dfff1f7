"""Slides that were judged -> what their page shows: warnings first, then every overlay, in an order of choice."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from sentinode.report.prose.cautions import NO_CLINIC
from sentinode.report.prose.numbers import MISSING, number
from sentinode.report.sections.tables import Table
from sentinode.slides.cohort import CohortRecord, SlideRow
from sentinode.slides.outputs import OVERLAY, THUMBNAIL, legend

_SIDE_PX: Final = 480
_ORDERS: Final[dict[str, tuple[str, Callable[[SlideRow], Any]]]] = {
    "warnings": ("warnings first", lambda row: (row.state != "failed", not row.warnings)),
    "tumour": ("most tumour", lambda row: -row.tumour_mm2),
    "highest": ("highest probability", lambda row: -row.max_probability if row.state == "done" else math.inf),
    "name": ("name", lambda row: row.folder.casefold()),
}


@dataclass(frozen=True)
class ShownSlide:
    """A slide in the grid."""

    name: str
    source: str
    """A data: URI, "" where there is no picture."""
    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    places: tuple[int, ...]
    """Its place in each order."""


def slides_context(folder: Path, record: CohortRecord) -> dict[str, Any]:
    done = [row for row in record.rows if row.state == "done"]
    orders = [[row.folder for row in sorted(record.rows, key=key)] for _, key in _ORDERS.values()]
    places = {row.folder: tuple(order.index(row.folder) for order in orders) for row in record.rows}
    with_lesions = sum(row.lesions > 0 for row in done)
    return {
        "title": f"{record.model} on {_counted(len(record.rows), 'slide')}",
        "note": record.note,
        "sections": {"overlays": "Slides", "table": "Table"},
        "facts": [
            f"{len(done)} of {len(record.rows)} slides judged",
            f"{with_lesions} with cells above {record.threshold:.4g} ({record.threshold_rule})",
        ],
        "warnings": _warnings(record),
        "cautions": [NO_CLINIC],
        "stride": record.stride,
        "orders": {name: label for name, (label, _) in _ORDERS.items()},
        "cards": [_card(folder, row, places[row.folder]) for row in record.rows],
        "reasons": {word: "#{:02x}{:02x}{:02x}".format(*colour) for word, colour in legend().items()},
        "rows": _table(record),
    }


def _warnings(record: CohortRecord) -> list[str]:
    failed = record.failed
    if not failed:
        return []
    return [
        f"{_counted(len(failed), 'slide')} could not be judged.",
        *(f"{row.folder}: {row.reason}" for row in failed),
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _card(folder: Path, row: SlideRow, places: tuple[int, ...]) -> ShownSlide:
    if row.state == "failed":
        return ShownSlide(row.folder, _picture(folder / row.folder / THUMBNAIL), (), (row.reason,), places)
    largest = f"; the largest is of the size of {_ARTICLE[row.largest]}" if row.largest else ""
    lines = (
        f"{row.tissue_mm2:.1f} mm² of tissue, {row.judged_share:.1%} of its cells judged",
        f"{_counted(row.lesions, 'lesion')}, {row.tumour_mm2:.2f} mm²{largest}" if row.lesions else "No lesion",
        f"Highest probability {number(row.max_probability, 3)}",
    )
    overlay = folder / row.folder / OVERLAY
    picture = overlay if overlay.is_file() else folder / row.folder / THUMBNAIL
    return ShownSlide(row.folder, _picture(picture), lines, row.warnings, places)


_ARTICLE: Final = {
    "isolated tumour cells": "isolated tumour cells",
    "micrometastasis": "a micrometastasis",
    "macrometastasis": "a macrometastasis",
}


def _picture(path: Path) -> str:
    """A picture, small enough for a page of hundreds."""
    if not path.is_file():
        return ""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_SIDE_PX, _SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _table(record: CohortRecord) -> Table:
    head = ["slide", "tissue, mm²", "judged", "highest", "lesions", "tumour, mm²", "longest axis, µm", "what is wrong"]
    rows = [
        [
            row.folder,
            number(row.tissue_mm2, 1),
            f"{row.judged_share:.1%}" if row.state == "done" else MISSING,
            number(row.max_probability, 3),
            f"{row.lesions:,}" if row.state == "done" else MISSING,
            number(row.tumour_mm2, 2) if row.state == "done" else MISSING,
            f"{row.longest_axis_um:,.0f}" if row.lesions else MISSING,
            row.reason or "; ".join(row.warnings),
        ]
        for row in record.rows
    ]
    return Table("Every slide, in the order given; the same in slides.csv.", head, rows, frozenset({"what is wrong"}))
