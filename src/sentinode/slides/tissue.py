"""Where a slide has tissue, found without weights, and what on it cannot be judged: ink, folds, blur, padding.

All but the focus is found on an overview of about 8 um/px, in optical density against the slide's own glass. There
haematoxylin and eosin absorb green most, whatever the stain's strength; ink, dust, the coverslip's edges and padding do
not. So even pale tissue differs from glass in hue before it does in brightness. Focus is seen only in fine pixels, cell
by cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage

from sentinode.slides.reader import WHITE, Overview, Plane, Rgb

OVERVIEW_UM_PER_PX: Final = 8.0


class Reason(IntEnum):
    """Why a cell has no probability; `JUDGED` has one. The names, in lower case, stand in tables."""

    JUDGED = 0
    GLASS = 1
    PADDING = 2
    PEN = 3
    FOLD = 4
    BLUR = 5
    UNREADABLE = 6

    @property
    def word(self) -> str:
        """As it stands in tables; "" for a cell that was judged."""
        return "" if self is Reason.JUDGED else self.name.lower()


LEFT_OUT: Final = (Reason.PEN, Reason.FOLD, Reason.BLUR, Reason.UNREADABLE)
"""Of tissue, what is not judged; it is counted in the record and drawn in the picture."""

# Optical densities (natural logarithm) and shares of them. Measured on the slides named in docs/lab-log.md.
_BRIGHT: Final = 200  # of glass, in each channel
_DEFAULT_GLASS: Final = 245
_PALEST: Final = (0.02, 0.05)  # excess of green density that makes tissue, between these
_NOISE: Final = 6.0  # times the glass's own deviation
_DARK: Final = 20  # padding is darker, in every channel; black ink is not
_GREY: Final = 0.15  # share of the density in which channels differ: less is dust, an edge or padding
_INK: Final = 0.5  # density from which on it is told what ink is
_BLUE: Final = 1.3  # blue ink absorbs so many times as much red as green; haematoxylin less than 1.1 times
_RED: Final = (0.8, 0.2)  # red ink absorbs blue as it does green, and no red
_DUST: Final = 0.2  # density from which on grey is no glass
_FOLDED: Final = 1.8  # times the density of nearly all tissue: two layers
# Pixels of the overview.
_BRIDGED_PX: Final = 3  # gaps up to twice as wide are closed
_AROUND_PX: Final = 8
_ROWS: Final = 256  # that are looked at together
_SQUARE: Final = np.ones((3, 3), bool)
# Areas in mm2.
_SMALLEST_TISSUE: Final = 0.002
_LARGEST_HOLE: Final = 0.02  # fat cells and vessels in tissue are tissue
_SMALLEST_INK: Final = 0.01
_SMALLEST_FOLD: Final = 0.005


@dataclass(frozen=True, eq=False)
class Tissue:
    """What each pixel of an overview shows; `reason` is a `Reason`, `JUDGED` for plain tissue."""

    reason: UInt8[np.ndarray, "height width"]
    overview: Overview

    @property
    def area_mm2(self) -> float:
        """Of all tissue, with what is left out of it."""
        return float(self.is_tissue.sum()) * self.overview.spacing[0] * self.overview.spacing[1] * 1e-6

    @property
    def is_tissue(self) -> Bool[np.ndarray, "height width"]:
        return np.asarray((self.reason == Reason.JUDGED) | np.isin(self.reason, LEFT_OUT))

    def of_cells(self, plane: Plane, cell_px: int) -> UInt8[np.ndarray, "rows columns"]:
        """The `Reason` of each cell of the plane: judged where any pixel of plain tissue touches it.

        So no tissue is lost at its rim; a cell is left out for the reason of most of its pixels.
        """
        height, width = self.reason.shape
        rows, columns = -(-plane.height // cell_px), -(-plane.width // cell_px)
        down = _edges(rows, cell_px * plane.scale[1] / self.overview.scale[1], height)
        across = _edges(columns, cell_px * plane.scale[0] / self.overview.scale[0], width)
        counts = np.stack([_counted(self.reason == reason, down, across) for reason in Reason])
        most = counts[1:].argmax(axis=0) + 1
        of_tissue = counts[list(LEFT_OUT)]
        found = np.where(of_tissue.any(axis=0), np.array(LEFT_OUT)[of_tissue.argmax(axis=0)], most)
        return np.where(counts[Reason.JUDGED] > 0, Reason.JUDGED, found).astype(np.uint8)


def find_tissue(overview: Overview) -> Tissue:
    """The tissue of a slide, and what is on it."""
    pixel_mm2 = overview.spacing[0] * overview.spacing[1] * 1e-6
    reason = np.full(overview.rgb.shape[:2], Reason.GLASS, np.uint8)
    seen = _see(overview.rgb)
    reason[seen.padding] = Reason.PADDING
    reason[overview.lost] = Reason.UNREADABLE
    box = _box_around(seen.stained | seen.ink)
    if box is None:
        return Tissue(reason, overview)
    padding, stained = seen.padding[box], seen.stained[box]
    ink = _without_small(seen.ink[box], _SMALLEST_INK / pixel_mm2)
    ink = ndimage.binary_dilation(ink, iterations=2) & ~padding
    bridged = np.pad(stained & ~ink, _BRIDGED_PX + 1)
    tissue = ndimage.binary_closing(bridged, _SQUARE, iterations=_BRIDGED_PX)
    tissue = tissue[_BRIDGED_PX + 1 : -_BRIDGED_PX - 1, _BRIDGED_PX + 1 : -_BRIDGED_PX - 1]
    tissue = _without_holes(tissue, _LARGEST_HOLE / pixel_mm2) & ~padding
    tissue = _without_small(tissue, _SMALLEST_TISSUE / pixel_mm2)
    within, lost = reason[box], overview.lost[box]
    within[tissue] = Reason.JUDGED
    within[_folded(seen.total[box], tissue & ~ink, pixel_mm2)] = Reason.FOLD
    within[padding] = Reason.PADDING
    within[ink & ndimage.binary_dilation(tissue | ink)] = Reason.PEN
    within[lost] = Reason.UNREADABLE
    return Tissue(reason, overview)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What single pixels of an overview look like."""

    stained: Bool[np.ndarray, "height width"]
    ink: Bool[np.ndarray, "height width"]
    padding: Bool[np.ndarray, "height width"]
    total: Float32[np.ndarray, "height width"]
    """Density of all channels together."""


def _see(rgb: Rgb) -> _Seen:
    """Look at every pixel, some rows at a time: the densities of a whole overview take five times its memory."""
    shape, of_value = rgb.shape[:2], _density_of_value(rgb)
    excess, total = np.empty(shape, np.float32), np.empty(shape, np.float32)
    ink, padding, dust = np.empty(shape, bool), np.empty(shape, bool), np.empty(shape, bool)
    for top in range(0, shape[0], _ROWS):
        rows = slice(top, top + _ROWS)
        red, green, blue = (of_value[channel][rgb[rows, :, channel]] for channel in range(3))
        darkest, palest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
        grey = darkest - palest < _GREY * darkest
        excess[rows], total[rows] = green - np.minimum(red, blue), red + green + blue
        padding[rows] = (rgb[rows].max(axis=2) < _DARK) & grey
        ink[rows] = (darkest > _INK) & (
            ((green < red) & (green < blue))  # green ink
            | ((red > _BLUE * green) & (red > blue))
            | ((blue > _RED[0] * green) & (red < _RED[1] * green))
            | (grey & ~padding[rows])  # black ink, and dark edges
        )
        dust[rows] = grey & (darkest > _DUST)
    ndimage.uniform_filter(excess, 3, output=excess)
    return _Seen((excess > _least_excess(excess, rgb)) & ~padding & ~dust, ink, padding, total)


def _density_of_value(rgb: Rgb) -> Float32[np.ndarray, "3 256"]:
    """Optical density of each value against the glass, at least 0; glass is the most frequent bright value."""
    palest = rgb.min(axis=2)
    bright = rgb[(palest > _BRIGHT) & (palest < WHITE)]
    glass = np.full(3, _DEFAULT_GLASS, np.float32)
    if len(bright) > 0.01 * palest.size:
        glass = np.array([np.bincount(bright[:, c], minlength=256).argmax() for c in range(3)], np.float32)
    values = np.arange(256, dtype=np.float32)
    return np.asarray(np.maximum(np.log((glass[:, None] + 1) / (values + 1)), 0), np.float32)


def _least_excess(excess: Float32[np.ndarray, "height width"], rgb: Rgb) -> float:
    """The excess of green density from which on a pixel is stained: above the noise of this slide's glass."""
    glass = excess[rgb.min(axis=2) > _BRIGHT + 20]
    if not glass.size:
        return _PALEST[0]
    middle = float(np.median(glass))
    noise = 1.4826 * float(np.median(np.abs(glass - middle)))
    return float(np.clip(middle + _NOISE * noise, *_PALEST))


def _folded(
    total: Float32[np.ndarray, "height width"], tissue: Bool[np.ndarray, "height width"], pixel_mm2: float
) -> Bool[np.ndarray, "height width"]:
    """Where tissue lies in two layers: far denser than nearly all of it, over more than a few cells."""
    if not tissue.any():
        return tissue
    smooth = ndimage.uniform_filter(total, 3)
    dense = tissue & (smooth > _FOLDED * np.quantile(smooth[tissue], 0.9))
    return _without_small(dense, _SMALLEST_FOLD / pixel_mm2)


def _box_around(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, ...] | None:
    """The rows and columns in which anything is marked, and a few around them; None where nothing is."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    return tuple(slice(max(part.start - _AROUND_PX, 0), part.stop + _AROUND_PX) for part in found[0])


def _without_small(mask: Bool[np.ndarray, "h w"], least: float) -> Bool[np.ndarray, "h w"]:
    labels, count = ndimage.label(mask, _SQUARE)
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= least
    kept[0] = False
    return np.asarray(kept[labels])


def _without_holes(mask: Bool[np.ndarray, "h w"], largest: float) -> Bool[np.ndarray, "h w"]:
    """Holes up to a size are filled; what touches the border is none."""
    labels, count = ndimage.label(~mask)
    filled = np.bincount(labels.ravel(), minlength=count + 1) <= largest
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        filled[edge] = False
    filled[0] = False
    return np.asarray(mask | filled[labels])


def _edges(count: int, step: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the one behind the last pixel that each of so many cells touches."""
    ends = np.arange(count + 1) * step
    first = np.minimum(np.floor(ends[:-1] + 1e-6).astype(int), size - 1)
    return first, np.clip(np.ceil(ends[1:] - 1e-6).astype(int), first + 1, size)


def _counted(
    mask: Bool[np.ndarray, "h w"], down: tuple[np.ndarray, np.ndarray], across: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """How many pixels of the mask each cell touches."""
    sums = np.pad(mask.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32), ((1, 0), (1, 0)))
    (top, bottom), (left, right) = down, across
    counted: np.ndarray = (
        sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)] + sums[np.ix_(top, left)]
    )
    return counted
