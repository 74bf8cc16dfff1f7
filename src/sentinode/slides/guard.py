"""Is this H&E of a lymph node at about 1 um a pixel at all? A second look at some patches of each slide.

A model gives a probability for anything. Fifteen simple numbers of a patch (stain, contrast, focus, texture, JPEG's
blocks) have known means and covariances in patches of lymph node; a patch far from them by Mahalanobis's distance is
unlike what a model was trained on. And nuclei have a known size: the spectrum of sizes in the haematoxylin of a set of
patches, moved until it lies on the known one, tells the spacing that the pixels have, whatever the file says.

The known numbers, `guard.json`, were measured by `benchmarks/guard.py` on training patches of the real sample.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from sentinode.records import Number, Numbers, read_record
from sentinode.slides.heatmap import HeatMap, patches_at, spread_out
from sentinode.slides.reader import Plane
from sentinode.slides.tissue import Reason

Patches = UInt8[np.ndarray, "n height width 3"]
_ASPECTS: Final = (
    "stain", "stain", "stain", "stain", "stain", "contrast", "focus", "texture", "compression", "stain",
    "stain", "stain", "contrast", "contrast", "contrast",
)  # fmt: skip
"""What each of `features` speaks of."""
_SIGMAS: Final = np.geomspace(0.7, 9, 16)  # pixels
_LEAST_SCALES: Final = 6  # that both spectra must share
_SHIFTS: Final = np.linspace(-1.1, 1.1, 221)  # of the logarithm of the spacing
_BORDER_PX: Final = 8
_LOOKED_AT: Final = 100
_FEWEST: Final = 20  # patches that say something of a slide
_TOO_MANY: Final = 0.25  # of a slide's patches that are unlike: the slide is
_DISAGREES: Final = 1.5  # times the spacing


@dataclass(frozen=True, eq=False)
class Known:
    """guard.json: what patches of lymph node are like."""

    mean: Annotated[Float[np.ndarray, " features"], Numbers()]
    precision: Annotated[Float[np.ndarray, " values"], Numbers()]
    """The inverse covariance, row by row."""
    deviation: Annotated[Float[np.ndarray, " features"], Numbers()]
    farthest: float
    """Squared distance within which 98.5 % of the patches lie."""
    spectrum: Annotated[Float[np.ndarray, " scales"], Numbers()]
    """Logarithm of the energy at each scale, at `spacing`."""
    spacing: float
    told: Annotated[Float[np.ndarray, " k"], Numbers()]
    """Raw estimates, in um/px, of patches that truly have the spacings `true`."""
    true: Annotated[Float[np.ndarray, " k"], Numbers()]


@dataclass(frozen=True)
class Look:
    """What a second look at some patches of a slide found."""

    patches: int
    unlike: int
    """How many are unlike patches of lymph node in H&E."""
    aspects: dict[str, int]
    """Of these, by what is most unusual: stain, contrast, focus, texture or compression."""
    spacing: Number
    """In um/px, from nuclei; NaN where nothing shows any structure."""

    def warnings(self, expected: float) -> list[str]:
        """What is wrong, in sentences; `expected` is the spacing that the patches were read at."""
        told = []
        if self.unlike > _TOO_MANY * self.patches:
            most = max(self.aspects, key=self.aspects.__getitem__)
            told.append(
                f"{self.unlike} of {self.patches} patches looked at are unlike lymph node in H&E, by their {most}: "
                "probabilities mean little here"
            )
        elif not expected / _DISAGREES < self.spacing < expected * _DISAGREES and not math.isnan(self.spacing):
            told.append(
                f"nuclei look as at {self.spacing:.2g} um/px, not {expected:.2g}: the spacing may be wrong, "
                "or the tissue no lymph node"
            )
        return told


def look_at_slide(found: HeatMap, plane: Plane) -> Look | None:
    """Look at up to 100 judged cells that lie within tissue, for its rim is unlike patches; None for too few."""
    within = ndimage.binary_erosion(found.reason == Reason.JUDGED, np.ones((3, 3), bool), iterations=2)
    centres, _ = spread_out(within, found.grid, _LOOKED_AT)
    patches, _ = patches_at(plane, centres)
    return look_at(patches) if len(patches) >= _FEWEST else None


def look_at(patches: Patches) -> Look:
    """Compare patches with what is known of lymph nodes."""
    known = _known()
    apart = features(patches) - known.mean
    size = len(known.mean)
    unlike = np.einsum("ni,ij,nj->n", apart, known.precision.reshape(size, size), apart) > known.farthest
    worst = np.abs(apart / known.deviation).argmax(axis=1)
    aspects = Counter(_ASPECTS[k] for k in worst[unlike].tolist())
    return Look(len(patches), int(unlike.sum()), dict(aspects.most_common()), spacing_of(patches))


def features(patches: Patches) -> Float[np.ndarray, "n features"]:
    """Mean densities, their differences, contrast, focus, texture, blocks, the darkest, correlations and deviations."""
    light = patches.astype(np.float32)
    density = -np.log((light + 1) / 256)
    mean = density.mean(axis=(1, 2))
    total = mean.sum(axis=1) + 0.15
    green = light[..., 1]
    across, down = np.diff(green, axis=2) ** 2, np.diff(green, axis=1) ** 2
    slope = across.mean(axis=(1, 2)) + down.mean(axis=(1, 2))
    inner = green[:, 1:-1, 1:-1]
    bend = green[:, :-2, 1:-1] + green[:, 2:, 1:-1] + green[:, 1:-1, :-2] + green[:, 1:-1, 2:] - 4 * inner
    curved, variance = (bend**2).mean(axis=(1, 2)), green.var(axis=(1, 2))
    # JPEG's blocks of 8 pixels: the steepest of the 8 offsets beside the middle one.
    blocks = np.zeros(len(patches))
    for steps in (across.mean(axis=1), down.mean(axis=2)):
        by_offset = np.stack([steps[:, k::8].mean(axis=1) for k in range(8)], axis=1)
        blocks += np.log((by_offset.max(axis=1) + 0.3) / (np.median(by_offset, axis=1) + 0.3))
    pixels = density.reshape(len(patches), -1, 3)
    dark = np.quantile(pixels.mean(axis=2), 0.95, axis=1)
    apart = pixels - pixels.mean(axis=1, keepdims=True)
    deviation = apart.std(axis=1) + 0.02
    with_green = (apart[..., [0, 2]] * apart[..., [1]]).mean(axis=1) / (deviation[:, [0, 2]] * deviation[:, [1]])
    return np.column_stack(
        [
            np.log(mean + 0.05),
            (mean[:, 1] - mean[:, 0]) / total,
            (mean[:, 1] - mean[:, 2]) / total,
            np.log(slope + 2),
            np.log((curved + 2) / (slope + 2)),
            np.log((slope + 2) / (variance + 4)),
            blocks,
            dark,
            with_green,
            np.log(deviation),
        ]
    )


def spectrum_of(patches: Patches) -> Float[np.ndarray, " scales"]:
    """Logarithm of the energy of structures at each scale: differences of Gaussians of the red density."""
    density = -np.log((patches[..., 0].astype(np.float32) + 1) / 256)
    smooth = [ndimage.gaussian_filter(density, (0, sigma, sigma)) for sigma in _SIGMAS]
    inside = np.s_[:, _BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX]
    energy = [float(((a - b)[inside] ** 2).mean()) for a, b in pairwise(smooth)]
    return np.log(np.array(energy) + 1e-12)


def raw_spacing(found: Float[np.ndarray, " scales"], reference: Float[np.ndarray, " scales"], spacing: float) -> float:
    """The spacing at which one spectrum lies on another, that of patches of a known spacing, but for its height."""
    at = np.log(_SIGMAS[:-1] * _SIGMAS[1:]) / 2
    best, shift = math.inf, 0.0
    for moved in _SHIFTS:
        shared = (at + moved >= at[0]) & (at + moved <= at[-1])
        if shared.sum() < _LEAST_SCALES:
            continue
        apart = float((found[shared] - np.interp(at[shared] + moved, at, reference)).var())
        if apart < best:
            best, shift = apart, float(moved)
    return spacing * math.exp(shift)


def spacing_of(patches: Patches) -> float:
    """The spacing in um/px that the nuclei of a set of patches speak of; NaN where there is no structure.

    Within 20 % for 95 % of sets of 50 patches of lymph node (docs/lab-log.md); more patches tell more.
    """
    found, known = spectrum_of(patches), _known()
    if found.max() < math.log(1e-6):
        return math.nan
    raw = raw_spacing(found, known.spectrum, known.spacing)
    return float(np.exp(np.interp(math.log(raw), np.log(known.told), np.log(known.true))))


@cache
def _known() -> Known:
    with resources.as_file(resources.files("sentinode.slides").joinpath("guard.json")) as path:
        return read_record(Path(path), Known)
