"""A slide and a classifier -> one probability for each cell of tissue: a square of 32 pixels that a label speaks of.

A cell is judged by the patch of 96 pixels whose centre it is, at the spacing of the patches that the model was trained
on. The grid of cells begins at the slide's upper left corner. The slide is gone over block by block: while a block is
judged, the next is read; what is held does not grow with the slide, but for one byte and two numbers a cell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.errors import DataError
from sentinode.inference.classifier import Classifier
from sentinode.slides.reader import Plane, Rgb, Slide
from sentinode.slides.tissue import OVERVIEW_UM_PER_PX, Reason, blurred, find_tissue

CELL_PX: Final = CENTRE_SIZE_PX
BLOCK_CELLS: Final = 32
"""Cells along a block's side; 1,024 cells are judged at once."""
_MARGIN_PX: Final = (PATCH_SIZE_PX - CELL_PX) // 2
_PLACES_AT_ONCE: Final = 256
_COMPARED: Final = 500


@dataclass(frozen=True)
class Grid:
    """The cells of a slide: cell (row, column) has its upper left corner at `column * step[0]`, `row * step[1]`."""

    rows: int
    columns: int
    step: tuple[float, float]
    """Sides of a cell along x and y, in pixels of level 0."""
    step_um: tuple[float, float]

    @classmethod
    def of(cls, plane: Plane) -> Grid:
        rows, columns = -(-plane.height // CELL_PX), -(-plane.width // CELL_PX)
        step = plane.scale[0] * CELL_PX, plane.scale[1] * CELL_PX
        return cls(rows, columns, step, (plane.spacing[0] * CELL_PX, plane.spacing[1] * CELL_PX))

    @property
    def cell_mm2(self) -> float:
        return self.step_um[0] * self.step_um[1] * 1e-6


@dataclass(frozen=True, eq=False)
class HeatMap:
    """What a model says of each cell of a slide; NaN where nothing was judged, and `reason` says why."""

    grid: Grid
    probability: Float32[np.ndarray, "rows columns"]
    disagreement: Float32[np.ndarray, "rows columns"]
    """Standard deviation of the probabilities of the model's networks; NaN where it has one."""
    reason: UInt8[np.ndarray, "rows columns"]
    """A `Reason` each."""

    @classmethod
    def empty(cls, grid: Grid, reason: UInt8[np.ndarray, "rows columns"]) -> HeatMap:
        """Before anything is judged; `reason` says what is to be."""
        nothing = np.full((grid.rows, grid.columns), np.nan, np.float32)
        return cls(grid, nothing, nothing.copy(), reason.copy())

    def put(self, block: Block) -> None:
        place = block.rows, block.columns
        self.probability[place], self.disagreement[place] = block.probability, block.disagreement
        self.reason[place] = block.reason


@dataclass(frozen=True, eq=False)
class Block:
    """The result of one block of cells; `number` counts the blocks of a slide row by row, also those without tissue."""

    number: int
    rows: slice
    columns: slice
    probability: Float32[np.ndarray, "rows columns"]
    disagreement: Float32[np.ndarray, "rows columns"]
    reason: UInt8[np.ndarray, "rows columns"]


def heat_map(slide: Slide, classifier: Classifier, *, on_progress: Callable[[int, int], None] | None = None) -> HeatMap:
    """Judge every cell of a slide that shows tissue.

    `on_progress` hears how many cells are done, and of how many. Raises DataError where the slide has no spacing, is
    too coarse, or shows no tissue.
    """
    plane = slide.plane(classifier.spacing_um_per_px)
    tissue = find_tissue(slide.overview(OVERVIEW_UM_PER_PX))
    if not (tissue.reason == Reason.JUDGED).any():
        raise without_tissue(slide.path)
    found = HeatMap.empty(Grid.of(plane), tissue.of_cells(plane, CELL_PX))
    total, done = int((found.reason == Reason.JUDGED).sum()), 0
    for block in judge_blocks(plane, classifier, found.reason.copy()):
        done += int((found.reason[block.rows, block.columns] == Reason.JUDGED).sum())
        found.put(block)
        if on_progress:
            on_progress(done, total)
    return found


def without_tissue(path: Path) -> DataError:
    """The error of a slide on which nothing can be judged: never a row that is missing."""
    return DataError(
        "shows no tissue that can be judged",
        where=path,
        remedy="Look at its thumbnail: it may be blank, of another section, or not stained with H&E.",
    )


def judge_blocks(
    plane: Plane,
    classifier: Classifier,
    reason: UInt8[np.ndarray, "rows columns"],
    *,
    done: Container[int] = frozenset(),
) -> Iterator[Block]:
    """The blocks that hold cells to be judged, in order, but for those whose numbers are in `done`.

    `reason` says which cells are to be judged. A cell that turns out to be out of focus, or whose patch cannot be
    decoded, is left out with that reason.
    """
    waiting = [block for block in _blocks(reason) if block[0] not in done]
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        ahead: Future[tuple[Rgb, Bool[np.ndarray, "h w"] | None]] | None = None
        for place, (number, rows, columns) in enumerate(waiting):
            read = ahead or reader.submit(_read_block, plane, rows, columns)
            ahead = None
            if place + 1 < len(waiting):
                ahead = reader.submit(_read_block, plane, *waiting[place + 1][1:])
            yield _judge_block(number, rows, columns, *read.result(), classifier, reason[rows, columns])


def seconds_a_cell(plane: Plane, classifier: Classifier, reason: UInt8[np.ndarray, "rows columns"]) -> float:
    """How long a cell of this slide takes: its fullest block is read and judged twice, first to warm up."""
    fullest = max(_blocks(reason), key=lambda block: int((reason[block[1:]] == Reason.JUDGED).sum()))
    for _ in range(2):
        began = time.perf_counter()
        read = _read_block(plane, *fullest[1:])
        _judge_block(*fullest, *read, classifier, reason[fullest[1:]])
    return (time.perf_counter() - began) / int((reason[fullest[1:]] == Reason.JUDGED).sum())


def judge_places(
    plane: Plane, classifier: Classifier, centres: Float[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Probability and disagreement of the patches around places alone, given as x, y in pixels of level 0.

    They are judged whatever they show; NaN where a patch cannot be decoded.
    """
    found, spread = np.full(len(centres), np.nan), np.full(len(centres), np.nan)
    for start in range(0, len(centres), _PLACES_AT_ONCE):
        patches, whole = patches_at(plane, centres[start : start + _PLACES_AT_ONCE])
        if len(patches):
            found[start + whole], spread[start + whole] = classifier.with_disagreement(patches)
    return found, spread


def patches_at(
    plane: Plane, centres: Float[np.ndarray, "n 2"]
) -> tuple[UInt8[np.ndarray, "k 96 96 3"], Int[np.ndarray, " k"]]:
    """The patches around places, x and y in pixels of level 0, that can be decoded; and which places these are."""
    corners = np.rint(centres / np.array(plane.scale) - PATCH_SIZE_PX / 2).astype(np.int64).tolist()
    read = [plane.read(x, y, PATCH_SIZE_PX, PATCH_SIZE_PX) for x, y in corners]
    patches = [rgb for rgb, lost in read if lost is None]
    none = np.empty((0, PATCH_SIZE_PX, PATCH_SIZE_PX, 3), np.uint8)
    return np.stack(patches) if patches else none, np.flatnonzero([lost is None for _, lost in read])


def spread_out(
    mask: Bool[np.ndarray, "rows columns"], grid: Grid, at_most: int
) -> tuple[Float[np.ndarray, "k 2"], Int[np.ndarray, "k 2"]]:
    """Up to so many marked cells, evenly spread: their centres, x and y in pixels of level 0, and their places."""
    marked = np.argwhere(mask)
    some = marked[np.linspace(0, len(marked) - 1, min(at_most, len(marked))).round().astype(np.int64)]
    return (some[:, ::-1] + 0.5) * np.array(grid.step), some


@dataclass(frozen=True)
class Parity:
    """How far a heat map is from single patches, read and judged one by one, at some places of this very slide."""

    places: int
    largest: float
    mean: float


def parity_of(found: HeatMap, plane: Plane, classifier: Classifier) -> Parity:
    """At up to 500 judged cells, evenly spread over the slide."""
    centres, some = spread_out(found.reason == Reason.JUDGED, found.grid, _COMPARED)
    alone, _ = judge_places(plane, classifier, centres)
    apart = np.abs(alone - found.probability[some[:, 0], some[:, 1]])
    return Parity(len(some), float(apart.max(initial=0.0)), float(apart.mean()) if len(apart) else 0.0)


def _blocks(reason: UInt8[np.ndarray, "rows columns"]) -> Iterator[tuple[int, slice, slice]]:
    """Numbers and places of the blocks in which anything is to be judged."""
    number = -1
    for top in range(0, reason.shape[0], BLOCK_CELLS):
        for left in range(0, reason.shape[1], BLOCK_CELLS):
            number += 1
            rows = slice(top, min(top + BLOCK_CELLS, reason.shape[0]))
            columns = slice(left, min(left + BLOCK_CELLS, reason.shape[1]))
            if (reason[rows, columns] == Reason.JUDGED).any():
                yield number, rows, columns


def _read_block(plane: Plane, rows: slice, columns: slice) -> tuple[Rgb, Bool[np.ndarray, "h w"] | None]:
    """The pixels of a block, and around them what the patches of its outermost cells reach."""
    height, width = ((cells.stop - cells.start) * CELL_PX + 2 * _MARGIN_PX for cells in (rows, columns))
    return plane.read(columns.start * CELL_PX - _MARGIN_PX, rows.start * CELL_PX - _MARGIN_PX, width, height)


def _judge_block(
    number: int,
    rows: slice,
    columns: slice,
    rgb: Rgb,
    lost: Bool[np.ndarray, "h w"] | None,
    classifier: Classifier,
    before: UInt8[np.ndarray, "rows columns"],
) -> Block:
    reason = before.copy()
    reason[(reason == Reason.JUDGED) & blurred(rgb, CELL_PX)] = Reason.BLUR
    if lost is not None:
        windows = np.lib.stride_tricks.sliding_window_view(lost, (PATCH_SIZE_PX, PATCH_SIZE_PX))
        reason[(reason == Reason.JUDGED) & windows[::CELL_PX, ::CELL_PX].any(axis=(2, 3))] = Reason.UNREADABLE
    probability = np.full(reason.shape, np.nan, np.float32)
    disagreement = probability.copy()
    judged = reason == Reason.JUDGED
    if judged.any():
        probability[judged], disagreement[judged] = classifier.on_image(rgb, judged)
    return Block(number, rows, columns, probability, disagreement, reason)
