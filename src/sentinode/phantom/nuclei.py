"""Cells before they are placed: sprites of nuclei and bodies, jittered grids of points, stamping.

A sprite is an amount of stain on a small square; nuclei hold haematoxylin, bodies eosin.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Int
from scipy import ndimage

BORDER_PX: Final = 16  # the rim of a section where no nucleus is centred; never cut from

Layer = Float32[np.ndarray, "side side"]
Sprites = Float32[np.ndarray, "sprites size size"]
Points = Int[np.ndarray, "_ 2"]  # rows and columns


def jittered_grid(rng: np.random.Generator, side: int, *, spacing: float, jitter: float) -> Points:
    """Points of a hexagonal grid, each moved by up to `jitter` spacings, clear of the border."""
    rows = np.arange(BORDER_PX, side - BORDER_PX, spacing * 0.75**0.5)
    columns = np.arange(BORDER_PX, side - BORDER_PX, spacing)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x = x + (np.arange(len(rows)) % 2)[:, None] * spacing / 2
    points = np.stack([y, x], axis=-1).reshape(-1, 2) + rng.uniform(-jitter, jitter, (y.size, 2)) * spacing
    points = np.rint(points).astype(np.int64)
    return points[((points >= BORDER_PX) & (points < side - BORDER_PX)).all(axis=1)]


def draw_nuclei(
    rng: np.random.Generator,
    count: int,
    *,
    radius: tuple[float, float],
    amount: tuple[float, float],
    stretch: float = 1.15,
    wobble: float = 0.04,
    rim: float = 0.2,
    nucleoli: int = 0,
    mottle: float = 0.15,
    angles: np.ndarray | None = None,
) -> Sprites:
    """Draw nuclei: wobbly ellipses with a dark rim (the membrane), mottled chromatin and nucleoli."""
    half = min(BORDER_PX - 1, int(np.ceil(radius[1] * stretch**0.5 * 1.2 + 2)))
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)

    def each(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)

    turn = each(0.0, np.pi) if angles is None else angles.astype(np.float32)[:, None, None]
    long = each(1.0 + 0.5 * (stretch - 1), stretch) ** 0.5
    along, across = (x * np.cos(turn) + y * np.sin(turn)) / long, (y * np.cos(turn) - x * np.sin(turn)) * long
    direction, reach = np.arctan2(across, along), np.hypot(along, across)
    edge = each(*radius)
    for lobes in (2, 3, 5):
        edge = edge * (1 + each(0.0, wobble) * np.cos(lobes * direction + each(0.0, 2 * np.pi)))
    depth = edge - reach
    chromatin = 1 + mottle * 2 * ndimage.gaussian_filter(rng.standard_normal(depth.shape, np.float32), (0, 0.8, 0.8))
    chromatin += rim * np.exp(-((depth - 0.8) ** 2)) - 0.5 * rim
    nuclei = each(*amount) * chromatin
    for _ in range(nucleoli):
        spot_y, spot_x, size = each(-0.45, 0.45) * radius[0], each(-0.45, 0.45) * radius[0], each(0.5, 1.0)
        nuclei += each(0.0, 1.1) * np.exp(-((y - spot_y) ** 2 + (x - spot_x) ** 2) / (2 * size**2))
    sprites: Sprites = np.maximum(nuclei, 0) * np.clip(0.5 + depth, 0, 1)
    return sprites


def draw_bodies(
    rng: np.random.Generator, count: int, *, radius: tuple[float, float], amount: tuple[float, float]
) -> Sprites:
    """Draw cell bodies: faint at the middle, a little denser at the membrane."""
    return draw_nuclei(rng, count, radius=radius, amount=amount, stretch=1.3, wobble=0.08, rim=0.15, mottle=0.12)


def stamp(plane: Layer, sprites: Sprites, which: Int[np.ndarray, "_"], points: Points) -> None:
    """Lay sprite `which[i]` centred on `points[i]`, keeping the greater amount where they meet."""
    half = sprites.shape[1] // 2
    reach = np.arange(-half, half + 1)
    offsets = (reach[:, None] * plane.shape[1] + reach).reshape(-1)
    corners, flat, drawn = points @ (plane.shape[1], 1), plane.reshape(-1), sprites.reshape(len(sprites), -1)
    for first in range(0, len(points), 2000):  # a few at a time: the index of all would be huge
        some = slice(first, first + 2000)
        np.maximum.at(flat, (corners[some, None] + offsets).reshape(-1), drawn[which[some]].reshape(-1))
