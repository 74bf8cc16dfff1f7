"""Cutting the patches of a painted section, and planting the defects that real data have among them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Int, UInt8

from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX, Patch, patch_id
from sentinode.data.patches import symmetric_view
from sentinode.phantom.nuclei import BORDER_PX

_OVERLAP_POSITIVE_SHARE: Final = 0.85  # nearly all overlaps in the real data are positive
_CHAIN_SHARE: Final = 0.3  # of overlaps that continue the one before
_LARGEST_SHIFT_PX: Final = 80
# Squares dropped at random jam when they fill 0.75 of each axis (Renyi 1958); some room is left over.
_AXIS_SHARE: Final = 0.70

Defect = Literal["", "duplicate", "overlap", "black", "white"]
DefectKind = Literal["rotated", "copied", "overlap", "black", "white"]
_BLANKS: Final[tuple[Literal["black", "white"], ...]] = ("black", "white")


@dataclass(frozen=True)
class TruthRow:
    """One row of `truth.csv`: `x`, `y` is the top left corner in the slide's field, in pixels.

    `tumour_fraction` is that of the centre square; `of` is the id that a duplicate or an overlap
    was made from.
    """

    id: str
    part: Literal["train", "test"]
    slide: str
    x: int
    y: int
    label: int
    tumour_fraction: float
    defect: Defect
    of: str


@dataclass(frozen=True)
class SlidePlan:
    """All that a worker needs to make one slide, whichever process it runs in."""

    name: str
    part: Literal["train", "test"]
    seed: np.random.SeedSequence
    patches: int
    positive_share: float
    defects: Counter[DefectKind]


def field_side_px(patches: int) -> int:
    """The side of a square section on which that many patches find room without touching."""
    return math.ceil(PATCH_SIZE_PX * (math.sqrt(patches) + 1) / _AXIS_SHARE) + 2 * BORDER_PX


class Cutter:
    """Cuts one section: which places are free, what their label is, what was cut so far."""

    def __init__(
        self,
        plan: SlidePlan,
        rng: np.random.Generator,
        rgb: UInt8[np.ndarray, "side side 3"],
        tumour: Bool[np.ndarray, "side side"],
    ) -> None:
        self.plan, self.rng, self.rgb = plan, rng, rgb
        self.last_corner = len(rgb) - BORDER_PX - PATCH_SIZE_PX
        # Sums over all pixels above and to the left: any rectangle's sum is then four look-ups.
        self.sums = np.pad(np.cumsum(np.cumsum(tumour, axis=0, dtype=np.int32), axis=1), ((1, 0), (1, 0)))
        self.rows: list[TruthRow] = []

    def cut_all(self) -> Iterator[tuple[TruthRow, Patch]]:
        """All patches of the slide, defects included; `rows` grows with them."""
        defects = self.plan.defects
        copies = defects["rotated"] + defects["copied"] + defects["overlap"]
        positives = round(self.plan.positive_share * self.plan.patches - _OVERLAP_POSITIVE_SHARE * defects["overlap"])
        corners = self._free_corners({1: positives, 0: self.plan.patches - copies - positives})
        labels = self._centre_pixels(corners) > 0
        blanks = iter([kind for kind in _BLANKS for _ in range(defects[kind])])
        clean: list[tuple[TruthRow, Patch]] = []
        for (y, x), positive in zip(corners.tolist(), labels, strict=True):
            blank = None if positive else next(blanks, None)
            patch = self._pixels(y, x) if blank is None else self._blank(blank)
            made = self._record(patch, y, x, blank or "")
            if blank is None:
                clean.append(made)
            yield made
        for kind in ("rotated", "copied"):
            for _ in range(defects[kind]):
                yield self._duplicate(*clean[self.rng.integers(len(clean))], rotated=kind == "rotated")
        yield from self._overlaps([row for row, _ in clean], defects["overlap"])

    def _free_corners(self, wanted: dict[int, int]) -> Int[np.ndarray, "n 2"]:
        """Draw places that do not touch: `wanted` of each label where there is room, else the other."""
        corners = self.rng.integers(BORDER_PX, self.last_corner, (30_000, 2), endpoint=True)
        labels = (self._centre_pixels(corners) > 0).astype(int).tolist()
        blocked = np.zeros(self.rgb.shape[:2], bool)
        chosen: list[tuple[int, int]] = []
        total, left = sum(wanted.values()), dict(wanted)
        for strict in (True, False):
            for (y, x), label in zip(corners.tolist(), labels, strict=True):
                if len(chosen) == total:
                    break
                if blocked[y, x] or (strict and left[label] == 0):
                    continue
                left[label] -= 1
                chosen.append((y, x))
                blocked[
                    max(0, y - PATCH_SIZE_PX + 1) : y + PATCH_SIZE_PX,
                    max(0, x - PATCH_SIZE_PX + 1) : x + PATCH_SIZE_PX,
                ] = True
        assert len(chosen) == total, "the field is large enough for its patches"
        return np.array(chosen)

    def _overlaps(self, originals: list[TruthRow], count: int) -> Iterator[tuple[TruthRow, Patch]]:
        """Shifted cuts of cuts, mostly of positive ones; some continue the one before as a chain."""
        chain: list[TruthRow] = []
        while count:
            if not chain or self.rng.random() > _CHAIN_SHARE:
                label = int(self.rng.random() < _OVERLAP_POSITIVE_SHARE)
                of_label = [row for row in originals if row.label == label] or originals
                chain = [of_label[self.rng.integers(len(of_label))]]
            of = chain[-1]
            dy, dx = self.rng.integers(-_LARGEST_SHIFT_PX, _LARGEST_SHIFT_PX, 2, endpoint=True).tolist()
            y, x = of.y + dy, of.x + dx
            family = {row.id for row in chain}
            if max(abs(dy), abs(dx)) < 4 or not self._is_free(y, x, besides=family):
                chain = []
                continue
            made = self._record(self._pixels(y, x), y, x, "overlap", of=of.id)
            originals = [row for row in originals if row.id not in family]
            chain.append(made[0])
            count -= 1
            yield made

    def _is_free(self, y: int, x: int, *, besides: set[str]) -> bool:
        if min(y, x) < BORDER_PX or max(y, x) > self.last_corner:
            return False
        return not any(
            abs(row.y - y) < PATCH_SIZE_PX and abs(row.x - x) < PATCH_SIZE_PX
            for row in self.rows
            if row.id not in besides and row.of not in besides
        )

    def _duplicate(self, original: TruthRow, patch: Patch, *, rotated: bool) -> tuple[TruthRow, Patch]:
        if rotated:
            symmetry = int(self.rng.integers(1, 8))  # 0 would change nothing
            return self._record(symmetric_view(patch, symmetry), original.y, original.x, "duplicate", of=original.id)
        name = self.rng.bytes(20).hex()
        return self._record(patch, original.y, original.x, "duplicate", of=original.id, name=name)

    def _blank(self, kind: str) -> Patch:
        """A failed scan: almost black or almost white, with a little noise of the sensor."""
        noise = np.abs(self.rng.normal(0, 1.2, (PATCH_SIZE_PX, PATCH_SIZE_PX, 3))).astype(np.uint8)
        return noise if kind == "black" else np.uint8(255) - noise

    def _pixels(self, y: int, x: int) -> Patch:
        return self.rgb[y : y + PATCH_SIZE_PX, x : x + PATCH_SIZE_PX]

    def _centre_pixels(self, corners: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n"]:
        """How many pixels of tumour the centre square of each cut holds."""
        top, left = (corners + (PATCH_SIZE_PX - CENTRE_SIZE_PX) // 2).T
        bottom, right, sums = top + CENTRE_SIZE_PX, left + CENTRE_SIZE_PX, self.sums
        pixels: Int[np.ndarray, "n"] = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return pixels

    def _record(
        self, patch: Patch, y: int, x: int, defect: Defect, *, of: str = "", name: str | None = None
    ) -> tuple[TruthRow, Patch]:
        pixels = int(self._centre_pixels(np.array([[y, x]]))[0])
        row = TruthRow(
            id=name or patch_id(patch),
            part=self.plan.part,
            slide=self.plan.name,
            x=x,
            y=y,
            label=int(pixels > 0),
            tumour_fraction=pixels / CENTRE_SIZE_PX**2,
            defect=defect,
            of=of,
        )
        self.rows.append(row)
        return row, patch
