"""Heat maps that are finished: tiles of their layers, single cells, lesions. Nothing is judged here.

What lies in a slide's folder is believed once its digests are right, and looked at again when a file of it changes.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sentinode.apps.web.answers import HeatMapCell, HeatMapPlace
from sentinode.apps.web.uploads import RefusedError
from sentinode.errors import RunError
from sentinode.slides.outputs import (
    LESIONS,
    SLIDE_MANIFEST,
    SlideRecord,
    cell_in,
    open_layers,
    open_slide_record,
    reasons_in,
)

TILE_CELLS: Final = 256
_OPEN_AT_ONCE: Final = 4
_AGAIN: Final = "Judge the slide again."


@dataclass(frozen=True, eq=False)
class HeatMapFiles:
    """The files of one finished heat map, opened."""

    folder: Path
    record: SlideRecord
    layers: Mapping[str, Sequence[UInt8[np.ndarray, "rows columns"]]]
    """By name, in levels of Deep Zoom: the first has one pixel, the last a pixel a cell."""
    reasons: Mapping[str, float]
    """Of the cells of tissue, the share for which a reason stands."""

    @classmethod
    def open(cls, folder: Path) -> HeatMapFiles:
        """Raises RunError where a file is missing or has changed."""
        record = open_slide_record(folder)
        if record.request.places is not None:
            return cls(folder, record, {}, {})
        shares = {word: count / max(record.tissue_cells, 1) for word, count in reasons_in(folder).items()}
        return cls(folder, record, {name: levels[::-1] for name, levels in open_layers(folder).items()}, shares)

    @property
    def place(self) -> HeatMapPlace:
        """Where it lies on its slide, and what it was judged by."""
        record = self.record
        return HeatMapPlace(
            rows=record.rows,
            columns=record.columns,
            step_px=list(record.step),
            step_um=list(record.step_um),
            threshold=record.request.threshold,
            threshold_rule=record.threshold_rule,
            model_sha256=record.request.model,
            layers=list(self.layers),
            tile=TILE_CELLS,
            max_level=len(self.layers["probability"]) - 1,
            reasons=dict(self.reasons),
        )

    def picture(self) -> bytes:
        """The probabilities as one PNG, a pixel a cell."""
        return _png(self.layers["probability"][-1])

    def tile(self, layer: str, level: int, column: int, row: int) -> bytes:
        """A tile of a layer as PNG; raises RefusedError for one that is not there."""
        if layer not in self.layers:
            raise RefusedError(404, f"layers: of this heat map are {' and '.join(self.layers)}.")
        levels = self.layers[layer]
        if not 0 <= level < len(levels):
            raise RefusedError(404, f"level: the heat map has 0 to {len(levels) - 1}, not {level}.")
        top, left = row * TILE_CELLS, column * TILE_CELLS
        rows, columns = levels[level].shape
        if not (0 <= top < rows and 0 <= left < columns):
            raise RefusedError(404, f"level {level}: is {columns} x {rows} cells; no tile begins at {left}, {top}.")
        return _png(levels[level][top : top + TILE_CELLS, left : left + TILE_CELLS])

    def cell(self, x: float, y: float) -> HeatMapCell:
        """What is said of the cell at a pixel of level 0; raises RefusedError for a place beside the slide."""
        record = self.record
        if not (0 <= x < record.width_px and 0 <= y < record.height_px):
            raise RefusedError(404, f"x, y: the slide is {record.width_px} x {record.height_px} pixels.")
        row, column = int(y // record.step[1]), int(x // record.step[0])
        probability, disagreement, reason = cell_in(
            self.folder, record, min(row, record.rows - 1), min(column, record.columns - 1)
        )
        return HeatMapCell(probability=probability, disagreement=disagreement, reason=reason)

    def lesions(self) -> bytes:
        """The GeoJSON that `sentinode slides` wrote."""
        return (self.folder / LESIONS).read_bytes()


class HeatMaps:
    """Those of folders that were asked for last are held; several threads may ask."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, tuple[object, HeatMapFiles]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, folder: Path, name: str) -> HeatMapFiles | None:
        """The heat map in a slide's folder; None where none is finished, or places alone were judged.

        Raises RefusedError, which names the slide and no folder, where a file is missing or has changed.
        """
        if not (folder / SLIDE_MANIFEST).is_file():
            return None
        now = [(path.name, (told := path.stat()).st_size, told.st_mtime_ns) for path in sorted(folder.iterdir())]
        with self._lock:
            before, files = self._open.get(folder, (None, None))
            if files is None or before != now:
                try:
                    files = HeatMapFiles.open(folder)
                except RunError as error:
                    raise RefusedError(409, f"{name}: a file of its heat map {error.what}. {_AGAIN}") from error
                self._open[folder] = now, files
            self._open.move_to_end(folder)
            if len(self._open) > _OPEN_AT_ONCE:
                self._open.popitem(last=False)
        return files if files.layers else None


def _png(levels: UInt8[np.ndarray, "rows columns"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG", compress_level=1)
    return file.getvalue()
