"""Cells above the operating point -> lesions: their outlines, areas and lengths, and the GeoJSON that QuPath opens.

A lesion is a connected component of cells, by sides or corners. Its outline follows the sides, so its area is that of
its cells, and no cell is lost or won by smoothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Int
from pydantic import Field
from scipy import ndimage, spatial

from sentinode.slides.heatmap import HeatMap

Size = Literal["isolated tumour cells", "micrometastasis", "macrometastasis"]
Ring = list[tuple[float, float]]
"""Corners in pixels of level 0, the first again at the end."""

MACRO_UM: Final = 2000.0
MICRO_UM: Final = 200.0
"""Longest axes above which a metastasis is a macro- or a micrometastasis (AJCC, 8th edition)."""
LARGEST_GEOJSON: Final = 1_000_000
"""Bytes; the smallest lesions of a slide that would go beyond are left out, and counted."""
_FEW_CORNERS: Final = 64  # of which all distances take less than their hull
_CORNERS: Final = np.ones((3, 3))
_RED: Final = (200, 0, 0)


@dataclass(frozen=True)
class Lesion:
    """A group of cells above the operating point."""

    size: Size
    """By its longest axis alone: the number of cells of an isolated group is not seen here."""
    cells: int
    area_mm2: float
    longest_axis_um: float
    mean_probability: float
    max_probability: float
    x_px: float
    y_px: float
    """Where the highest probability is: the centre of that cell, in pixels of level 0."""
    rings: Annotated[tuple[tuple[Ring, ...], ...], Field(exclude=True)] = ()
    """Polygons, each an outline and its holes; they stand in lesions.geojson, and in no record."""


def find_lesions(heat_map: HeatMap, threshold: float) -> list[Lesion]:
    """The lesions of a slide, the largest first; `threshold` is a probability, which a lesion's cells are above."""
    return lesions_in(heat_map, np.nan_to_num(heat_map.probability, nan=-1.0) > threshold)


def lesions_in(heat_map: HeatMap, above: Bool[np.ndarray, "rows columns"]) -> list[Lesion]:
    """The lesions that the cells in `above` make up, measured by the heat map's probabilities."""
    labels, count = ndimage.label(above, _CORNERS)
    found = [
        _lesion(heat_map, place, labels[place] == number)
        for number, place in enumerate(ndimage.find_objects(labels, count), 1)
        if place is not None
    ]
    return sorted(found, key=lambda lesion: (-lesion.area_mm2, -lesion.max_probability, lesion.y_px, lesion.x_px))


def longest_axis_um(cells: Int[np.ndarray, "n 2"], step_um: tuple[float, float]) -> float:
    """The longest distance between two corners of these cells, given as rows and columns."""
    corners = np.concatenate([cells + shift for shift in ((0, 0), (0, 1), (1, 0), (1, 1))]) * step_um[::-1]
    if len(corners) > _FEW_CORNERS:
        corners = corners[spatial.ConvexHull(corners).vertices]
    return float(spatial.distance.pdist(corners).max())


def size_of(longest_um: float) -> Size:
    """What a metastasis of this longest axis is called."""
    if longest_um > MACRO_UM:
        return "macrometastasis"
    return "micrometastasis" if longest_um > MICRO_UM else "isolated tumour cells"


def geojson(lesions: list[Lesion], *, largest: int = LARGEST_GEOJSON) -> tuple[bytes, int]:
    """The lesions as a FeatureCollection in pixels of level 0, and how many had no room in it.

    Where one has no room, its holes are left out; where that does not do, the lesion is.
    """
    head, tail = b'{"type":"FeatureCollection","features":[\n', b"\n]}\n"
    room, features = largest - len(head) - len(tail), []
    for number, lesion in enumerate(lesions, 1):
        for rings in (lesion.rings, tuple(polygon[:1] for polygon in lesion.rings)):
            text = json.dumps(_feature(number, lesion, rings), separators=(",", ":"), allow_nan=False).encode()
            if len(text) + 2 <= room:
                room -= len(text) + 2
                features.append(text)
                break
    return head + b",\n".join(features) + tail, len(lesions) - len(features)


def outlines(mask: Bool[np.ndarray, "rows columns"]) -> list[list[Int[np.ndarray, "corners 2"]]]:
    """The polygons around the cells of a mask, as corners (x, y) of cells: of each its outline, then its holes.

    Cells that touch at a corner alone belong to two polygons, so that none touches itself.
    """
    labels, count = ndimage.label(mask)
    polygons = []
    for number, place in enumerate(ndimage.find_objects(labels, count), 1):
        rings = _rings(labels[place] == number)
        rings.sort(key=_twice_area, reverse=True)  # one is an outline, the others' areas are negative
        polygons.append([ring + np.array([place[1].start, place[0].start]) for ring in rings])
    return polygons


def _lesion(heat_map: HeatMap, place: tuple[slice, ...], mask: Bool[np.ndarray, "rows columns"]) -> Lesion:
    grid, probability = heat_map.grid, heat_map.probability[place]
    corner = np.array([place[1].start, place[0].start])
    cells = np.argwhere(mask)
    longest = longest_axis_um(cells, grid.step_um)
    row, column = cells[probability[mask].argmax()].tolist()
    step = np.array(grid.step)

    def placed(ring: Int[np.ndarray, "corners 2"]) -> Ring:
        return [(x, y) for x, y in ((ring + corner) * step).round(2).tolist()]

    x, y = (((column, row) + corner + 0.5) * step).round(2).tolist()
    return Lesion(
        size=size_of(longest),
        cells=len(cells),
        area_mm2=len(cells) * grid.cell_mm2,
        longest_axis_um=longest,
        mean_probability=float(probability[mask].mean(dtype=np.float64)),
        max_probability=float(probability[mask].max()),
        x_px=x,
        y_px=y,
        rings=tuple(tuple(placed(ring) for ring in polygon) for polygon in outlines(mask)),
    )


def _feature(number: int, lesion: Lesion, rings: tuple[tuple[Ring, ...], ...]) -> dict[str, Any]:
    polygons = [[[list(corner) for corner in ring] for ring in polygon] for polygon in rings]
    several = len(polygons) > 1
    return {
        "type": "Feature",
        "geometry": {
            "type": "MultiPolygon" if several else "Polygon",
            "coordinates": polygons if several else polygons[0],
        },
        "properties": {
            "objectType": "annotation",
            "name": f"lesion {number}",
            "classification": {"name": "Tumor", "color": list(_RED)},
            "measurements": {
                "area mm2": round(lesion.area_mm2, 6),
                "longest axis um": round(lesion.longest_axis_um, 1),
                "mean probability": round(lesion.mean_probability, 4),
                "max probability": round(lesion.max_probability, 4),
            },
            "size": lesion.size,
        },
    }


def _rings(mask: Bool[np.ndarray, "rows columns"]) -> list[Int[np.ndarray, "corners 2"]]:
    """Closed walks along the sides of cells, the cells at the right hand; outlines go round clockwise, holes back."""
    padded = np.pad(mask, 1)
    ways: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Sides of cells that have no neighbour there: up, right, down, left, as a step from corner to corner (x, y).
    for (dy, dx), start, step in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (0, 1)),
        ((1, 0), (1, 1), (-1, 0)),
        ((0, -1), (0, 1), (0, -1)),
    ):
        beside = padded[1 + dy : 1 + dy + mask.shape[0], 1 + dx : 1 + dx + mask.shape[1]]
        for y, x in np.argwhere(mask & ~beside).tolist():
            ways.setdefault((x + start[0], y + start[1]), []).append(step)
    rings = []
    while ways:
        corner = next(iter(ways))
        walk, seen, (dx, dy) = [corner], {corner: 0}, (0, 0)
        while walk:
            steps = ways[walk[-1]]
            # Where two cells touch at a corner, the walk turns right and stays with its cell.
            dx, dy = steps.pop(steps.index((-dy, dx)) if (-dy, dx) in steps else 0)
            if not steps:
                del ways[walk[-1]]
            corner = (walk[-1][0] + dx, walk[-1][1] + dy)
            if corner in seen:  # a loop is closed, whether the whole walk or a part that touches it in this corner
                first = seen[corner]
                rings.append(_turns([*walk[first:], corner]))
                for passed in walk[first + 1 :]:
                    del seen[passed]
                walk = walk[: first + 1] if first else []
            else:
                seen[corner] = len(walk)
                walk.append(corner)
    return rings


def _turns(walk: list[tuple[int, int]]) -> Int[np.ndarray, "corners 2"]:
    """The same closed walk without the corners that it passes straight on."""
    ring = np.array(walk[:-1])
    before, behind = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    kept = ring[(before != behind).any(axis=1)]
    return np.concatenate([kept, kept[:1]])


def _twice_area(ring: Int[np.ndarray, "corners 2"]) -> int:
    """Positive for outlines, negative for holes."""
    x, y = ring.T
    return int((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())
