"""Concepts that a pathologist can check, measured on each patch: nuclei, stroma, stain, focus, brightness.

Stains are unmixed as by Ruifrok and Johnston (2001, Anal Quant Cytol Histol 23:291-299): optical density is linear in
their amounts, and their colours are those of the paper, for every slide the same. So amounts contain the laboratory's
stain and the scanner, which is what one wants to know of a network: whether it takes these for tumour.

A nucleus is a peak of smoothed haematoxylin above its patch's threshold, Otsu's (1979, IEEE Trans Syst Man Cybern
9:62-66) within limits. Peaks are counted, because touching nuclei would be one connected component; the area above the
threshold, shared among them, is the mean size whether they touch or not. At 1 um a pixel this measures, and does not
segment: of packed lymphocytes up to a third are missed, of large nuclei up to a quarter are counted twice, and sizes
are within a third.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int, UInt8
from scipy import ndimage

from sentinode.audit.appearance import DENSITY_OF_VALUE, brightness_of
from sentinode.data.images import CENTRE_SIZE_PX, PATCH_SIZE_PX, SPACING_UM_PER_PX
from sentinode.progress import StepProgress


@dataclass(frozen=True)
class Concept:
    """What is measured: its name in tables, what it is called, its unit, and how it is measured, in a sentence."""

    name: str
    title: str
    unit: str
    meaning: str


CONCEPTS: Final = (
    Concept(
        "nuclear_density",
        "nuclear density",
        "nuclei/mm2",
        "Peaks of haematoxylin that stand out from the patch, for each square millimetre.",
    ),
    Concept("nuclear_size", "nuclear size", "um2", "The mean area of a nucleus; unknown where there is none."),
    Concept(
        "nuclear_paleness",
        "nuclear paleness",
        "0 to 255",
        "The mean brightness of nuclei, 0 (black) to 255 (white); unknown where there is none.",
    ),
    Concept(
        "stroma_share",
        "stroma share",
        "share of pixels",
        "Pixels away from nuclei where eosin shows: collagen, but also red cells and the cytoplasm of large cells.",
    ),
    Concept("haematoxylin", "haematoxylin", "optical density", "The mean amount of haematoxylin over all pixels."),
    Concept("eosin", "eosin", "optical density", "The mean amount of eosin over all pixels."),
    Concept("brightness", "brightness", "0 to 255", "The mean of red, green and blue over all pixels."),
    Concept(
        "sharpness",
        "sharpness",
        "ratio",
        "Fine against coarse detail of green: 1.5 to 4 in focus, below 0.5 blurred; unknown where nothing shows.",
    ),
)
"""Measured over the whole patch; all but sharpness also over the centre of 32 x 32 pixels, as `centre_<name>`."""

NAMES: Final = (*(of.name for of in CONCEPTS), *(f"centre_{of.name}" for of in CONCEPTS[:-1]))
"""The columns of `concepts`."""

# Optical density of each stain in red, green and blue (Ruifrok and Johnston 2001, table 1).
_STAINS: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
_UNMIX: Final = np.linalg.pinv(_STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)).astype(np.float32)
_AMOUNTS_OF_VALUE: Final = DENSITY_OF_VALUE[:, None, None] * _UNMIX  # (value, channel, stain)

_PEAK_SIGMA_PX: Final = 1.5  # evens out chromatin, and keeps apart lymphocytes, 7 px wide, that touch
_PEAK_CAP: Final = 1.5  # times the threshold: what is darker, clumps and nucleoli, makes no peak of its own
_PEAK_REACH_PX: Final = 2  # a peak is the largest value so far around it
# Where values are equal, as in ink, the last of them is the peak, not each.
_TIE_BREAKER: Final = 1e-6 * np.arange(PATCH_SIZE_PX**2, dtype=np.float32).reshape(PATCH_SIZE_PX, PATCH_SIZE_PX)
_THRESHOLDS: Final = (0.18, 0.6)  # of haematoxylin: less is no nucleus, more is one though the patch be full of them
_BINS: Final = 64
_HIGHEST: Final = 1.5  # optical density at which the histogram of haematoxylin ends
_LEAST_EOSIN: Final = 0.06
_EOSIN_FOR_HAEMATOXYLIN: Final = 0.5  # stroma has at least so much of one for the other, in any laboratory's pink
_FLAT: Final = 8.0  # grey levels squared: below, focus cannot be told
_CHUNK_PATCHES: Final = 16  # their planes fit a processor's cache
_MARGIN_PX: Final = (PATCH_SIZE_PX - CENTRE_SIZE_PX) // 2
_MM2_A_PX: Final = (SPACING_UM_PER_PX / 1000) ** 2

Pixels = UInt8[np.ndarray, "n 96 96 3"]
Planes = Float32[np.ndarray, "n height width"]
Masks = Bool[np.ndarray, "n height width"]


def concepts(
    pixels: Pixels,
    rows: Int[np.ndarray, " k"] | None = None,
    *,
    workers: int = 2,
    on_progress: StepProgress | None = None,
) -> pd.DataFrame:
    """Measure patches of 0.972 um/px (all, or those in `rows`), one line each, indexed by row: float32, by `NAMES`.

    What cannot be told of a patch, such as the size of nuclei where there are none, is NaN. `workers` threads share
    the work; the result does not depend on them.
    """
    chosen = np.arange(len(pixels)) if rows is None else np.asarray(rows)
    chunks = [chosen[start : start + _CHUNK_PATCHES] for start in range(0, len(chosen), _CHUNK_PATCHES)]
    parts = [pd.DataFrame(columns=list(NAMES), dtype=np.float32)]
    with ThreadPoolExecutor(workers) as pool:
        for chunk, measured in zip(chunks, pool.map(lambda of: _measured(pixels[of]), chunks), strict=True):
            parts.append(pd.DataFrame(measured, index=chunk, columns=list(NAMES), dtype=np.float32))
            if on_progress is not None:
                on_progress(sum(map(len, parts)), len(chosen))
    return pd.concat(parts[1:] or parts)


@dataclass(frozen=True, eq=False)
class Measured:
    """What each pixel of some patches is taken for."""

    haematoxylin: Planes
    """In optical density, and so is eosin."""
    eosin: Planes
    brightness: Planes
    """0 to 255."""
    nuclei: Masks
    peaks: Masks
    """One pixel of each nucleus."""
    stroma: Masks


def measure(chunk: Pixels) -> Measured:
    """Unmix the stains of patches, and tell nuclei and stroma."""
    haematoxylin, eosin = (_amount(chunk, stain) for stain in (0, 1))
    smooth_haematoxylin, smooth_eosin = _smoothed(haematoxylin), _smoothed(eosin)
    threshold = np.clip(_otsu(smooth_haematoxylin), *_THRESHOLDS)
    nuclei = smooth_haematoxylin > threshold[:, None, None]
    capped = np.minimum(haematoxylin, _PEAK_CAP * threshold[:, None, None])
    blurred = ndimage.gaussian_filter(capped, (0, _PEAK_SIGMA_PX, _PEAK_SIGMA_PX), truncate=3)
    blurred += _TIE_BREAKER
    near = _largest_around(nuclei, 1)
    stained = (smooth_eosin > _LEAST_EOSIN) & (smooth_eosin > _EOSIN_FOR_HAEMATOXYLIN * smooth_haematoxylin)
    return Measured(
        haematoxylin,
        eosin,
        brightness_of(chunk),
        nuclei,
        nuclei & (blurred >= _largest_around(blurred, _PEAK_REACH_PX)),
        stained & ~near,
    )


def _measured(chunk: Pixels) -> Float32[np.ndarray, "n names"]:
    seen = measure(chunk)
    inner = np.s_[:, _MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
    centre = Measured(**{name: planes[inner] for name, planes in vars(seen).items()})
    measured: Float32[np.ndarray, "n names"] = np.column_stack(
        [*_summed_up(seen), sharpness(chunk), *_summed_up(centre)]
    )
    return measured


def _summed_up(seen: Measured) -> list[Float32[np.ndarray, " n"]]:
    """The concepts in their order, but for sharpness."""
    pixels = seen.nuclei.shape[1] * seen.nuclei.shape[2]
    count, area = (planes.sum(axis=(1, 2)).astype(np.float32) for planes in (seen.peaks, seen.nuclei))
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.where(count > 0, area / count * _MM2_A_PX * 1e6, np.nan)
        paleness = np.where(count > 0, (seen.brightness * seen.nuclei).sum(axis=(1, 2)) / area, np.nan)
    planes = (seen.stroma, seen.haematoxylin, seen.eosin, seen.brightness)
    return [count / (pixels * _MM2_A_PX), size, paleness, *(of.mean(axis=(1, 2), dtype=np.float32) for of in planes)]


def sharpness(chunk: Pixels) -> Float32[np.ndarray, " n"]:
    """Mean square of green's second differences (Laplacian), over that of its first; NaN where there is no structure.

    As `slides/guard.py` has it for cells of a slide: in focus 1.5 to 4, blurred by 2 pixels 0.2 to 0.5.
    """
    green = chunk[..., 1].astype(np.float32)
    across, down = np.diff(green, axis=2), np.diff(green, axis=1)
    first = (across**2).mean(axis=(1, 2)) + (down**2).mean(axis=(1, 2))
    bend = np.diff(across, axis=2)[:, 1:-1] + np.diff(down, axis=1)[:, :, 1:-1]
    second = (bend**2).mean(axis=(1, 2))
    ratio: Float32[np.ndarray, " n"] = np.where(first > _FLAT, second / np.maximum(first, _FLAT), np.float32(np.nan))
    return ratio


def _amount(chunk: Pixels, stain: int) -> Planes:
    """Of a stain in each pixel, by least squares, in optical density."""
    amount: Planes = _AMOUNTS_OF_VALUE[:, 0, stain][chunk[..., 0]]
    for channel in (1, 2):
        amount += _AMOUNTS_OF_VALUE[:, channel, stain][chunk[..., channel]]
    return amount


def _smoothed(planes: Planes) -> Planes:
    """By the binomial filter of 3 x 3."""
    wide = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    tall = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    smooth: Planes = (tall[:, :, :-2] + 2 * tall[:, :, 1:-1] + tall[:, :, 2:]) / np.float32(16)
    return smooth


def _otsu(planes: Planes) -> Float32[np.ndarray, " n"]:
    """Otsu's threshold of each plane: the value between two classes whose means are farthest apart for their sizes."""
    place = np.clip(planes.reshape(len(planes), -1) * (_BINS / _HIGHEST), 0, _BINS - 1).astype(np.int64)
    place += _BINS * np.arange(len(planes))[:, None]
    count = np.bincount(place.ravel(), minlength=_BINS * len(planes)).reshape(len(planes), _BINS)
    below, sum_below = count.cumsum(axis=1), (count * np.arange(_BINS)).cumsum(axis=1)
    above, sum_above = below[:, -1:] - below, sum_below[:, -1:] - sum_below
    apart = sum_below / np.maximum(below, 1) - sum_above / np.maximum(above, 1)
    between = (below * above * apart**2).argmax(axis=1)
    threshold: Float32[np.ndarray, " n"] = ((between + 1) * (_HIGHEST / _BINS)).astype(np.float32)
    return threshold


def _largest_around(planes: np.ndarray, reach: int) -> np.ndarray:
    """The maximum over the square of 2 reach + 1 pixels around each pixel."""
    _, height, width = planes.shape
    wide = np.pad(planes, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    tall = wide[:, :height]
    for offset in range(1, 2 * reach + 1):
        tall = np.maximum(tall, wide[:, offset : offset + height])
    largest: np.ndarray = tall[:, :, :width]
    for offset in range(1, 2 * reach + 1):
        largest = np.maximum(largest, tall[:, :, offset : offset + width])
    return largest
