"""Heat maps against annotations, as CAMELYON16 and 17 score them: polygons to masks, detections, outcomes, stages.

Annotations are polygons, in ASAP's XML or in GeoJSON, with polygons to be cut out of others. A cell has tumour if any
of it lies in a polygon, as a patch's label speaks of its central square. A lesion is a connected component of the
polygons. One no longer than 200 um is a group of isolated tumour cells: it need not be found, and a hit is not wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy import ndimage

from sentinode.errors import DataError
from sentinode.evaluation.froc import SlideOutcome, binned
from sentinode.files import read_bytes
from sentinode.slides.heatmap import Grid, HeatMap
from sentinode.slides.lesions import MICRO_UM, Size, longest_axis_um

Stage = Literal["pN0", "pN0(i+)", "pN1mi", "pN1", "pN2"]
STAGES: Final[tuple[Stage, ...]] = ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2")
EXCLUDED: Final = ("_2", "normal", "exclude", "exclusion", "excluded", "ignore*")
"""Groups of ASAP's and classes of QuPath's, in lower case, whose polygons are cut out of the others."""
_FINE: Final = 8  # pixels along a cell, in which polygons are drawn
_LARGEST_MB: Final = 256
_NEAR_UM: Final = 186.0  # a weaker cell so near to a detection belongs to it
_LEAST: Final = 0.05  # what is less probable is no detection
# Of the challenge's own evaluation: level 5 of slides at 0.243 um/px, 75 um around annotations, 275 um.
_OFFICIAL_UM: Final = 0.243 * 2**5
_OFFICIAL_MARGIN_UM: Final = 75.0
_OFFICIAL_ITC_UM: Final = 275.0


@dataclass(frozen=True, eq=False)
class Annotation:
    """One polygon, in pixels of level 0: closed rings, the first its outline, the others its holes."""

    rings: tuple[Float[np.ndarray, "corners 2"], ...]
    excluded: bool = False


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of each cell of a slide, and its lesions."""

    share: Float32[np.ndarray, "rows columns"]
    """Of the cell's area that is tumour."""
    lesion: Int[np.ndarray, "rows columns"]
    """The number, from 1 on, of the lesion that has most of the cell; 0 for none."""
    longest_um: Float[np.ndarray, " lesions"]

    @property
    def counts(self) -> Bool[np.ndarray, " lesions"]:
        """Which lesions are to be found: those longer than a group of isolated tumour cells."""
        return self.longest_um > MICRO_UM


def read_annotations(path: Path) -> list[Annotation]:
    """The polygons of an ASAP XML or GeoJSON file; raises DataError for any other."""
    remedy = "Give ASAP's XML or GeoJSON, with coordinates in pixels of level 0."
    content = read_bytes(path, limit_mb=_LARGEST_MB, remedy=remedy)
    try:
        return _of_asap(content) if path.suffix.lower() == ".xml" else _of_geojson(json.loads(content))
    except (ElementTree.ParseError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"holds no annotations ({type(error).__name__}: {error})", where=path, remedy=remedy) from error


def truth_of(annotations: Sequence[Annotation], grid: Grid) -> Truth:
    """The truth of each cell of a grid."""
    scale = _FINE / np.array(grid.step)
    mask = rasterised(annotations, (grid.rows * _FINE, grid.columns * _FINE), scale)
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    by_cell = mask.reshape(grid.rows, _FINE, grid.columns, _FINE)
    share = by_cell.mean(axis=(1, 3), dtype=np.float32)
    lesion = np.zeros(share.shape, np.int64)
    fine_um = grid.step_um[0] / _FINE, grid.step_um[1] / _FINE
    longest = np.zeros(count)
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        of_lesion = labels[place] == number
        longest[number - 1] = longest_axis_um(_rim(of_lesion), fine_um)
        # Counted in the cells around the lesion: sorting its pixels takes seconds.
        cells = (np.argwhere(of_lesion) + [part.start for part in place]) // _FINE
        corner, shape = cells.min(axis=0), np.ptp(cells, axis=0) + 1
        counted = np.bincount((cells - corner) @ (shape[1], 1), minlength=shape.prod()).reshape(shape)
        rows, columns = np.argwhere(counted).T + corner[:, None]
        areas = counted[counted > 0]
        # Of two lesions in one cell, the one with more of it.
        more = areas > _FINE**2 * share[rows, columns] / 2
        free = lesion[rows, columns] == 0
        lesion[rows[more | free], columns[more | free]] = number
    return Truth(share, lesion, longest)


def rasterised(
    annotations: Sequence[Annotation], shape: tuple[int, int], scale: Float[np.ndarray, " 2"]
) -> Bool[np.ndarray, "height width"]:
    """Which pixels' centres lie in a polygon and in none that is excluded; `scale` is pixels per unit of x and of y."""
    mask = np.zeros(shape, bool)
    for annotation in sorted(annotations, key=lambda annotation: annotation.excluded):
        rings = [ring * scale for ring in annotation.rings]
        corners = np.concatenate(rings)
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, shape[::-1])
        if left < right and top < bottom:
            inside = _inside([ring - (left, top) for ring in rings], (int(bottom - top), int(right - left)))
            if annotation.excluded:
                mask[top:bottom, left:right] &= ~inside
            else:
                mask[top:bottom, left:right] |= inside
    return mask


def detections(heat_map: HeatMap) -> tuple[Int[np.ndarray, "n 2"], Float[np.ndarray, " n"]]:
    """Rows and columns of the cells that are the most probable of all near them, and their probabilities, falling."""
    probability = np.nan_to_num(heat_map.probability, nan=-1.0)
    rows, columns = np.nonzero(probability > _LEAST)
    order = np.lexsort((columns, rows, -probability[rows, columns]))
    reach = np.array([_NEAR_UM / heat_map.grid.step_um[1], _NEAR_UM / heat_map.grid.step_um[0]])
    far = np.ceil(reach).astype(int)
    dy, dx = np.mgrid[-far[0] : far[0] + 1, -far[1] : far[1] + 1]
    near = (dy / reach[0]) ** 2 + (dx / reach[1]) ** 2 <= 1
    taken = np.zeros(np.array(probability.shape) + 2 * far, bool)
    found = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if not taken[row + far[0], column + far[1]]:
            found.append((row, column))
            taken[row : row + 2 * far[0] + 1, column : column + 2 * far[1] + 1] |= near
    places = np.array(found, np.int64).reshape(-1, 2)
    return places, probability[places[:, 0], places[:, 1]].astype(np.float64)


def outcome(slide: str, heat_map: HeatMap, truth: Truth | None, *, threshold: float) -> SlideOutcome:
    """What came of a slide; `truth` is None for a normal one. A hit on a lesion that does not count is not wrong."""
    places, scores = detections(heat_map)
    judged = ~np.isnan(heat_map.probability)
    probability = heat_map.probability[judged]
    if truth is None:
        tumour, lesions, false = np.zeros(len(probability), bool), np.empty(0), scores
    else:
        tumour = truth.share[judged] > 0
        hit = truth.lesion[places[:, 0], places[:, 1]]
        lesions = np.array([scores[hit == k].max(initial=0.0) for k in np.flatnonzero(truth.counts) + 1])
        false = scores[hit == 0]
    above = probability > threshold
    dice = 2 * (above & tumour).sum() / (above.sum() + tumour.sum()) if tumour.any() else math.nan
    score = float(probability.max()) if len(probability) else 0.0
    isolated = 0 if truth is None else int((~truth.counts).sum())
    cells = binned(probability, tumour)
    return SlideOutcome(slide, truth is not None, score, false, lesions, cells, float(dice), isolated)


def official_mask(
    annotations: Sequence[Annotation], size: tuple[int, int], spacing: float
) -> tuple[Int[np.ndarray, "height width"], frozenset[int], float]:
    """CAMELYON16's evaluation mask: lesions by number, those that do not count, and pixels of level 0 per pixel.

    `size` and `spacing` are those of level 0. The annotations at about 7.8 um/px are widened by half of 75 um, their
    holes are filled, and what then touches is one lesion. One whose major axis, that of the ellipse with the same
    second moments, is below 275 um counts as isolated tumour cells.
    """
    level = max(0, round(math.log2(_OFFICIAL_UM / spacing)))
    factor = 2.0**level
    um = spacing * factor
    mask = rasterised(annotations, (int(size[1] // factor), int(size[0] // factor)), np.array([1 / factor] * 2))
    reach = _OFFICIAL_MARGIN_UM / (um * 2)
    labels = np.zeros(mask.shape, np.int64)
    for place in ndimage.find_objects(mask.astype(np.uint8)):  # one box around all: nothing lies beyond it
        box = tuple(
            slice(max(part.start - math.ceil(reach) - 1, 0), part.stop + math.ceil(reach) + 1) for part in place
        )
        widened = ndimage.binary_fill_holes(ndimage.distance_transform_edt(~mask[box]) < reach)
        labels[box] = ndimage.label(widened, np.ones((3, 3)))[0]
    isolated = {
        number
        for number, place in enumerate(ndimage.find_objects(labels), 1)
        if _major_axis(labels[place] == number) < _OFFICIAL_ITC_UM / um
    }
    return labels, frozenset(isolated), factor


def official_outcome(
    slide: str,
    places: Float[np.ndarray, "n 2"],
    scores: Float[np.ndarray, " n"],
    mask: tuple[Int[np.ndarray, "height width"], frozenset[int], float] | None,
) -> SlideOutcome:
    """Detections, x and y in pixels of level 0, by the challenge's rules; `mask` is None for a normal slide.

    Only the highest detection of a lesion counts, and those on isolated tumour cells count in no way.
    """
    nothing = np.zeros((2, 1), np.int64)
    score = float(scores.max(initial=0.0))
    if mask is None:
        return SlideOutcome(slide, False, score, scores, np.empty(0), nothing, math.nan)
    labels, isolated, factor = mask
    at = np.floor(places / factor).astype(int)
    column, row = np.clip(at[:, 0], 0, labels.shape[1] - 1), np.clip(at[:, 1], 0, labels.shape[0] - 1)
    number = labels[row, column]
    wanted = [k for k in range(1, int(labels.max(initial=0)) + 1) if k not in isolated]
    lesions = np.array([scores[number == k].max(initial=0.0) for k in wanted])
    return SlideOutcome(slide, True, score, scores[number == 0], lesions, nothing, math.nan, len(isolated))


def stage_of(slides: Sequence[Size | None]) -> Stage:
    """The stage of a patient from the largest metastasis of each of the lymph nodes, a slide each (CAMELYON17)."""
    macro, micro = slides.count("macrometastasis"), slides.count("micrometastasis")
    if macro:
        return "pN2" if macro + micro >= 4 else "pN1"
    if micro:
        return "pN1mi"
    return "pN0(i+)" if "isolated tumour cells" in slides else "pN0"


# --- files -------------------------------------------------------------------------------------------


def _of_asap(content: bytes) -> list[Annotation]:
    if b"<!" in content.replace(b"<!--", b""):
        raise ValueError("it declares entities or a document type")
    found = []
    for annotation in ElementTree.fromstring(content).iter("Annotation"):
        corners = sorted(
            (float(c.attrib["Order"]), float(c.attrib["X"]), float(c.attrib["Y"]))
            for c in annotation.iter("Coordinate")
        )
        if len(corners) >= 3:  # fewer are a dot or a ruler
            ring = np.array([corner[1:] for corner in corners])
            found.append(Annotation((ring,), str(annotation.get("PartOfGroup", "")).lower() in EXCLUDED))
    return found


def _of_geojson(content: Any) -> list[Annotation]:
    features: Any = content if isinstance(content, list) else content.get("features", [content])
    found = []
    for feature in features:
        geometry, properties = feature["geometry"], feature.get("properties") or {}
        name = str(_mapping(properties.get("classification")).get("name", "")).lower()
        match geometry["type"]:
            case "Polygon":
                polygons = [geometry["coordinates"]]
            case "MultiPolygon":
                polygons = geometry["coordinates"]
            case _:
                continue  # points and lines have no area
        for polygon in polygons:
            rings = tuple(np.array([corner[:2] for corner in ring], float) for ring in polygon)
            found.append(Annotation(rings, name in EXCLUDED))
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


# --- geometry ----------------------------------------------------------------------------------------


def _inside(rings: Sequence[Float[np.ndarray, "corners 2"]], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Which pixels' centres an odd number of edges lies left of, row by row; every edge is met once, however many."""
    height, width = shape
    crossed = np.zeros(height * (width + 1), np.uint8)
    for ring in rings:
        start, end = ring, np.roll(ring, -1, axis=0)
        low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
        first = np.maximum(np.ceil(low - 0.5), 0).astype(np.int64)
        behind = np.minimum(np.ceil(high - 0.5), height).astype(np.int64)
        rows = np.maximum(behind - first, 0)
        edge = np.repeat(np.arange(len(ring)), rows)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
        (x0, y0), (x1, y1) = start[edge].T, end[edge].T
        x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        crossed ^= (np.bincount(row * (width + 1) + column, minlength=len(crossed)) % 2).astype(np.uint8)
    return np.bitwise_xor.accumulate(crossed.reshape(height, width + 1), axis=1)[:, :-1].astype(bool)


def _rim(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "n 2"]:
    """The first and last pixel of each row, none of which is empty: all that a convex hull needs."""
    rows, last = np.arange(len(mask)), mask.shape[1] - 1
    first = np.argmax(mask, axis=1), last - np.argmax(mask[:, ::-1], axis=1)
    return np.concatenate([np.stack([rows, columns], axis=1) for columns in first])


def _major_axis(mask: Bool[np.ndarray, "h w"]) -> float:
    """Of the ellipse with the same second central moments, in pixels."""
    pixels = np.argwhere(mask).astype(np.float64)
    spread = np.cov(pixels.T, bias=True) if len(pixels) > 1 else np.zeros((2, 2))
    return 4 * math.sqrt(max(float(np.linalg.eigvalsh(spread)[-1]), 0.0))
