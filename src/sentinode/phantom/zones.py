"""The plan of one section of lymph node: what lies where, as signed levels in pixels of 0.972 um."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32
from scipy import spatial

from sentinode.phantom.nuclei import BORDER_PX, Layer, Points, jittered_grid, stamp

_FAR_PX: Final = 60.0  # farther than this from a disc, distances are not told apart
_COARSE_PX: Final = 4  # step of the grid on which distances to points are computed


@dataclass(frozen=True)
class Zones:
    """Signed levels in pixels, positive inside the zone, unless said otherwise."""

    node: Layer  # depth below the node's surface; fat outside
    fat_wall: Layer  # distance from the nearest wall between two fat cells
    follicle: Layer  # germinal centres
    sinus: Layer
    stroma: Layer  # capsule, trabeculae, walls of vessels
    lumen: Layer  # of vessels
    nest: Layer  # tumour nests
    septum: Layer  # strands of stroma within the nests
    crowd: Layer  # not a level: unit noise by which the density of lymphocytes varies
    tumour: Bool[np.ndarray, "side side"]
    group_cells: Points  # cells of the metastases that are only a few cells


@dataclass(frozen=True)
class Planted:
    """Tumour where it is wanted, in place of tumour at random."""

    nest: Layer
    """A signed level in pixels, positive inside."""
    cells: Points
    """Single cells."""


def lay_out(rng: np.random.Generator, side: int, tumour_share: float, planted: Planted | None = None) -> Zones:
    """Decide what lies where; of `planted`, if it is given, where tumour is, and nowhere else."""
    steps, angle = np.arange(side, dtype=np.float32), np.float32(rng.uniform(0, 2 * np.pi))
    node = 25 * noise(rng, side, 90.0) + 6 * noise(rng, side, 18.0)
    node += np.cos(angle) * steps + np.sin(angle) * steps[:, None]
    node -= np.quantile(node[::8, ::8], rng.uniform(0.01, 0.10))
    fat_wall = _cell_walls(rng, node < 2, spacing=rng.uniform(55, 80))
    ripple = noise(rng, side, 24.0)
    follicle = _discs(rng, side, spacing=330.0, radii=(45.0, 115.0), keep=0.65) + 7 * ripple
    vessel = _discs(rng, side, spacing=300.0, radii=(7.0, 26.0), keep=0.5) + 3 * ripple
    np.minimum(vessel, node - 10, out=vessel)
    sinus = rng.uniform(6, 13) - 60 * np.abs(noise(rng, side, 60.0))
    np.minimum(sinus, 120 * (noise(rng, side, 120.0) + rng.uniform(-0.4, 0.8)), out=sinus)
    np.maximum(sinus, 7 - np.abs(node - 40), out=sinus)  # the subcapsular sinus
    np.minimum(sinus, node, out=sinus)
    stroma = rng.uniform(5, 12) - 150 * np.abs(noise(rng, side, 150.0))
    np.maximum(stroma, vessel + 6, out=stroma)
    np.maximum(stroma, 30 - np.abs(node), out=stroma)  # the capsule

    scale = rng.uniform(22, 80)
    nest = scale * noise(rng, side, scale)
    nest += 0.3 * scale * noise(rng, side, scale / 3)
    np.minimum(nest, node - 8, out=nest)
    np.minimum(nest, 60 - follicle, out=nest)  # nests rarely sit inside a germinal centre
    nest -= np.quantile(nest[::4, ::4], 1 - tumour_share)
    septum = rng.uniform(1, 5) - 40 * np.abs(noise(rng, side, 40.0))
    tumour = nest > 0
    group_cells = _small_groups(rng, side, (nest < -30) & (node > 30))
    if planted is not None:
        nest, tumour, group_cells = planted.nest, planted.nest > 0, planted.cells
    tumour |= _around(group_cells, side, radius_px=8)
    return Zones(
        node,
        fat_wall,
        follicle,
        sinus,
        stroma,
        vessel,
        nest,
        septum,
        noise(rng, side, 45.0),
        tumour,
        group_cells,
    )


def _small_groups(rng: np.random.Generator, side: int, allowed: Bool[np.ndarray, "side side"]) -> Points:
    """Two to nine cells each, scattered over the part of the node where a group may lie."""
    centres = jittered_grid(rng, side, spacing=205.0, jitter=0.45)
    centres = centres[allowed[centres[:, 0], centres[:, 1]]]
    cells = np.repeat(centres, rng.integers(2, 10, len(centres)), axis=0)
    cells = cells + np.rint(rng.normal(0, 8.5, cells.shape)).astype(np.int64)
    return cells[((cells >= BORDER_PX) & (cells < side - BORDER_PX)).all(axis=1)]


def _around(points: Points, side: int, *, radius_px: int) -> Bool[np.ndarray, "side side"]:
    reach = np.arange(-radius_px, radius_px + 1)
    disc = (np.hypot(reach[:, None], reach) <= radius_px).astype(np.float32)[None]
    marks = np.zeros((side, side), np.float32)
    stamp(marks, disc, np.zeros(len(points), np.int64), points)
    return marks > 0


def noise(rng: np.random.Generator, side: int, scale_px: float) -> Layer:
    """Gaussian noise of unit variance, smooth over `scale_px`: random knots under Gaussian kernels.

    The kernel separates, so the plane is two small matrix products instead of a wide filter.
    """
    knots = np.arange(-3, side / scale_px + 4, dtype=np.float32) * scale_px
    kernel = np.exp(-0.5 * ((np.arange(side, dtype=np.float32)[:, None] - knots) / scale_px) ** 2)
    kernel /= np.sqrt((kernel**2).sum(axis=1, keepdims=True))
    weights = rng.standard_normal((len(knots), len(knots)), np.float32)
    plane: Layer = kernel @ weights @ kernel.T
    return plane


def _refine(coarse: Float32[np.ndarray, "n n"], side: int) -> Layer:
    """Interpolate a plane from the coarse grid, linearly along each axis."""
    at = np.arange(side) // _COARSE_PX
    share = (np.arange(side, dtype=np.float32) % _COARSE_PX) / _COARSE_PX
    tall = coarse[at] * (1 - share[:, None]) + coarse[at + 1] * share[:, None]
    plane = np.empty((side, side), np.float32)
    for rows in bands(side):
        plane[rows] = tall[rows][:, at] * (1 - share) + tall[rows][:, at + 1] * share
    return plane


def _discs(rng: np.random.Generator, side: int, *, spacing: float, radii: tuple[float, float], keep: float) -> Layer:
    """Signed distance to the rim of scattered discs, positive inside; -60 stands for all beyond."""
    centres = jittered_grid(rng, side, spacing=spacing, jitter=0.3)
    radius = np.where(rng.random(len(centres)) < keep, rng.uniform(*radii, len(centres)), -_FAR_PX)
    coarse = np.arange(0, side + _COARSE_PX, _COARSE_PX, dtype=np.float32)
    level = np.full((len(coarse), len(coarse)), -_FAR_PX, np.float32)
    for (y, x), reach in zip(centres[radius > 0], radius[radius > 0], strict=True):
        rows, columns = np.abs(coarse - y) < reach + _FAR_PX, np.abs(coarse - x) < reach + _FAR_PX
        inside = reach - np.hypot(coarse[rows, None] - y, coarse[columns] - x)
        window = np.ix_(rows, columns)
        level[window] = np.maximum(level[window], inside)
    return _refine(level, side)


def _cell_walls(rng: np.random.Generator, where: Bool[np.ndarray, "side side"], *, spacing: float) -> Layer:
    """Distance to the nearest edge between two Voronoi cells of scattered points; far elsewhere."""
    level = np.full(where.shape, _FAR_PX, np.float32)
    grid = np.argwhere(where)
    tree = spatial.cKDTree(jittered_grid(rng, len(where), spacing=spacing, jitter=0.35))
    near = np.asarray(tree.query(grid, k=2)[0])
    level[where] = (near[:, 1] - near[:, 0]) / 2
    return level


def bands(side: int) -> Iterator[slice]:
    """Slices of a few rows: what is computed band by band stays in the processor's cache."""
    for top in range(0, side, 64):
        yield slice(top, top + 64)
