"""A slide and a classifier -> one probability for each cell of tissue: a square of 32 pixels that a label speaks of.

A cell is judged by the patch of 96 pixels whose centre it is, at the spacing of the patches that the model was trained
on. Cells may be finer, of 16 or 8 pixels; their probabilities still speak of the 32 pixels around their middle. The
grid of cells begins at the slide's upper left corner. The slide is gone over block by block: while a block is judged,
the next is read, looked at and made ready; what is held does not grow with the slide, but for two bytes and two numbers
a cell.
"""

from __future__ import annotations

import time
from collections.abc import Container, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.errors import ConfigError, DataError
from sentinode.inference.classifier import Classifier, NetworkInputs
from sentinode.progress import StepProgress
from sentinode.slides.guard import Unlike, features_of_cells, out_of_focus, unlike
from sentinode.slides.reader import Plane, Slide
from sentinode.slides.tissue import OVERVIEW_UM_PER_PX, Reason, find_tissue

CELL_PX: Final = CENTRE_SIZE_PX
STRIDES_PX: Final = (CELL_PX, 16, 8)
"""Sides that a cell may have."""
BLOCK_CELLS: Final = 32
"""Cells along a block's side, twice as many of the finest; 1,024 cells are judged at once."""
_PLACES_AT_ONCE: Final = 256
TRIED: Final = 32
"""Patches on which it is tried what computes networks fastest."""
COMPARED: Final = 500
"""Cells of a slide that are judged a second time, patch by patch."""
_RUN: Final = 10  # neighbouring places that are read together


@dataclass(frozen=True)
class Grid:
    """The cells of a slide: cell (row, column) has its upper left corner at `column * step[0]`, `row * step[1]`."""

    rows: int
    columns: int
    step: tuple[float, float]
    """Sides of a cell along x and y, in pixels of level 0."""
    step_um: tuple[float, float]
    cell_px: int = CELL_PX
    """A cell's side at the spacing that it is judged at."""

    @classmethod
    def of(cls, plane: Plane, cell_px: int = CELL_PX) -> Grid:
        rows, columns = -(-plane.height // cell_px), -(-plane.width // cell_px)
        step = plane.scale[0] * cell_px, plane.scale[1] * cell_px
        return cls(rows, columns, step, (plane.spacing[0] * cell_px, plane.spacing[1] * cell_px), cell_px)

    @property
    def margin_px(self) -> int:
        """By how much a cell's patch is wider than the cell, on every side."""
        return (PATCH_SIZE_PX - self.cell_px) // 2

    @property
    def cell_mm2(self) -> float:
        return self.step_um[0] * self.step_um[1] * 1e-6


@dataclass(frozen=True, eq=False)
class HeatMap:
    """What a model predicts for each cell of a slide; NaN where nothing was judged, and `reason` says why."""

    grid: Grid
    probability: Float32[np.ndarray, "rows columns"]
    disagreement: Float32[np.ndarray, "rows columns"]
    """Standard deviation of the probabilities of the model's networks; NaN where it has one."""
    reason: UInt8[np.ndarray, "rows columns"]
    """A `Reason` each."""
    unlike: UInt8[np.ndarray, "rows columns"]
    """An `Unlike` each: whether a cell that was judged is unlike what models are trained on."""

    @classmethod
    def empty(cls, grid: Grid, reason: UInt8[np.ndarray, "rows columns"]) -> HeatMap:
        """Before anything is judged; `reason` says what is to be."""
        nothing = np.full((grid.rows, grid.columns), np.nan, np.float32)
        return cls(grid, nothing, nothing.copy(), reason.copy(), np.zeros_like(reason))

    def put(self, block: Block) -> None:
        place = block.rows, block.columns
        self.probability[place], self.disagreement[place] = block.probability, block.disagreement
        self.reason[place], self.unlike[place] = block.reason, block.unlike


@dataclass(frozen=True, eq=False)
class Block:
    """The result of one block of cells; `number` counts the blocks of a slide row by row, also those without tissue."""

    number: int
    rows: slice
    columns: slice
    probability: Float32[np.ndarray, "rows columns"]
    disagreement: Float32[np.ndarray, "rows columns"]
    reason: UInt8[np.ndarray, "rows columns"]
    unlike: UInt8[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class Sweep:
    """How a slide's plane is gone over: by which classifier, in which cells."""

    plane: Plane
    classifier: Classifier
    cell_px: int = CELL_PX
    dense: bool = False
    """Whether networks that can go over a block at once do so."""

    @property
    def grid(self) -> Grid:
        return Grid.of(self.plane, self.cell_px)


@dataclass(frozen=True, eq=False)
class _Ready:
    """A block that was read and looked at."""

    number: int
    rows: slice
    columns: slice
    reason: UInt8[np.ndarray, "rows columns"]
    unlike: UInt8[np.ndarray, "rows columns"]
    prepared: NetworkInputs | None
    """What the classifier takes of the cells to be judged, if any are."""


def heat_map(
    slide: Slide,
    classifier: Classifier,
    *,
    stride: int = CELL_PX,
    dense: bool = False,
    on_progress: StepProgress | None = None,
) -> HeatMap:
    """Judge every cell of a slide that shows tissue.

    `stride`, 32, 16 or 8, is a cell's side in pixels of the model's spacing. `dense`: networks that can go over a block
    of the slide at once do so (`Classifier.can_be_dense`), which is faster, and not quite the same. `on_progress` hears
    how many cells are done, and of how many. Raises DataError where the slide has no spacing, is too coarse, or shows
    no tissue, ConfigError for another stride.
    """
    require_stride(stride)
    plane = slide.plane(classifier.spacing_um_per_px)
    sweep = Sweep(plane, classifier, stride, dense)
    tissue = find_tissue(slide.overview(OVERVIEW_UM_PER_PX))
    if not (tissue.reason == Reason.JUDGED).any():
        raise without_tissue(slide.path)
    found = HeatMap.empty(sweep.grid, tissue.of_cells(plane, stride))
    total, done = int((found.reason == Reason.JUDGED).sum()), 0
    if not dense:
        classifier.expect(patches_to_try(plane, sweep.grid, found.reason), total)
    for block in judge_blocks(sweep, found.reason.copy()):
        done += int((found.reason[block.rows, block.columns] == Reason.JUDGED).sum())
        found.put(block)
        if on_progress:
            on_progress(done, total)
    return found


def require_stride(stride: int) -> None:
    if stride not in STRIDES_PX:
        known = ", ".join(map(str, STRIDES_PX[:-1]))
        raise ConfigError(f"{stride} is no side of a cell", where="stride", remedy=f"Give {known} or {STRIDES_PX[-1]}.")


def without_tissue(path: Path) -> DataError:
    """The error of a slide on which nothing can be judged: never a row that is missing."""
    return DataError(
        "shows no tissue that can be judged",
        where=path,
        remedy="Look at its thumbnail: it may be blank, of another section, or not stained with H&E.",
    )


def judge_blocks(
    sweep: Sweep, reason: UInt8[np.ndarray, "rows columns"], *, done: Container[int] = frozenset()
) -> Iterator[Block]:
    """The blocks that hold cells to be judged, in order, but for those whose numbers are in `done`.

    `reason` says which cells are to be judged. A cell that turns out to be out of focus, or whose patch cannot be
    decoded, is left out with that reason.
    """
    waiting = [block for block in _blocks(reason, sweep.cell_px) if block[0] not in done]
    yield from _judged(sweep, reason, waiting)


def _judged(
    sweep: Sweep, reason: UInt8[np.ndarray, "rows columns"], blocks: Sequence[tuple[int, slice, slice]]
) -> Generator[Block]:
    """Blocks in their order: while one is judged, a thread makes the next ready."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        coming = (reader.submit(_ready, sweep, reason, *block) for block in blocks)
        ahead = next(coming, None)
        while ahead is not None:
            ready, ahead = ahead.result(), next(coming, None)
            yield _judge_block(ready, sweep.classifier)


def seconds_a_cell(sweep: Sweep, reason: UInt8[np.ndarray, "rows columns"]) -> float:
    """How long a cell of this slide takes: its fullest block is judged twice, first to warm up, in the way of all."""
    blocks = _blocks(reason, sweep.cell_px)
    fullest = max(blocks, key=lambda block: int((reason[block[1:]] == Reason.JUDGED).sum()))
    judged = _judged(sweep, reason, [fullest] * 3)  # the third is made ready beside the second
    next(judged)
    began = time.perf_counter()
    next(judged)
    seconds = time.perf_counter() - began
    judged.close()
    return seconds / int((reason[fullest[1:]] == Reason.JUDGED).sum())


def judge_places(
    plane: Plane, classifier: Classifier, centres: Float[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Probability and disagreement of the patches around places alone, given as x, y in pixels of level 0.

    They are judged whatever they show; NaN where a patch cannot be decoded.
    """
    found, spread = np.full(len(centres), np.nan), np.full(len(centres), np.nan)
    for start in range(0, len(centres), _PLACES_AT_ONCE):
        patches, lost = patches_around(plane, centres[start : start + _PLACES_AT_ONCE])
        whole = start + np.flatnonzero(~lost)
        if len(whole):
            found[whole], spread[whole] = classifier.with_disagreement(patches[~lost])
    return found, spread


def patches_around(
    plane: Plane, centres: Float[np.ndarray, "n 2"]
) -> tuple[UInt8[np.ndarray, "n 96 96 3"], Bool[np.ndarray, " n"]]:
    """The patches around places, given as x, y in pixels of level 0, and which of them cannot be decoded whole."""
    corners = np.rint(centres / np.array(plane.scale) - PATCH_SIZE_PX / 2).astype(np.int64)
    read = [plane.read(x, y, PATCH_SIZE_PX, PATCH_SIZE_PX) for x, y in corners.tolist()]
    return np.stack([rgb for rgb, _ in read]), np.array([lost is not None for _, lost in read])


def patches_to_try(
    plane: Plane, grid: Grid, reason: UInt8[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "n 96 96 3"]:
    """A few of the patches that are to be judged, spread evenly, for `Classifier.expect`."""
    cells = np.argwhere(reason == Reason.JUDGED)
    some = cells[np.linspace(0, len(cells) - 1, min(TRIED, len(cells))).round().astype(np.int64)]
    return patches_around(plane, (some[:, ::-1] + 0.5) * np.array(grid.step))[0]


def some_patches(found: HeatMap, plane: Plane) -> tuple[UInt8[np.ndarray, "n 96 96 3"], Int[np.ndarray, "n 2"]]:
    """The patches of up to 500 judged cells, read anew, and the cells' rows and columns.

    They lie in runs of neighbours of a row, which share most of their pixels, and the runs are spread evenly.
    """
    cell_px, margin_px = found.grid.cell_px, found.grid.margin_px
    row_wise = np.argwhere(found.reason == Reason.JUDGED)
    runs = max(1, min(COMPARED, len(row_wise)) // _RUN)
    first = np.linspace(0, max(len(row_wise) - _RUN, 0), runs).round().astype(np.int64)
    patches, places = [], []
    for start in first.tolist():
        row, left = row_wise[start].tolist()
        run = row_wise[start : start + _RUN]
        columns = run[(run[:, 0] == row) & (run[:, 1] < left + _RUN), 1].tolist()
        width = (columns[-1] - left) * cell_px + PATCH_SIZE_PX
        rgb, _ = plane.read(left * cell_px - margin_px, row * cell_px - margin_px, width, PATCH_SIZE_PX)
        for column in columns:
            at = (column - left) * cell_px
            patches.append(rgb[:, at : at + PATCH_SIZE_PX])
            places.append((row, column))
    none = np.empty((0, PATCH_SIZE_PX, PATCH_SIZE_PX, 3), np.uint8)
    return np.stack(patches) if patches else none, np.array(places, np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class Parity:
    """How far a heat map is from patches that are read anew and judged as by `predict`, at some places of the slide."""

    places: int
    largest: float
    mean: float
    moved: int
    """Places that lie on the other side of the operating point."""


def parity_of(
    found: HeatMap,
    classifier: Classifier,
    patches: UInt8[np.ndarray, "n 96 96 3"],
    places: Int[np.ndarray, "n 2"],
    threshold: float,
) -> Parity:
    """At the places of `some_patches`."""
    if not len(patches):
        return Parity(0, 0.0, 0.0, 0)
    alone, drawn = classifier(patches), found.probability[places[:, 0], places[:, 1]]
    apart = np.abs(alone - drawn)
    moved = int(((alone > threshold) != (drawn > threshold)).sum())
    return Parity(len(places), float(apart.max()), float(apart.mean()), moved)


def _blocks(reason: UInt8[np.ndarray, "rows columns"], cell_px: int) -> Iterator[tuple[int, slice, slice]]:
    """Numbers and places of the blocks in which anything is to be judged."""
    number, side = -1, BLOCK_CELLS * max(1, 16 // cell_px)  # not much smaller than what is read around it
    for top in range(0, reason.shape[0], side):
        for left in range(0, reason.shape[1], side):
            number += 1
            rows = slice(top, min(top + side, reason.shape[0]))
            columns = slice(left, min(left + side, reason.shape[1]))
            if (reason[rows, columns] == Reason.JUDGED).any():
                yield number, rows, columns


def _ready(sweep: Sweep, wanted: UInt8[np.ndarray, "height width"], number: int, rows: slice, columns: slice) -> _Ready:
    """Read a block, and around it what the patches of its outermost cells reach, and look at its cells."""
    cell_px, margin_px = sweep.cell_px, sweep.grid.margin_px
    height, width = ((cells.stop - cells.start) * cell_px + 2 * margin_px for cells in (rows, columns))
    left, top = columns.start * cell_px - margin_px, rows.start * cell_px - margin_px
    rgb, lost = sweep.plane.read(left, top, width, height)
    reason = wanted[rows, columns].copy()
    features = features_of_cells(rgb, cell_px)
    reason[(reason == Reason.JUDGED) & out_of_focus(features)] = Reason.BLUR
    if lost is not None:
        windows = np.lib.stride_tricks.sliding_window_view(lost, (PATCH_SIZE_PX, PATCH_SIZE_PX))
        reason[(reason == Reason.JUDGED) & windows[::cell_px, ::cell_px].any(axis=(2, 3))] = Reason.UNREADABLE
    judged = reason == Reason.JUDGED
    seen = np.where(judged, unlike(features), Unlike.NOTHING).astype(np.uint8)
    prepared = None
    if judged.any():
        prepared = sweep.classifier.prepared(rgb, judged, cell_px=cell_px, dense=sweep.dense)
    return _Ready(number, rows, columns, reason, seen, prepared)


def _judge_block(ready: _Ready, classifier: Classifier) -> Block:
    probability = np.full(ready.reason.shape, np.nan, np.float32)
    disagreement = probability.copy()
    if ready.prepared is not None:
        judged = ready.reason == Reason.JUDGED
        probability[judged], disagreement[judged] = classifier.on_prepared(ready.prepared)
    return Block(ready.number, ready.rows, ready.columns, probability, disagreement, ready.reason, ready.unlike)
