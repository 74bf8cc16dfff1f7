"""Painting one section of lymph node, in optical density: architecture, nuclei, stain, scanner.

Light through a stained section follows Beer and Lambert: intensity = glass * exp(-sum(amount * vector))
over the stains, here haematoxylin and eosin (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291).
So the painter lays down amounts of the two stains, zone by zone and nucleus by nucleus, and only the
last step makes colours of them. Lengths are pixels of 0.972 um.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage, spatial

from sentinode.data.nuclei import BORDER_PX, Plane, Points, Sprites, draw_bodies, draw_nuclei, jittered_grid, stamp

SPACING_UM_PER_PX: Final = 0.972
_FAR_PX: Final = 60.0  # farther than this from a disc, distances are not told apart
_COARSE_PX: Final = 4  # step of the grid on which distances to points are computed

# Directions in optical density (red, green, blue), of unit length after normalisation. Two ends of
# what laboratories and scanners make of the same dyes: violet and magenta, grey-brown and salmon.
_VIOLET: Final = np.array([[0.66, 0.69, 0.24], [0.17, 0.95, 0.16]], np.float32)
_BROWN: Final = np.array([[0.60, 0.68, 0.45], [0.12, 0.87, 0.52]], np.float32)


@dataclass(frozen=True)
class Section:
    """One slide's field as scanned, and the exact place of its tumour."""

    rgb: UInt8[np.ndarray, "side side 3"]
    tumour: Bool[np.ndarray, "side side"]


def paint_section(rng: np.random.Generator, *, side_px: int, tumour_share: float) -> Section:
    """Paint a square field; nests and small groups of tumour cover about `tumour_share` of it."""
    zones = _lay_out(rng, side_px, tumour_share)
    haematoxylin, eosin = _paint_ground(rng, zones)
    _paint_cells(rng, zones, haematoxylin, eosin)
    return Section(_scan(rng, haematoxylin, eosin), zones.tumour)


# --- architecture -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Zones:
    """The section's plan: signed levels in pixels, positive inside the zone."""

    node: Plane  # depth below the node's surface; fat outside
    fat_wall: Plane  # distance from the nearest wall between two fat cells
    follicle: Plane  # germinal centres
    sinus: Plane
    stroma: Plane  # capsule, trabeculae, walls of vessels
    lumen: Plane  # of vessels
    nest: Plane  # tumour nests
    septum: Plane  # strands of stroma within the nests
    crowd: Plane  # not a level: unit noise by which the density of lymphocytes varies
    tumour: Bool[np.ndarray, "side side"]
    group_cells: Points  # cells of the metastases that are only a few cells


def _lay_out(rng: np.random.Generator, side: int, tumour_share: float) -> _Zones:
    """Decide what lies where."""
    steps, angle = np.arange(side, dtype=np.float32), np.float32(rng.uniform(0, 2 * np.pi))
    node = 25 * _noise(rng, side, 90.0) + 6 * _noise(rng, side, 18.0)
    node += np.cos(angle) * steps + np.sin(angle) * steps[:, None]
    node -= np.quantile(node[::8, ::8], rng.uniform(0.01, 0.10))
    fat_wall = _cell_walls(rng, node < 2, spacing=rng.uniform(55, 80))
    ripple = _noise(rng, side, 24.0)
    follicle = _discs(rng, side, spacing=330.0, radii=(45.0, 115.0), keep=0.65) + 7 * ripple
    vessel = _discs(rng, side, spacing=300.0, radii=(7.0, 26.0), keep=0.5) + 3 * ripple
    np.minimum(vessel, node - 10, out=vessel)
    sinus = rng.uniform(6, 13) - 60 * np.abs(_noise(rng, side, 60.0))
    np.minimum(sinus, 120 * (_noise(rng, side, 120.0) + rng.uniform(-0.4, 0.8)), out=sinus)
    np.maximum(sinus, 7 - np.abs(node - 40), out=sinus)  # the subcapsular sinus
    np.minimum(sinus, node, out=sinus)
    stroma = rng.uniform(5, 12) - 150 * np.abs(_noise(rng, side, 150.0))
    np.maximum(stroma, vessel + 6, out=stroma)
    np.maximum(stroma, 30 - np.abs(node), out=stroma)  # the capsule

    scale = rng.uniform(22, 80)
    nest = scale * _noise(rng, side, scale)
    nest += 0.3 * scale * _noise(rng, side, scale / 3)
    np.minimum(nest, node - 8, out=nest)
    np.minimum(nest, 60 - follicle, out=nest)  # nests rarely sit inside a germinal centre
    nest -= np.quantile(nest[::4, ::4], 1 - tumour_share)
    septum = rng.uniform(1, 5) - 40 * np.abs(_noise(rng, side, 40.0))
    tumour = nest > 0
    group_cells = _small_groups(rng, side, (nest < -30) & (node > 30))
    tumour |= _around(group_cells, side, radius_px=8)
    return _Zones(
        node,
        fat_wall,
        follicle,
        sinus,
        stroma,
        vessel,
        nest,
        septum,
        _noise(rng, side, 45.0),
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


def _noise(rng: np.random.Generator, side: int, scale_px: float) -> Plane:
    """Gaussian noise of unit variance, smooth over `scale_px`: random knots under Gaussian kernels.

    The kernel separates, so the plane is two small matrix products instead of a wide filter.
    """
    knots = np.arange(-3, side / scale_px + 4, dtype=np.float32) * scale_px
    kernel = np.exp(-0.5 * ((np.arange(side, dtype=np.float32)[:, None] - knots) / scale_px) ** 2)
    kernel /= np.sqrt((kernel**2).sum(axis=1, keepdims=True))
    weights = rng.standard_normal((len(knots), len(knots)), np.float32)
    plane: Plane = kernel @ weights @ kernel.T
    return plane


def _refine(coarse: Float32[np.ndarray, "n n"], side: int) -> Plane:
    """Interpolate a plane from the coarse grid, linearly along each axis."""
    at = np.arange(side) // _COARSE_PX
    share = (np.arange(side, dtype=np.float32) % _COARSE_PX) / _COARSE_PX
    tall = coarse[at] * (1 - share[:, None]) + coarse[at + 1] * share[:, None]
    plane = np.empty((side, side), np.float32)
    for rows in _bands(side):
        plane[rows] = tall[rows][:, at] * (1 - share) + tall[rows][:, at + 1] * share
    return plane


def _discs(rng: np.random.Generator, side: int, *, spacing: float, radii: tuple[float, float], keep: float) -> Plane:
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


def _cell_walls(rng: np.random.Generator, where: Bool[np.ndarray, "side side"], *, spacing: float) -> Plane:
    """Distance to the nearest edge between two Voronoi cells of scattered points; far elsewhere."""
    level = np.full(where.shape, _FAR_PX, np.float32)
    grid = np.argwhere(where)
    tree = spatial.cKDTree(jittered_grid(rng, len(where), spacing=spacing, jitter=0.35))
    near = np.asarray(tree.query(grid, k=2)[0])
    level[where] = (near[:, 1] - near[:, 0]) / 2
    return level


# --- ground: amounts of stain without nuclei -------------------------------------------------------


def _paint_ground(rng: np.random.Generator, zones: _Zones) -> tuple[Plane, Plane]:
    """Amounts of haematoxylin and eosin of everything that is not a cell of its own."""
    side = len(zones.node)
    grain_plane = ndimage.gaussian_filter(rng.standard_normal((side, side), np.float32), 1.6, truncate=3) * 5.6
    haematoxylin_plane, eosin_plane = np.empty_like(grain_plane), np.empty_like(grain_plane)
    pulp = rng.uniform((0.15, 0.30), (0.40, 0.60)).tolist()  # plain floats keep the planes in single precision
    nest = rng.uniform((0.20, 0.45), (0.45, 0.85)).tolist()
    fibre_period_px = np.float32(rng.uniform(5, 8))
    for rows in _bands(side):
        grain, haematoxylin, eosin = grain_plane[rows], haematoxylin_plane[rows], eosin_plane[rows]
        haematoxylin[...] = pulp[0] + 0.08 * grain
        eosin[...] = pulp[1] + 0.12 * grain

        def lay(
            level: np.ndarray,
            haematoxylin_to: np.ndarray | float,
            eosin_to: np.ndarray | float,
            *,
            soft_px: float = 3.0,
            onto: tuple[np.ndarray, np.ndarray] = (haematoxylin, eosin),
        ) -> None:
            if level.max() > -soft_px:
                weight = np.clip(0.5 + level / soft_px, 0, 1)
                onto[0][...] += weight * (haematoxylin_to - onto[0])
                onto[1][...] += weight * (eosin_to - onto[1])

        septum = np.minimum(zones.septum[rows], zones.nest[rows])
        # The levels fall off sideways, so their contour lines run along the strands, as fibres do.
        fibre = np.maximum(zones.stroma[rows], septum) * (2 * np.pi / fibre_period_px)
        collagen = 0.62 + 0.26 * np.sin(fibre + 2 * zones.crowd[rows] + 0.7 * grain) + 0.12 * grain
        lay(zones.follicle[rows], 0.32 + 0.08 * grain, 0.46 + 0.12 * grain, soft_px=12.0)
        lay(zones.sinus[rows], 0.05 + 0.02 * grain, 0.20 + 0.10 * grain, soft_px=5.0)
        lay(zones.nest[rows], nest[0] + 0.08 * grain, nest[1] + 0.12 * grain)
        lay(septum, 0.10 + 0.04 * grain, collagen)
        lay(zones.stroma[rows], 0.10 + 0.04 * grain, collagen + 0.12, soft_px=4.0)
        lay(zones.lumen[rows], 0.0, 0.08)
        walls = np.clip(1.6 - zones.fat_wall[rows], 0, 1)
        lay(-zones.node[rows], 0.02 + 0.1 * walls, 0.02 + (0.4 + 0.1 * grain) * walls)
        np.maximum(haematoxylin, 0, out=haematoxylin)
        np.maximum(eosin, 0, out=eosin)
    return haematoxylin_plane, eosin_plane


def _bands(side: int) -> Iterator[slice]:
    """Slices of a few rows: what is computed band by band stays in the processor's cache."""
    for top in range(0, side, 64):
        yield slice(top, top + 64)


# --- cells ------------------------------------------------------------------------------------------


def _paint_cells(rng: np.random.Generator, zones: _Zones, haematoxylin: Plane, eosin: Plane) -> None:
    """Stamp all nuclei, and the bodies of the cells that show one, onto the ground, in place."""
    side = len(haematoxylin)
    nuclei, bodies = np.zeros_like(haematoxylin), np.zeros_like(eosin)

    def at(level: np.ndarray, points: Points) -> np.ndarray:
        values: np.ndarray = level[points[:, 0], points[:, 1]]
        return values

    def keep(points: Points, share: np.ndarray) -> Points:
        return points[rng.random(len(points)) < share]

    def draw(points: Points, sprites: Sprites, onto: Plane, which: np.ndarray | None = None) -> None:
        stamp(onto, sprites, rng.integers(len(sprites), size=len(points)) if which is None else which, points)

    # Lymphocytes: small, round, dark, packed; fewer in every other zone.
    points = jittered_grid(rng, side, spacing=rng.uniform(7.4, 8.6), jitter=0.3)
    crowd = np.clip(0.86 + 0.12 * at(zones.crowd, points), 0.45, 0.97)
    share = np.where(at(zones.follicle, points) > 0, 0.20, crowd)
    share = np.where(at(zones.sinus, points) > 0, rng.uniform(0.08, 0.30), share)
    share = np.where(at(zones.tumour, points), rng.uniform(0.03, 0.22), share)
    strands = np.minimum(at(zones.septum, points), at(zones.nest, points)) > 0
    share = np.where(strands, 0.15, share)
    share = np.where(at(zones.stroma, points) > 0, 0.05, share)
    share = np.where((at(zones.lumen, points) > 0) | (at(zones.node, points) < 0), 0.004, share)
    draw(keep(points, share), draw_nuclei(rng, 64, radius=(2.9, 3.9), amount=(1.5, 2.2), mottle=0.3), nuclei)

    # Centroblasts of germinal centres and histiocytes of sinuses: large and pale, but no tumour.
    points = jittered_grid(rng, side, spacing=10.5, jitter=0.3)
    inside = (at(zones.follicle, points) > 2) & ~at(zones.tumour, points) & (at(zones.node, points) > 0)
    blasts = keep(points, inside * 0.85)
    draw(blasts, draw_nuclei(rng, 48, radius=(3.8, 5.6), amount=(0.65, 1.1), rim=0.4, nucleoli=2), nuclei)
    points = jittered_grid(rng, side, spacing=13.0, jitter=0.35)
    inside = (at(zones.sinus, points) > 0) & ~at(zones.tumour, points) & (at(zones.stroma, points) < 0)
    scattered = 0.035 * (at(zones.node, points) > 40) * ~at(zones.tumour, points)
    histiocytes = keep(points, np.where(inside, rng.uniform(0.4, 0.95), scattered))
    draw(histiocytes, draw_bodies(rng, 24, radius=(5.5, 8.5), amount=(0.45, 0.75)), bodies)
    draw(histiocytes, draw_nuclei(rng, 48, radius=(3.6, 5.2), amount=(0.6, 1.0), stretch=1.4, rim=0.3), nuclei)

    # Fibroblasts: spindles along the fibres.
    points = jittered_grid(rng, side, spacing=13.0, jitter=0.4)
    inside = np.maximum(at(zones.stroma, points), np.minimum(at(zones.septum, points), at(zones.nest, points))) > 0
    inside &= (at(zones.node, points) > 2) & (at(zones.lumen, points) < 0)
    points = keep(points, inside * 0.6)
    slope_y, slope_x = (
        np.maximum(at(zones.stroma, points + step), at(zones.septum, points + step))
        - np.maximum(at(zones.stroma, points - step), at(zones.septum, points - step))
        for step in ([2, 0], [0, 2])
    )
    turn = np.arctan2(slope_x, -slope_y) % np.pi
    spindles = draw_nuclei(
        rng, 32, radius=(2.6, 3.4), amount=(1.0, 1.7), stretch=2.6, angles=np.arange(32) * np.pi / 32
    )
    draw(points, spindles, nuclei, np.rint(turn / np.pi * 32).astype(np.int64) % 32)

    # Red cells in the vessels.
    points = jittered_grid(rng, side, spacing=7.0, jitter=0.4)
    red_cells = keep(points, (at(zones.lumen, points) > 2) * rng.uniform(0.2, 0.9))
    draw(red_cells, draw_bodies(rng, 16, radius=(2.6, 3.4), amount=(1.0, 1.4)), bodies)

    # Tumour: larger, paler, pleomorphic, with nucleoli. How much so is the slide's own.
    size = rng.uniform(5.0, 7.2)
    points = jittered_grid(rng, side, spacing=size * rng.uniform(2.0, 2.5), jitter=0.32)
    inside = (at(zones.nest, points) > 4) & (at(zones.septum, points) < 0) & (at(zones.stroma, points) < 2)
    cells = np.concatenate([keep(points, inside * rng.uniform(0.8, 0.97)), zones.group_cells])
    pale = rng.uniform(0.45, 1.0)
    draw(cells, draw_bodies(rng, 24, radius=(1.3 * size, 1.8 * size), amount=(0.5, 0.9)), bodies)
    shapes = draw_nuclei(
        rng, 96, radius=(0.68 * size, 1.3 * size), amount=(pale, pale + 0.5), stretch=1.35, wobble=0.09,
        rim=0.35, nucleoli=3, mottle=0.22,
    )  # fmt: skip
    draw(cells, shapes, nuclei)

    np.maximum(eosin, bodies, out=eosin)
    eosin *= 1 - 0.55 * np.clip(2.5 * nuclei, 0, 1)  # a nucleus takes the cytoplasm's place
    np.maximum(haematoxylin, nuclei, out=haematoxylin)


# --- stain and scanner ------------------------------------------------------------------------------


def _scan(rng: np.random.Generator, haematoxylin: Plane, eosin: Plane) -> UInt8[np.ndarray, "side side 3"]:
    """Give the section its slide's stain, focus, brightness and noise."""
    side = len(haematoxylin)
    brown = rng.beta(0.6, 0.6)
    vectors = (1 - brown) * _VIOLET + brown * _BROWN + rng.normal(0, 0.025, (2, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = np.array([rng.uniform(0.65, 1.15), rng.uniform(0.6, 1.35)], np.float32)
    uneven = 1 + 0.06 * _noise(rng, side, 250.0)  # thickness of the section
    blur_px = rng.uniform(0.45, 1.15)
    stains = [ndimage.gaussian_filter(plane * uneven, blur_px, truncate=3) for plane in (haematoxylin, eosin)]
    glass = (rng.uniform(232, 250) + rng.normal(0, 2, 3)).astype(np.float32)
    noise = np.float32(rng.uniform(1.0, 3.0))
    rgb = np.empty((side, side, 3), np.uint8)
    for rows in _bands(side):
        for channel in range(3):
            amounts = strength * vectors[:, channel]
            light = glass[channel] * np.exp(-(amounts[0] * stains[0][rows] + amounts[1] * stains[1][rows]))
            light += noise * rng.standard_normal(light.shape, np.float32)
            rgb[rows, :, channel] = np.clip(np.rint(light), 0, 255)
    return rgb
