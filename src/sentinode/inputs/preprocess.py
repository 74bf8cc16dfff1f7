"""Normalise the stain, crop to the centre and downsample: the fixed part of preprocessing, done once for each patch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Int8, UInt8

from sentinode.config.run import PreprocessConfig
from sentinode.data.images import PATCH_SIZE_PX
from sentinode.data.patches import PatchSet, room_for
from sentinode.inputs.macenko import normalise_stain
from sentinode.progress import StepProgress

_CHUNK = 2048
_NOT_KNOWN = -1


def preprocess(
    patches: UInt8[np.ndarray, "n 96 96 3"], config: PreprocessConfig
) -> tuple[UInt8[np.ndarray, "n s s 3"], Bool[np.ndarray, " n"]]:
    """What a network takes of each patch, in bytes, and whether its stain was to be normalised and could not be.

    Stains are normalised before anything is cut off, so that they do not depend on the crop; a patch of which that
    cannot be done (`normalise_stain` says when) is cropped and downsampled as it is.
    """
    left = np.zeros(len(patches), bool)
    if config.stain == "macenko":
        patches, left = normalise_stain(patches)
    return downsample(patches, config), left


def sampled_px(config: PreprocessConfig) -> tuple[Int[np.ndarray, " s"], int]:
    """The first row (and column) of a patch that each of the input is made of, and of how many it is the mean."""
    margin = (PATCH_SIZE_PX - config.crop_px) // 2
    if config.resize == "nearest" or config.crop_px == config.size_px:
        at = ((np.arange(config.size_px) + 0.5) * config.crop_px / config.size_px).astype(int)
        return margin + at, 1
    block = config.crop_px // config.size_px
    return margin + block * np.arange(config.size_px), block


def downsample(patches: UInt8[np.ndarray, "n 96 96 3"], config: PreprocessConfig) -> UInt8[np.ndarray, "n s s 3"]:
    """The centre `crop_px` square of each patch, downsampled to `size_px`.

    "nearest" takes the pixel under each output pixel's centre, as Pillow does for Keras; "area" takes
    the mean of the block, rounded to the nearest whole number.
    """
    at, block = sampled_px(config)
    if config.crop_px == config.size_px:  # nothing to pick: a slice is copied faster than pixels are gathered
        return patches[:, at[0] : at[-1] + 1, at[0] : at[-1] + 1].copy()
    if block == 1:
        return np.ascontiguousarray(patches[:, at[:, None], at[None, :]])
    total = np.zeros((len(patches), config.size_px, config.size_px, 3), np.uint16)
    for dy in range(block):
        for dx in range(block):
            total += patches[:, at[0] + dy : at[-1] + dy + 1 : block, at[0] + dx : at[-1] + dx + 1 : block]
    return ((total + block * block // 2) // (block * block)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Preprocessed pixels of some rows of a PatchSet: held in memory, or made anew at every look."""

    patches: PatchSet
    rows: Int[np.ndarray, " n"]
    config: PreprocessConfig
    held: UInt8[np.ndarray, "n s s 3"] | None
    _left: Int8[np.ndarray, " n"] = field(init=False, repr=False)
    """Whether a patch's stain could not be normalised, 1 or 0; -1 until its pixels are first made."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_left", np.full(len(self.rows), _NOT_KNOWN, np.int8))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Int[np.ndarray, " k"] | slice) -> UInt8[np.ndarray, "k s s 3"]:
        return self.held[at] if self.held is not None else self.make(at)

    def make(self, at: Int[np.ndarray, " k"] | slice) -> UInt8[np.ndarray, "k s s 3"]:
        """The pixels, from those of the patches, whether they are held or not."""
        pixels, self._left[at] = preprocess(self.patches.pixels[self.rows[at]], self.config)
        return pixels

    @property
    def unnormalised(self) -> int:
        """Patches whose stain could not be normalised; pixels that were never made are made to find out."""
        if self.config.stain == "none":
            return 0
        unmade = np.flatnonzero(self._left == _NOT_KNOWN)
        for start in range(0, len(unmade), _CHUNK):
            self.make(unmade[start : start + _CHUNK])
        return int((self._left == 1).sum())


def prepare(
    patches: PatchSet,
    rows: Int[np.ndarray, " n"],
    config: PreprocessConfig,
    *,
    budget_mb: int,
    scratch: Path | None = None,
    on_progress: StepProgress | None = None,
) -> Prepared:
    """Preprocess the given rows once and hold them, where that fits the budget (in MB); else on demand.

    In the folder `scratch`, many are held in a file without a name, whose pages the system can write out and drop.
    Raises StorageError where it has no room.
    """
    size = len(rows) * config.size_px**2 * 3
    if size > budget_mb * 1e6:
        return Prepared(patches, rows, config, None)
    shape = (len(rows), config.size_px, config.size_px, 3)
    prepared = Prepared(patches, rows, config, room_for(shape, scratch))
    assert prepared.held is not None
    order = np.argsort(rows)  # read the memory map from front to back
    for start in range(0, len(rows), _CHUNK):
        chunk = order[start : start + _CHUNK]
        prepared.held[chunk] = prepared.make(chunk)
        if on_progress:
            on_progress(min(start + _CHUNK, len(rows)), len(rows))
    return prepared


def notices(*sides: Prepared) -> list[str]:
    """What preprocessing did otherwise than asked, in sentences."""
    left = sum(side.unnormalised for side in sides)
    return [unnormalised_in_words(left, sum(map(len, sides)))] if left else []


def unnormalised_in_words(left: int, count: int) -> str:
    """What it means that so many stains could not be normalised."""
    return (
        f"stain normalisation left {left:,} of {count:,} patches as they are: they show too little tissue, or no two "
        "stains that can be told apart"
    )
