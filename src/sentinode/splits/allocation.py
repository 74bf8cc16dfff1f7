"""Units such as slides dealt out to parts, whole, so that every part has its share of both classes."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from sentinode.errors import SplitError

NOTED_MISS: Final = 0.05  # of all patches: a share that is missed by more is said
_CLOSE_ENOUGH: Final = 0.02  # of a class's patches
_FEW_UNITS: Final = 500
_MOST_COUNTED: Final = 2**21  # parts in all dealings: of 20 units to two parts, of 12 to three; about 150 MB
_SAME: Final = 1e-9


class Units(NamedTuple):
    """How many units hold both classes, or one of them only."""

    both: int
    negative: int
    positive: int

    @property
    def most_parts(self) -> int:
        """Into how many parts they can be dealt so that each has both classes.

        A part needs a unit with both classes or one of either kind, and any further unit harms none.
        """
        return self.both + min(self.negative, self.positive)


def units_by_class(labels: Int[np.ndarray, " n"], units: Int[np.ndarray, " n"]) -> Units:
    negative, positive = (_sizes(labels, units)[0] > 0).T
    return Units(int((negative & positive).sum()), int((negative & ~positive).sum()), int((positive & ~negative).sum()))


def is_searched(units: int, parts: int) -> bool:
    """Whether so few units are dealt out by looking at every dealing, where the first tries do not come near."""
    return bool(parts ** min(units + 1, 64) <= _MOST_COUNTED)


def assign_units(
    labels: Int[np.ndarray, " n"],
    units: Int[np.ndarray, " n"],
    shares: Float[np.ndarray, " parts"],
    rng: np.random.Generator,
) -> Int[np.ndarray, " n"]:
    """Give each patch a part so that no unit is cut and each part has its share of both classes.

    The largest units go first, each to the part that is furthest below its share of the unit's classes. Up to a
    hundred random orders are tried (a few where units are many): the first that comes within 2 % of every share is
    taken, so that slides with very different tumour fractions still give parts alike, and other seeds other parts.

    Where none does and units are few (`is_searched`), the best of all dealings is taken, of equally good ones one at
    random; where they are many, the best that was tried, improved by moving single units. Best is, in this order:
    both classes in every part; no share of all patches missed by more than 5 %, or by as little as can be; the
    shares of both classes; the share of all patches. A part lacks a class only where `Units.most_parts` says that
    no dealing gives both to all. Raises SplitError where there are fewer units than parts.
    """
    sizes, unit_of = _sizes(labels, units)
    count, parts = len(sizes), len(shares)
    if count < parts:
        raise SplitError(
            f"{parts} sets need at least {parts} slides or groups, but there are {count}",
            remedy="Give more slides or groups, or split.by = 'random' (which ignores slides).",
        )
    targets = shares[:, None] * sizes.sum(axis=0)
    few, searched = count <= _FEW_UNITS, is_searched(count, parts)
    if count == len(labels) and not searched:  # every patch alone: an exact stratified draw, as for a random split
        return _stratified(labels, shares, rng)
    best, best_rank = np.zeros(count, int), _WORST
    for _ in range(100 if few else 3):
        dealt = _greedy(np.full(count, -1), sizes, targets, rng)
        if (rank := _rank(dealt, sizes, targets)) < best_rank:
            best, best_rank = dealt, rank
        if rank.close_enough:
            return np.asarray(best[unit_of])
    if searched:
        best = _best_of_all(sizes, targets, shares, rng)
    else:
        if best_rank.lacking and units_by_class(labels, units).most_parts >= parts:
            best = _greedy(_carriers(sizes, targets), sizes, targets, rng)
        if few:
            best = _with_single_moves(best, sizes, targets)
    return np.asarray(best[unit_of])


class _Rank(NamedTuple):
    """How far a dealing is from the shares; the smaller one is the better one."""

    lacking: int
    """Classes that parts lack."""
    beyond: float
    """By how much the share of all patches is missed by more than is noted, in the part where it is missed most."""
    of_class: float
    """The largest distance from a part's share of a class, as a part of that class."""
    of_all: float
    """The same of all patches."""

    @property
    def close_enough(self) -> bool:
        return not self.lacking and self.of_class <= _CLOSE_ENOUGH


_WORST: Final = _Rank(2**31, 1.0, 1.0, 1.0)


def _ranks(filled: Num[np.ndarray, "d parts 2"], targets: Float[np.ndarray, "parts 2"]) -> list[np.ndarray]:
    """Of each dealing the fields of its `_Rank`, from how many patches of each class its parts have."""
    totals = targets.sum(axis=0)
    distance = np.abs(filled - targets)
    of_all = np.abs(filled.sum(axis=2) - targets.sum(axis=1)).max(axis=1) / max(totals.sum(), 1.0)
    return [
        ((filled == 0) & (totals > 0)).sum(axis=(1, 2)),
        np.maximum(of_all - NOTED_MISS, 0.0),
        (distance / np.maximum(totals, 1.0)).max(axis=(1, 2)),
        of_all,
    ]


def _rank(dealt: np.ndarray, sizes: np.ndarray, targets: np.ndarray) -> _Rank:
    filled = np.stack([np.bincount(dealt, sizes[:, label], len(targets)) for label in (0, 1)], axis=1)
    lacking, beyond, of_class, of_all = (field[0] for field in _ranks(filled[None], targets))
    return _Rank(int(lacking), float(beyond), float(of_class), float(of_all))


def _sizes(labels: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patches of each class by unit, (units, 2), and the number of each patch's unit."""
    _, unit_of = np.unique(units, return_inverse=True)
    count = int(unit_of.max()) + 1 if len(unit_of) else 0
    return np.stack([np.bincount(unit_of[labels == label], minlength=count) for label in (0, 1)], axis=1), unit_of


def _greedy(dealt: np.ndarray, sizes: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal out the units that have no part yet (-1)."""
    weight = 1.0 / np.maximum(targets.sum(axis=0), 1.0)
    # Jitter makes an order of its own for each try, yet large units still go before small ones.
    order = np.argsort(-sizes.sum(axis=1) * rng.uniform(0.5, 1.5, len(sizes)), kind="stable")
    filled = np.zeros_like(targets)
    np.add.at(filled, dealt[dealt >= 0], sizes[dealt >= 0])
    dealt = dealt.copy()
    for unit in order[dealt[order] < 0]:
        short = (targets - filled) * weight
        part = int(np.argmax((short * sizes[unit]).sum(axis=1)))
        dealt[unit] = part
        filled[part] += sizes[unit]
    return dealt


def _carriers(sizes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Give every part both classes with as few and as small units as that takes, the smallest to the smallest part."""
    by_size = np.argsort(sizes.sum(axis=1), kind="stable")
    negative, positive = (sizes[by_size] > 0).T
    carriers = [[unit] for unit in by_size[negative & positive].tolist()]
    single = zip(by_size[negative & ~positive].tolist(), by_size[positive & ~negative].tolist(), strict=False)
    carriers += [list(pair) for pair in single]
    dealt = np.full(len(sizes), -1)
    for part, own in zip(np.argsort(targets.sum(axis=1), kind="stable"), carriers, strict=False):
        dealt[own] = part
    return dealt


def _best_of_all(
    sizes: np.ndarray, targets: np.ndarray, shares: Float[np.ndarray, " parts"], rng: np.random.Generator
) -> np.ndarray:
    """Look at every dealing; of equally good ones, and of those within 2 % of every share, one at random."""
    count, parts = len(sizes), len(shares)
    alike = bool(np.all(shares == shares[0]))  # then the first unit's part is no choice: the parts are only numbered
    free = count - 1 if alike else count
    filled = np.zeros((1, parts, 2), np.int32)
    if alike:
        filled[0, 0] = sizes[0]
    for unit in range(count - free, count):
        own = np.zeros((parts, parts, 2), np.int32)
        own[np.arange(parts), np.arange(parts)] = sizes[unit]
        filled = (filled[:, None] + own).reshape(-1, parts, 2)
    lacking, beyond, of_class, of_all = _ranks(filled, targets)
    best = np.arange(len(filled))
    for field in (lacking, beyond, np.maximum(of_class, _CLOSE_ENOUGH)):
        best = best[field[best] <= field[best].min() + _SAME]
    if of_class[best[0]] > _CLOSE_ENOUGH:
        best = best[of_all[best] <= of_all[best].min() + _SAME]
    chosen = int(rng.choice(best))
    digits = chosen // parts ** np.arange(free - 1, -1, -1) % parts
    dealt = np.concatenate([np.zeros(count - free, int), digits])
    return rng.permutation(parts)[dealt] if alike else dealt


def _with_single_moves(dealt: np.ndarray, sizes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Move one unit at a time to another part for as long as that brings the parts nearer to their shares."""
    parts, rows = len(targets), np.arange(len(sizes))
    rank = _rank(dealt, sizes, targets)
    while not rank.close_enough:
        filled = np.stack([np.bincount(dealt, sizes[:, label], parts) for label in (0, 1)], axis=1)
        moved = np.broadcast_to(filled, (len(sizes), parts, parts, 2)).copy()  # unit, to, part, class
        moved[rows, :, dealt] -= sizes[:, None]
        moved[:, np.arange(parts), np.arange(parts)] += sizes[:, None]
        fields = _ranks(moved.reshape(-1, parts, 2), targets)
        nearest = int(np.lexsort(fields[::-1])[0])
        tried = dealt.copy()
        tried[nearest // parts] = nearest % parts
        found = _rank(tried, sizes, targets)
        if not found < rank:
            break
        dealt, rank = tried, found
    return dealt


def _stratified(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal out single patches of each class by the shares; no part lacks a class that has a patch for each."""
    part = np.empty(len(labels), int)
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum(shares) * len(rows)).astype(int)
        counts = np.diff(ends, prepend=0)
        while len(rows) >= len(shares) and not counts.all():
            counts[np.argmin(counts)] += 1
            counts[np.argmax(counts)] -= 1
        part[rows] = np.repeat(np.arange(len(shares)), counts)
    return part
