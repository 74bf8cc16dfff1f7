"""Units such as slides dealt out to parts, whole, so that every part has its share of both classes."""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float, Int

from sentinode.errors import SplitError

_CLOSE_ENOUGH = 0.02  # of a class's patches
_FEW_UNITS = 500


def assign_units(
    labels: Int[np.ndarray, " n"],
    units: Int[np.ndarray, " n"],
    shares: Float[np.ndarray, " parts"],
    rng: np.random.Generator,
) -> Int[np.ndarray, " n"]:
    """Give each patch a part so that no unit is cut and each part has its share of both classes.

    The largest units go first, each to the part that is furthest below its share of the unit's
    classes. Up to a hundred random orders are tried (a few where units are many): the first that comes
    within 2 % of every share is taken, else the nearest, so that slides with very different tumour
    fractions still give parts alike, and other seeds other parts. Raises SplitError where there are
    fewer units than parts.
    """
    _, unit_of = np.unique(units, return_inverse=True)
    count = int(unit_of.max()) + 1 if len(unit_of) else 0
    parts = len(shares)
    if count < parts:
        raise SplitError(
            f"{parts} parts need at least {parts} slides or groups, but there are {count}",
            remedy="Give more slides or groups, or split.by = 'random' (which ignores slides).",
        )
    sizes = np.stack([np.bincount(unit_of[labels == label], minlength=count) for label in (0, 1)], axis=1)
    if count == len(labels):  # every patch alone: an exact stratified draw, as for a random split
        return _stratified(labels, shares, rng)
    few = count <= _FEW_UNITS
    targets = shares[:, None] * sizes.sum(axis=0)
    best, best_miss = np.zeros(count, int), np.inf
    for _ in range(100 if few else 3):
        parted = _greedy(sizes, targets, rng)
        miss = _miss(parted, sizes, targets)
        if miss < best_miss:
            best, best_miss = parted, miss
        if miss <= _CLOSE_ENOUGH:
            break
    return (_with_single_moves(best, sizes, targets) if few else best)[unit_of]


def _greedy(sizes: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    weight = 1.0 / np.maximum(targets.sum(axis=0), 1.0)
    # Jitter makes an order of its own for each try, yet large units still go before small ones.
    order = np.argsort(-sizes.sum(axis=1) * rng.uniform(0.5, 1.5, len(sizes)), kind="stable")
    filled = np.zeros_like(targets)
    parted = np.empty(len(sizes), int)
    for unit in order:
        short = (targets - filled) * weight
        part = int(np.argmax((short * sizes[unit]).sum(axis=1)))
        parted[unit] = part
        filled[part] += sizes[unit]
    return parted


def _miss(parted: np.ndarray, sizes: np.ndarray, targets: np.ndarray) -> float:
    """The largest distance from a part's share of a class, as a part of that class; 1 more for an empty part."""
    filled = np.stack([np.bincount(parted, sizes[:, label], len(targets)) for label in (0, 1)], axis=1)
    distance = np.abs(filled - targets) / np.maximum(targets.sum(axis=0), 1.0)
    return float(distance.max()) + float((filled.sum(axis=1) == 0).any())


def _with_single_moves(parted: np.ndarray, sizes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Move one unit at a time to another part for as long as that brings the parts nearer to their shares."""
    miss, improved = _miss(parted, sizes, targets), True
    while improved and miss > _CLOSE_ENOUGH:
        improved = False
        for unit, part in itertools.product(range(len(parted)), range(len(targets))):
            tried = parted.copy()
            tried[unit] = part
            if (found := _miss(tried, sizes, targets)) < miss:
                parted, miss, improved = tried, found, True
    return parted


def _stratified(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    part = np.empty(len(labels), int)
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum(shares) * len(rows)).astype(int)
        part[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    return part
