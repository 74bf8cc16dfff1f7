"""Is this H&E of a lymph node at about 1 um a pixel at all? A second look at every cell of a slide.

A model gives a probability for anything. Fifteen simple numbers of a cell's patch (stain, contrast, focus, texture,
JPEG's blocks) have known means and covariances in patches of lymph node; a patch far from them by Mahalanobis's
distance is unlike what a model was trained on. So is one that would be far nearer if its channels stood in another
order: haematoxylin and eosin absorb green most and blue least, so BGR in place of RGB, or a brown stain, gives itself
away by what a swap of channels would undo. And nuclei have a known size: the spectrum of sizes in the haematoxylin of
a set of patches, moved until it lies on the known one, tells the spacing that the pixels have, whatever the file says.

All cells of a block are looked at together, on its means over 8 x 8 pixels and in every eighth of its rows: a patch's
numbers are means over thousands of pixels, and need not all of them.

The known numbers, `guard.json`, were measured by `benchmarks/guard.py` on training patches of the real sample.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib import resources
from itertools import pairwise, permutations
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image
from scipy import ndimage

from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX
from sentinode.records import Number, Numbers, read_record

Patches = UInt8[np.ndarray, "n height width 3"]
Features = Float[np.ndarray, "*cells 15"]


class Unlike(IntEnum):
    """What is most unusual of a cell that is unlike lymph node in H&E; `NOTHING` where it is like."""

    NOTHING = 0
    STAIN = 1
    CONTRAST = 2
    FOCUS = 3
    TEXTURE = 4
    COMPRESSION = 5
    CHANNELS = 6

    @property
    def word(self) -> str:
        """As it stands in tables; "" for a cell like others."""
        return "" if self is Unlike.NOTHING else f"unlike {self.name.lower()}"


_ASPECTS: Final = np.array(
    [Unlike.STAIN] * 5
    + [Unlike.CONTRAST, Unlike.FOCUS, Unlike.TEXTURE, Unlike.COMPRESSION]
    + [Unlike.STAIN] * 3
    + [Unlike.CONTRAST] * 3
)
"""What each of the features speaks of."""
_MEAN, _TINT, _SLOPE, _BEND, _TEXTURE, _BLOCKS = slice(0, 3), slice(3, 5), 5, 6, 7, 8
_CORRELATION, _DEVIATION = slice(9, 12), slice(12, 15)
_PAIRS: Final = ((0, 1), (2, 1), (0, 2))  # of the channels that are correlated
_ORDERS: Final = tuple(order for order in permutations(range(3)) if order != (0, 1, 2))
_COARSE_PX: Final = 8
_ROW_STEP: Final = 8
_DENSITY: Final = (-np.log((np.arange(256) + 1) / 256)).astype(np.float32)
_LEAST: Final = 0.05  # added to densities, whose noise near 0 says nothing; and 0.02 to their deviations
_JPEG_PX: Final = 8
# Of the green channel, 0 to 255: mean squares of first and second differences.
_FLAT: Final = 8.0  # of the first: below, focus cannot be told
_BLURRED: Final = 0.5
"""Of the second, as a share of the first; sharp tissue has 1.5 to 4, blurred by 2 pixels 0.2 to 0.5."""
_SIGMAS: Final = np.geomspace(0.7, 9, 16)  # pixels
_LEAST_SCALES: Final = 6  # that both spectra must share
_SHIFTS: Final = np.linspace(-1.1, 1.1, 221)  # of the logarithm of the spacing
_BORDER_PX: Final = 8
FEWEST: Final = 20
"""Patches that say something of a slide."""
_TOO_MANY: Final = 0.25  # of a slide's cells that are unlike: the slide is
_DISAGREES: Final = 1.5  # times the spacing


@dataclass(frozen=True, eq=False)
class Known:
    """guard.json: what patches of lymph node are like."""

    mean: Annotated[Float[np.ndarray, " features"], Numbers()]
    precision: Annotated[Float[np.ndarray, " values"], Numbers()]
    """The inverse covariance, row by row."""
    deviation: Annotated[Float[np.ndarray, " features"], Numbers()]
    farthest: float
    """Squared distance within which 99 % of the patches lie."""
    swapped: float
    """By how much a swap of channels brings a patch nearer, at most, in 99.5 % of them."""
    spectrum: Annotated[Float[np.ndarray, " scales"], Numbers()]
    """Logarithm of the energy at each scale, at `spacing`."""
    spacing: float
    told: Annotated[Float[np.ndarray, " k"], Numbers()]
    """Raw estimates, in um/px, of patches that truly have the spacings `true`."""
    true: Annotated[Float[np.ndarray, " k"], Numbers()]

    def distance(self, features: Features) -> Float[np.ndarray, "*cells"]:
        """Mahalanobis's, squared."""
        apart, size = features - self.mean, len(self.mean)
        return np.asarray(((apart @ self.precision.reshape(size, size)) * apart).sum(axis=-1))


@dataclass(frozen=True)
class Look:
    """What a second look at a slide found."""

    cells: int
    """That were judged, without the rim of the tissue, which is unlike patches."""
    unlike: int
    """How many of these are unlike lymph node in H&E."""
    aspects: dict[str, int]
    """Of these, by what is most unusual, the most frequent first."""
    spacing: Number
    """In um/px, from nuclei; NaN where nothing shows any structure."""

    def warnings(self, expected: float) -> list[str]:
        """What is wrong, in sentences; `expected` is the spacing that the patches were read at."""
        told = []
        if self.unlike > _TOO_MANY * self.cells:
            most = max(self.aspects, key=self.aspects.__getitem__)
            share = f"{self.unlike / self.cells:.0%} of the cells within tissue"
            told.append(f"{share} are unlike lymph node in H&E, by their {most}: probabilities mean little here")
        elif not expected / _DISAGREES < self.spacing < expected * _DISAGREES and not math.isnan(self.spacing):
            told.append(
                f"nuclei look as at {self.spacing:.2g} um/px, not {expected:.2g}: the spacing may be wrong, "
                "or the tissue no lymph node"
            )
        return told


def look_at(unlike: UInt8[np.ndarray, " cells"], patches: Patches) -> Look:
    """Sum up what was found of a slide's cells, each an `Unlike`, and the spacing that some of its patches speak of."""
    aspects = Counter(Unlike(code).name.lower() for code in unlike[unlike > 0].tolist())
    return Look(len(unlike), sum(aspects.values()), dict(aspects.most_common()), spacing_of(patches))


def features_of_cells(rgb: UInt8[np.ndarray, "height width 3"], cell_px: int = CENTRE_SIZE_PX) -> Features:
    """Fifteen numbers of each cell's patch: densities, tint, focus, texture, blocks, correlations and deviations.

    `rgb` is what the patches cover, whole cells of 32, 16 or 8 pixels: (rows + 2) x (columns + 2) cells of 32 pixels,
    for a patch is its cell and the eight around it. The result is (rows, columns, 15).
    """
    px = cell_px
    density = _DENSITY[np.asarray(Image.fromarray(rgb).reduce(_COARSE_PX))]
    pairs = [density[..., a] * density[..., b] for a, b in _PAIRS]
    moments = np.concatenate([density, density**2, np.stack(pairs, axis=-1)], axis=-1)
    moments = _of_patches(_by_cell(moments, px // _COARSE_PX, px // _COARSE_PX), px)
    mean = moments[..., :3]
    deviation = np.sqrt(np.maximum(moments[..., 3:6] - mean**2, 0)) + np.float32(0.02)
    correlation = [
        (moments[..., 6 + k] - mean[..., a] * mean[..., b]) / (deviation[..., a] * deviation[..., b])
        for k, (a, b) in enumerate(_PAIRS)
    ]
    # Differences in some rows of the green channel, with the rows above and below them; 0 at the right edge.
    green = rgb[..., 1]
    above, here, below = (green[k::_ROW_STEP].astype(np.int32) for k in range(3))
    across, bend = np.zeros_like(here), np.zeros_like(here)
    across[:, :-1] = here[:, 1:] - here[:, :-1]
    bend[:, 1:-1] = above[:, 1:-1] + below[:, 1:-1] + here[:, :-2] + here[:, 2:] - 4 * here[:, 1:-1]
    across **= 2
    detail = np.stack([across + (below - here) ** 2, bend**2, here, here**2], axis=-1).astype(np.float32)
    slope, curved, level, square = np.moveaxis(_of_patches(_by_cell(detail, px // _ROW_STEP, px), px), -1, 0)
    # JPEG's blocks of 8 pixels: the steepest of the 8 offsets beside the middle one.
    of_row = across.reshape(len(across) * _ROW_STEP // px, -1, across.shape[1]).sum(axis=1, dtype=np.float32)
    by_offset = of_row.reshape(len(of_row), -1, px // _JPEG_PX, _JPEG_PX).mean(axis=2)
    by_offset = _of_patches(by_offset, px) * _ROW_STEP / px
    blocks = np.log((by_offset.max(axis=-1) + 0.3) / (np.median(by_offset, axis=-1) + 0.3))
    focus = [
        np.log(slope + 2),
        np.log((curved + 2) / (slope + 2)),
        np.log((slope + 2) / (np.maximum(square - level**2, 0) + 4)),
        blocks,
    ]
    correlation = [np.arctanh(np.clip(of_pair, -0.999, 0.999)) for of_pair in correlation]
    return np.concatenate(
        [
            np.log(mean + _LEAST),
            _tint(mean),
            np.stack([*focus, *correlation], axis=-1),
            np.log(deviation),
        ],
        axis=-1,
    ).astype(np.float64)


def features_of_patches(patches: Patches) -> Float[np.ndarray, "n 15"]:
    """The same numbers of patches that lie nowhere: stacked, they are cells, of which every third is a patch's.

    No number of a patch depends on what lies above or below it.
    """
    column = np.ascontiguousarray(patches).reshape(-1, PATCH_SIZE_PX, 3)
    return features_of_cells(column)[:: PATCH_SIZE_PX // CENTRE_SIZE_PX, 0]


def _tint(mean: Float[np.ndarray, "*cells 3"]) -> Float[np.ndarray, "*cells 2"]:
    """By how much green is denser than red, and than blue, as shares of all."""
    total = mean.sum(axis=-1) + 0.15
    return np.stack([(mean[..., 1] - mean[..., k]) / total for k in (0, 2)], axis=-1)


def _by_cell(values: Float32[np.ndarray, "h w k"], height: int, width: int) -> Float32[np.ndarray, "rows columns k"]:
    """Means over so many rows and columns."""
    rows, columns, count = values.shape[0] // height, values.shape[1] // width, values.shape[2]
    of_rows = values.reshape(rows, height, columns * width, count).sum(axis=1)
    return np.asarray(of_rows.reshape(rows, columns, width, count).sum(axis=2) / np.float32(height * width))


def _of_patches(cells: Float32[np.ndarray, "height width k"], cell_px: int) -> Float32[np.ndarray, "rows columns k"]:
    """Means over the cells of each patch, such as 3 x 3 of 32 pixels."""
    side = PATCH_SIZE_PX // cell_px
    rows, columns = (length - side + 1 for length in cells.shape[:2])
    tall = sum((cells[k : k + rows] for k in range(1, side)), cells[:rows])
    wide = sum((tall[:, k : k + columns] for k in range(1, side)), tall[:, :columns])
    return np.asarray(wide / np.float32(side**2))


def out_of_focus(features: Features) -> Bool[np.ndarray, "*cells"]:
    """Which cells have structure but no fine detail. What is flat shows nothing of the focus, and counts as sharp."""
    slope = np.exp(features[..., _SLOPE]) - 2
    bend = np.exp(features[..., _BEND]) * (slope + 2) - 2
    return np.asarray((slope > _FLAT) & (bend < _BLURRED * slope))


def unlike(features: Features) -> UInt8[np.ndarray, "*cells"]:
    """What is most unusual of each cell that is unlike lymph node in H&E, as an `Unlike`."""
    known = _known()
    far, swap = excess(features, known)
    worst = _ASPECTS[np.abs((features - known.mean) / known.deviation).argmax(axis=-1)]
    return np.where(swap > 0, Unlike.CHANNELS, np.where(far > 0, worst, Unlike.NOTHING)).astype(np.uint8)


def excess(features: Features, known: Known) -> tuple[Float[np.ndarray, "*cells"], Float[np.ndarray, "*cells"]]:
    """How far cells are beyond the distance of nearly all, and how much nearer than for these a swap brings them."""
    own = known.distance(features)
    swapped = np.minimum.reduce([known.distance(_reordered(features, order)) for order in _ORDERS])
    return own - known.farthest, own - swapped - known.swapped


def _reordered(features: Features, order: tuple[int, ...]) -> Features:
    """What the features would be, were the channels in that order; focus is green's, and stays."""
    found = features.copy()
    mean = np.exp(features[..., _MEAN][..., order]) - _LEAST
    found[..., _MEAN], found[..., _TINT] = features[..., _MEAN][..., order], _tint(mean)
    found[..., _DEVIATION] = features[..., _DEVIATION][..., order]
    place = {frozenset(pair): k for k, pair in enumerate(_PAIRS)}
    moved = [place[frozenset((order[a], order[b]))] for a, b in _PAIRS]
    found[..., _CORRELATION] = features[..., _CORRELATION][..., moved]
    return found


def spectrum_of(patches: Patches) -> Float[np.ndarray, " scales"]:
    """Logarithm of the energy of structures at each scale: differences of Gaussians of the red density."""
    density = -np.log((patches[..., 0].astype(np.float32) + 1) / 256)
    smooth = [ndimage.gaussian_filter(density, (0, sigma, sigma)) for sigma in _SIGMAS]
    inside = np.s_[:, _BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX]
    energy = [float(((a - b)[inside] ** 2).mean()) for a, b in pairwise(smooth)]
    return np.log(np.array(energy) + 1e-12)


def raw_spacing(found: Float[np.ndarray, " scales"], reference: Float[np.ndarray, " scales"], spacing: float) -> float:
    """The spacing at which one spectrum lies on another, that of patches of a known spacing, but for its height."""
    at = np.log(_SIGMAS[:-1] * _SIGMAS[1:]) / 2
    best, shift = math.inf, 0.0
    for moved in _SHIFTS:
        shared = (at + moved >= at[0]) & (at + moved <= at[-1])
        if shared.sum() < _LEAST_SCALES:
            continue
        apart = float((found[shared] - np.interp(at[shared] + moved, at, reference)).var())
        if apart < best:
            best, shift = apart, float(moved)
    return spacing * math.exp(shift)


def spacing_of(patches: Patches) -> float:
    """The spacing in um/px that the nuclei of a set of patches speak of; NaN where there is no structure.

    Within 20 % for 95 % of sets of 50 patches of lymph node (docs/lab-log.md); more patches tell more.
    """
    found, known = spectrum_of(patches), _known()
    if found.max() < math.log(1e-6):
        return math.nan
    raw = raw_spacing(found, known.spectrum, known.spacing)
    return float(np.exp(np.interp(math.log(raw), np.log(known.told), np.log(known.true))))


@cache
def _known() -> Known:
    with resources.as_file(resources.files("sentinode.slides").joinpath("guard.json")) as path:
        return read_record(Path(path), Known)
