"""Painting one section of lymph node, in optical density: ground, cells, stain, scanner.

Light through a stained section follows Beer and Lambert: intensity = glass * exp(-sum(amount * vector))
over the stains, here haematoxylin and eosin (Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291).
So the painter lays down amounts of the two stains, zone by zone and nucleus by nucleus, and only the
last step makes colours of them. Lengths are pixels of 0.972 um.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from sentinode.phantom.nuclei import Layer, Points, Sprites, draw_bodies, draw_nuclei, jittered_grid, stamp
from sentinode.phantom.zones import Planted, Zones, bands, lay_out, noise

# Directions in optical density (red, green, blue), of unit length after normalisation. Two ends of
# what laboratories and scanners make of the same dyes: violet and magenta, grey-brown and salmon.
_VIOLET: Final = np.array([[0.66, 0.69, 0.24], [0.17, 0.95, 0.16]], np.float32)
_BROWN: Final = np.array([[0.60, 0.68, 0.45], [0.12, 0.87, 0.52]], np.float32)


@dataclass(frozen=True)
class TissueSection:
    """One slide's field as scanned, and the exact place of its tumour."""

    rgb: UInt8[np.ndarray, "side side 3"]
    tumour: Bool[np.ndarray, "side side"]


def paint_section(
    rng: np.random.Generator, *, side_px: int, tumour_share: float, planted: Planted | None = None
) -> TissueSection:
    """Paint a square field; nests and small groups of tumour cover about `tumour_share` of it, or lie as `planted`."""
    zones = lay_out(rng, side_px, tumour_share, planted)
    haematoxylin, eosin = _paint_ground(rng, zones)
    _Cells(rng, zones).paint(haematoxylin, eosin)
    return TissueSection(_scan(rng, haematoxylin, eosin), zones.tumour)


# --- ground: amounts of stain without nuclei -------------------------------------------------------


def _paint_ground(rng: np.random.Generator, zones: Zones) -> tuple[Layer, Layer]:
    """Amounts of haematoxylin and eosin of everything that is not a cell of its own."""
    side = len(zones.node)
    grain_plane = ndimage.gaussian_filter(rng.standard_normal((side, side), np.float32), 1.6, truncate=3) * 5.6
    haematoxylin_plane, eosin_plane = np.empty_like(grain_plane), np.empty_like(grain_plane)
    pulp = rng.uniform((0.15, 0.30), (0.40, 0.60)).tolist()  # plain floats keep the planes in single precision
    nest = rng.uniform((0.20, 0.45), (0.45, 0.85)).tolist()
    fibre_period_px = np.float32(rng.uniform(5, 8))
    for rows in bands(side):
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


# --- cells ------------------------------------------------------------------------------------------


class _Cells:
    """Nuclei, and the bodies of the cells that show one, laid down kind by kind."""

    def __init__(self, rng: np.random.Generator, zones: Zones) -> None:
        self._rng, self._zones, self._side = rng, zones, len(zones.node)
        self._nuclei, self._bodies = np.zeros_like(zones.node), np.zeros_like(zones.node)

    def paint(self, haematoxylin: Layer, eosin: Layer) -> None:
        """Stamp all cells onto the ground, in place."""
        self._lymphocytes()
        self._centroblasts()
        self._histiocytes()
        self._fibroblasts()
        self._red_cells()
        self._tumour()
        np.maximum(eosin, self._bodies, out=eosin)
        eosin *= 1 - 0.55 * np.clip(2.5 * self._nuclei, 0, 1)  # a nucleus takes the cytoplasm's place
        np.maximum(haematoxylin, self._nuclei, out=haematoxylin)

    def _lymphocytes(self) -> None:
        """Small, round, dark, packed; fewer in every other zone."""
        zones = self._zones
        points = self._grid(spacing=self._rng.uniform(7.4, 8.6), jitter=0.3)
        crowd = np.clip(0.86 + 0.12 * _at(zones.crowd, points), 0.45, 0.97)
        share = np.where(_at(zones.follicle, points) > 0, 0.20, crowd)
        share = np.where(_at(zones.sinus, points) > 0, self._rng.uniform(0.08, 0.30), share)
        share = np.where(_at(zones.tumour, points), self._rng.uniform(0.03, 0.22), share)
        strands = np.minimum(_at(zones.septum, points), _at(zones.nest, points)) > 0
        share = np.where(strands, 0.15, share)
        share = np.where(_at(zones.stroma, points) > 0, 0.05, share)
        share = np.where((_at(zones.lumen, points) > 0) | (_at(zones.node, points) < 0), 0.004, share)
        self._draw(
            self._keep(points, share),
            draw_nuclei(self._rng, 64, radius=(2.9, 3.9), amount=(1.5, 2.2), mottle=0.3),
            self._nuclei,
        )

    def _centroblasts(self) -> None:
        """In germinal centres: large and pale, but no tumour."""
        zones = self._zones
        points = self._grid(spacing=10.5, jitter=0.3)
        inside = (_at(zones.follicle, points) > 2) & ~_at(zones.tumour, points) & (_at(zones.node, points) > 0)
        blasts = self._keep(points, inside * 0.85)
        self._draw(
            blasts, draw_nuclei(self._rng, 48, radius=(3.8, 5.6), amount=(0.65, 1.1), rim=0.4, nucleoli=2), self._nuclei
        )

    def _histiocytes(self) -> None:
        """In sinuses, and scattered: large and pale as well."""
        zones = self._zones
        points = self._grid(spacing=13.0, jitter=0.35)
        inside = (_at(zones.sinus, points) > 0) & ~_at(zones.tumour, points) & (_at(zones.stroma, points) < 0)
        scattered = 0.035 * (_at(zones.node, points) > 40) * ~_at(zones.tumour, points)
        histiocytes = self._keep(points, np.where(inside, self._rng.uniform(0.4, 0.95), scattered))
        self._draw(histiocytes, draw_bodies(self._rng, 24, radius=(5.5, 8.5), amount=(0.45, 0.75)), self._bodies)
        self._draw(
            histiocytes,
            draw_nuclei(self._rng, 48, radius=(3.6, 5.2), amount=(0.6, 1.0), stretch=1.4, rim=0.3),
            self._nuclei,
        )

    def _fibroblasts(self) -> None:
        """Spindles along the fibres."""
        zones = self._zones
        points = self._grid(spacing=13.0, jitter=0.4)
        inside = (
            np.maximum(_at(zones.stroma, points), np.minimum(_at(zones.septum, points), _at(zones.nest, points))) > 0
        )
        inside &= (_at(zones.node, points) > 2) & (_at(zones.lumen, points) < 0)
        points = self._keep(points, inside * 0.6)
        slope_y, slope_x = (
            np.maximum(_at(zones.stroma, points + step), _at(zones.septum, points + step))
            - np.maximum(_at(zones.stroma, points - step), _at(zones.septum, points - step))
            for step in ([2, 0], [0, 2])
        )
        turn = np.arctan2(slope_x, -slope_y) % np.pi
        spindles = draw_nuclei(
            self._rng, 32, radius=(2.6, 3.4), amount=(1.0, 1.7), stretch=2.6, angles=np.arange(32) * np.pi / 32
        )
        self._draw(points, spindles, self._nuclei, np.rint(turn / np.pi * 32).astype(np.int64) % 32)

    def _red_cells(self) -> None:
        """In the vessels."""
        zones = self._zones
        points = self._grid(spacing=7.0, jitter=0.4)
        red_cells = self._keep(points, (_at(zones.lumen, points) > 2) * self._rng.uniform(0.2, 0.9))
        self._draw(red_cells, draw_bodies(self._rng, 16, radius=(2.6, 3.4), amount=(1.0, 1.4)), self._bodies)

    def _tumour(self) -> None:
        """Larger, paler, pleomorphic, with nucleoli; how much so is the slide's own."""
        zones = self._zones
        size = self._rng.uniform(5.0, 7.2)
        points = self._grid(spacing=size * self._rng.uniform(2.0, 2.5), jitter=0.32)
        inside = (_at(zones.nest, points) > 4) & (_at(zones.septum, points) < 0) & (_at(zones.stroma, points) < 2)
        cells = np.concatenate([self._keep(points, inside * self._rng.uniform(0.8, 0.97)), zones.group_cells])
        pale = self._rng.uniform(0.45, 1.0)
        self._draw(cells, draw_bodies(self._rng, 24, radius=(1.3 * size, 1.8 * size), amount=(0.5, 0.9)), self._bodies)
        shapes = draw_nuclei(
            self._rng, 96, radius=(0.68 * size, 1.3 * size), amount=(pale, pale + 0.5), stretch=1.35, wobble=0.09,
            rim=0.35, nucleoli=3, mottle=0.22,
        )  # fmt: skip
        self._draw(cells, shapes, self._nuclei)

    def _grid(self, *, spacing: float, jitter: float) -> Points:
        return jittered_grid(self._rng, self._side, spacing=spacing, jitter=jitter)

    def _keep(self, points: Points, share: np.ndarray) -> Points:
        return points[self._rng.random(len(points)) < share]

    def _draw(self, points: Points, sprites: Sprites, onto: Layer, which: np.ndarray | None = None) -> None:
        stamp(onto, sprites, self._rng.integers(len(sprites), size=len(points)) if which is None else which, points)


def _at(level: np.ndarray, points: Points) -> np.ndarray:
    values: np.ndarray = level[points[:, 0], points[:, 1]]
    return values


# --- stain and scanner ------------------------------------------------------------------------------


def _scan(rng: np.random.Generator, haematoxylin: Layer, eosin: Layer) -> UInt8[np.ndarray, "side side 3"]:
    """Give the section its slide's stain, focus, brightness and noise."""
    side = len(haematoxylin)
    brown = rng.beta(0.6, 0.6)
    vectors = (1 - brown) * _VIOLET + brown * _BROWN + rng.normal(0, 0.025, (2, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = np.array([rng.uniform(0.65, 1.15), rng.uniform(0.6, 1.35)], np.float32)
    uneven = 1 + 0.06 * noise(rng, side, 250.0)  # thickness of the section
    blur_px = rng.uniform(0.45, 1.15)
    stains = [ndimage.gaussian_filter(plane * uneven, blur_px, truncate=3) for plane in (haematoxylin, eosin)]
    glass = (rng.uniform(232, 250) + rng.normal(0, 2, 3)).astype(np.float32)
    jitter = np.float32(rng.uniform(1.0, 3.0))
    rgb = np.empty((side, side, 3), np.uint8)
    for rows in bands(side):
        for channel in range(3):
            amounts = strength * vectors[:, channel]
            light = glass[channel] * np.exp(-(amounts[0] * stains[0][rows] + amounts[1] * stains[1][rows]))
            light += jitter * rng.standard_normal(light.shape, np.float32)
            rgb[rows, :, channel] = np.clip(np.rint(light), 0, 255)
    return rgb
