"""Patches that share tissue: cut from one slide at places that overlap.

Two patches cut from one slide at different places agree pixel for pixel where they overlap, but
nothing says which of N * N / 2 pairs to compare. As in winnowing (Schleimer, Wilkerson and Aiken,
"Winnowing: local algorithms for document fingerprinting", SIGMOD 2003), every patch names a few
small windows, its anchors, by their content alone, so that two patches name the same ones wherever
they share tissue:

    pixels -> hash of each 8 x 8 window -> anchors: least hash of each block -> sorted by hash
           -> equal hashes propose (a, b, shift) -> compared over the whole shared area

A block of windows spans exactly `MIN_SHARED_PX` pixels: a shared area at least that wide and high,
with contrast in it, always holds a common anchor. Sorting is the one step above linear time, and
an anchor takes 8 bytes, about 2.2 kB a patch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Int, UInt8, UInt32, UInt64

from sentinode.audit.duplicates import Duplicate, scramble
from sentinode.data.chunks import Pixels, in_threads
from sentinode.data.images import PATCH_SIZE_PX
from sentinode.progress import StepProgress

WINDOW_PX: Final = 8
MIN_SHARED_PX: Final = 16
# Grey levels of green in a window. Empty glass repeats the few patterns that JPEG leaves of it, so that
# windows with less coincide between slides; real overlaps were found alike with 4 to 24.
MIN_CONTRAST: Final = 12
# An anchor is paired with this many of its equals, in the order of rows; see `_propose`. PatchCamelyon's
# patches lie on a grid of 16 pixels, where no more than 36 can show the same place.
MAX_NEIGHBOURS: Final = 36

_POSITION_BITS: Final = 14  # 96 * 96 places in a patch
_SLAB_ANCHORS: Final = 1 << 20
_PAIRS_AT_ONCE: Final = 4096
_RANK_BASES: Final = (0x9E3779B1, 0x27D4EB2F)
_NAME_BASES: Final = (0x85EBCA77, 0x165667B1)
_NEVER: Final = np.uint32(0xFFFFFFFF)

_Grid = UInt8[np.ndarray, "n _ _"] | UInt32[np.ndarray, "n _ _"]


@dataclass(frozen=True, slots=True)
class Overlap:
    """`b` shows a part of `a`: a[y + dy_px, x + dx_px] == b[y, x] over the whole shared area; a < b.

    A shift of (0, 0) is an identical patch.
    """

    a: int
    b: int
    dx_px: int
    dy_px: int
    shared_area_px: int


def overlap_groups(count: int, overlaps: Iterable[Overlap | Duplicate]) -> Int[np.ndarray, " n"]:
    """Number the groups that pairs, directly or in a chain, connect; -1 for a patch alone.

    Groups are numbered from 0 in the order of their first rows.
    """
    parents = list(range(count))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for overlap in overlaps:
        one, other = sorted((root(overlap.a), root(overlap.b)))
        parents[other] = one  # the first row stays the root: groups number themselves in order
    roots = np.array([root(row) for row in range(count)], dtype=np.int64)
    members = np.bincount(roots, minlength=count)
    first_rows = np.flatnonzero(members > 1)
    numbers = np.full(count, -1, np.int64)
    numbers[first_rows] = np.arange(len(first_rows))
    return numbers[roots]


def find_anchors(
    chunk: Pixels,
    hashes: UInt32[np.ndarray, "n 96 96"],
    first_row: int,
    count: int,
) -> UInt64[np.ndarray, " k"]:
    """Choose the windows with the least hash of any block; each is packed as (hash, row, position).

    `count` is the number of patches in all, `first_row` that of the chunk's first among them. The
    hash is kept to as many bits as row and position leave it: 32 up to 262,144 patches.
    """
    block = MIN_SHARED_PX - WINDOW_PX + 1
    green = chunk[..., 1]
    contrast = _slide(np.maximum, green, WINDOW_PX) - _slide(np.minimum, green, WINDOW_PX)
    textured = contrast >= MIN_CONTRAST

    ranks = scramble(_hash_windows(hashes, _RANK_BASES))
    ranks[~textured] = _NEVER
    least = _slide(np.minimum, ranks, block)
    # A window is an anchor where it is the least of some block around it: the greatest of the blocks'
    # minima is its own rank.
    margin = (block - 1, block - 1)
    greatest = _slide(np.maximum, np.pad(least, ((0, 0), margin, margin)), block)
    chosen = (greatest == ranks) & textured
    patch, y, x = np.unravel_index(np.flatnonzero(chosen), chosen.shape)  # five times faster than nonzero

    # Anchors all have small ranks, and would agree by chance far too often; a second hash names them.
    names = scramble(_hash_windows(hashes, _NAME_BASES)[patch, y, x])
    hash_bits = _hash_bits(count)
    kept = (names >> np.uint32(32 - hash_bits)).astype(np.uint64) << np.uint64(64 - hash_bits)
    places = ((patch + first_row) << _POSITION_BITS) + y * PATCH_SIZE_PX + x
    return kept | places.astype(np.uint64)


def match_anchors(
    pixels: Pixels,
    anchors: list[UInt64[np.ndarray, " _"]],
    *,
    workers: int = 2,
    on_progress: StepProgress | None = None,
) -> list[Overlap]:
    """The pairs of patches that overlap in at least `MIN_SHARED_PX` pixels each way, in order.

    Every pair is confirmed by equal pixels over its whole shared area, and one 8 x 8 window of that area has a contrast
    of at least `MIN_CONTRAST` grey levels: white ground is no shared tissue. Where more than 37 windows are alike, only
    near ones in the order of rows are paired: the list may then miss pairs of a crowd, while a chain still runs through
    it. The list of anchors is emptied on the way, so that those of a full data set are held only once.
    `on_progress(done, total)` counts proposed pairs.
    """
    ordered = _drain(anchors)
    ordered.sort()
    proposals = _propose(ordered, len(pixels))
    del ordered

    def agreeing(start: int) -> list[Overlap]:
        found = (_compare(pixels, *row) for row in proposals[start : start + _PAIRS_AT_ONCE].tolist())
        return [overlap for overlap in found if overlap is not None]

    overlaps: list[Overlap] = []
    starts = range(0, len(proposals), _PAIRS_AT_ONCE)
    for start, found in zip(starts, in_threads(agreeing, starts, workers), strict=True):
        overlaps += found
        if on_progress is not None:
            on_progress(min(start + _PAIRS_AT_ONCE, len(proposals)), len(proposals))
    return overlaps


def _hash_windows(hashes: UInt32[np.ndarray, "n 96 96"], bases: tuple[int, int]) -> UInt32[np.ndarray, "n 89 89"]:
    """Hash every 8 x 8 window by doubling: polynomials over 2, 4 and 8 neighbours, along x then y."""
    for base in bases:
        step = 1
        while step < WINDOW_PX:
            factor = np.uint32(pow(base, step, 1 << 32))
            hashes = hashes[:, :, :-step] * factor + hashes[:, :, step:]
            step *= 2
        hashes = hashes.swapaxes(1, 2)
    return hashes


def _slide(ufunc: np.ufunc, values: _Grid, span: int) -> _Grid:
    """Reduce each square of `span` x `span` neighbours with `np.minimum` or `np.maximum`, by doubling."""
    for axis in (1, 2):
        whole = (slice(None),) * axis
        reached = 1
        while reached < span:
            step = min(reached, span - reached)
            values = ufunc(values[(*whole, slice(None, -step))], values[(*whole, slice(step, None))])
            reached += step
    return values


def _hash_bits(count: int) -> int:
    """How many bits of an anchor are left for its hash when `count` rows must fit, too."""
    return min(32, 64 - _POSITION_BITS - max(count - 1, 1).bit_length())


def _drain(parts: list[UInt64[np.ndarray, " _"]]) -> UInt64[np.ndarray, " k"]:
    """Concatenate, letting go of each part once it is copied."""
    whole = np.empty(sum(map(len, parts)), np.uint64)
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole


def _propose(ordered: UInt64[np.ndarray, " k"], count: int) -> Int[np.ndarray, "m 4"]:
    """Turn equal hashes of sorted anchors into distinct (a, b, dx, dy), in the order of rows.

    Each anchor meets its next `MAX_NEIGHBOURS` equals, no more, so that a window found in m patches
    proposes at most 36 m pairs and not m * m / 2; next neighbours still chain all m together.
    """
    packed, pending = np.empty(0, np.int64), [np.empty(0, np.int64)]
    for start in range(0, len(ordered), _SLAB_ANCHORS):
        slab = ordered[start : start + _SLAB_ANCHORS + MAX_NEIGHBOURS]
        pending.append(_propose_slab(slab, count))
        # Slabs repeat each other's pairs; merged no oftener than they double, they stay few and linear.
        if start + _SLAB_ANCHORS >= len(ordered) or sum(map(len, pending)) > len(packed):
            packed, pending = np.unique(np.concatenate([packed, *pending])), []
    shifts = packed & 0xFFFF
    rows = packed >> 16
    return np.stack([rows // count, rows % count, (shifts >> 8) - PATCH_SIZE_PX, (shifts & 0xFF) - PATCH_SIZE_PX], 1)


def _propose_slab(slab: UInt64[np.ndarray, " k"], count: int) -> Int[np.ndarray, " m"]:
    hash_bits = _hash_bits(count)
    hashes = slab >> np.uint64(64 - hash_bits)
    places = (slab & np.uint64((1 << (64 - hash_bits)) - 1)).astype(np.int64)
    firsts = np.flatnonzero(hashes[1:] == hashes[:-1])  # most anchors have no equal
    found = []
    for distance in range(1, MAX_NEIGHBOURS + 1):
        firsts = firsts[firsts + distance < len(slab)]
        firsts = firsts[hashes[firsts] == hashes[firsts + distance]]
        row_a, position_a = np.divmod(places[firsts], 1 << _POSITION_BITS)
        row_b, position_b = np.divmod(places[firsts + distance], 1 << _POSITION_BITS)
        dy = position_a // PATCH_SIZE_PX - position_b // PATCH_SIZE_PX
        dx = position_a % PATCH_SIZE_PX - position_b % PATCH_SIZE_PX
        shared_px = PATCH_SIZE_PX - np.maximum(np.abs(dx), np.abs(dy))
        shift = ((dx + PATCH_SIZE_PX) << 8) + dy + PATCH_SIZE_PX
        packed = ((row_a * count + row_b) << 16) + shift
        found.append(packed[(row_a != row_b) & (shared_px >= MIN_SHARED_PX)])
    return np.unique(np.concatenate(found))


def _compare(pixels: Pixels, a: int, b: int, dx: int, dy: int) -> Overlap | None:
    """The overlap of a and b under a shift, if all pixels of the shared area are equal."""
    height, width = PATCH_SIZE_PX - abs(dy), PATCH_SIZE_PX - abs(dx)
    y, x = max(dy, 0), max(dx, 0)
    of_a = pixels[a, y : y + height, x : x + width]
    of_b = pixels[b, y - dy : y - dy + height, x - dx : x - dx + width]
    return Overlap(a, b, dx, dy, height * width) if np.array_equal(of_a, of_b) else None
