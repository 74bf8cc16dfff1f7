"""Patches that equal an earlier one: identical, or up to one of the square's symmetries.

A sum over hashed pixels, which no rotation or flip changes, proposes; equal pixels confirm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt32, UInt64

from sentinode.data.chunks import Pixels
from sentinode.data.images import Patch
from sentinode.data.patches import SYMMETRIES, symmetric_view


@dataclass(frozen=True, slots=True)
class Duplicate:
    """`b` is `symmetric_view(a, symmetry)`, pixel for pixel; `a` is the first patch of its kind."""

    a: int
    b: int
    symmetry: int


def sum_pixels(hashes: UInt32[np.ndarray, "n 96 96"]) -> UInt64[np.ndarray, " n"]:
    """Sum a patch's hashed pixels: a fingerprint that no rotation or flip changes."""
    sums: UInt64[np.ndarray, " n"] = hashes.reshape(len(hashes), -1).sum(axis=1, dtype=np.uint64)
    return sums


def match_sums(pixels: Pixels, sums: UInt64[np.ndarray, " n"]) -> list[Duplicate]:
    """Compare the patches with equal `sum_pixels` under all symmetries, and name each repeated one."""
    order = np.argsort(sums, kind="stable")
    bounds = np.flatnonzero(np.diff(sums[order])) + 1
    found: list[Duplicate] = []
    for rows in np.split(order, bounds):
        if len(rows) == 1:
            continue
        first_rows: dict[bytes, int] = {}  # the least of a patch's 8 views -> the first patch that has it
        for row in rows.tolist():
            views = [symmetric_view(pixels[row], symmetry).tobytes() for symmetry in SYMMETRIES]
            first_row = first_rows.setdefault(min(views), row)
            if first_row != row:
                found.append(Duplicate(first_row, row, _symmetry_between(pixels[first_row], pixels[row])))
    return sorted(found, key=lambda duplicate: (duplicate.a, duplicate.b))


def _symmetry_between(first: Patch, second: Patch) -> int:
    return next(k for k in SYMMETRIES if np.array_equal(symmetric_view(first, k), second))


def hash_pixels(chunk: Pixels) -> UInt32[np.ndarray, "n 96 96"]:
    """Hash each RGB pixel to 32 bits."""
    padded = np.zeros((*chunk.shape[:3], 4), np.uint8)
    for channel in range(3):  # three strided copies are six times faster than one of [..., :3]
        padded[..., channel] = chunk[..., channel]
    return scramble(padded.view(np.uint32)[..., 0])


def scramble(values: UInt32[np.ndarray, "..."]) -> UInt32[np.ndarray, "..."]:
    """Mix 32 bits so that each depends on all (the finalizer of Appleby's MurmurHash3, in part)."""
    mixed = values * np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return mixed
