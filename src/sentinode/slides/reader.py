"""A slide's file, an image or an array -> pixels at any of its levels, and at the spacing that a model was trained on.

OpenSlide reads what scanners write (SVS, NDPI, MRXS, SCN, BIF, DICOM, tiled TIFF), Pillow plain images. Two spaces of
pixels are told apart: those of a level, in which `Slide.read` counts, and those of a `Plane`, the whole slide at one
spacing. Both begin at the slide's upper left corner. What lies beyond the slide, and what is transparent, is white.
"""

from __future__ import annotations

import hashlib
import math
import threading
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from PIL import Image, UnidentifiedImageError

from sentinode.errors import DataError
from sentinode.machine import optional_module

Rgb = UInt8[np.ndarray, "height width 3"]
Spacing = tuple[float, float]
"""Micrometres a pixel, along x and along y."""

WHITE: Final = 255
SLIDE_SUFFIXES: Final = (
    ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".dcm", ".tif", ".tiff", ".vms", ".vmu", ".svslide", ".czi",
    ".png", ".jpg", ".jpeg",
)  # fmt: skip
_PLAIN: Final = (".png", ".jpg", ".jpeg")  # no scanner's: for these OpenSlide need not be there
_FORMATS: Final = ("TIFF", "PNG", "JPEG")
_POSSIBLE_UM: Final = (0.05, 100.0)  # a spacing outside of these was made up by some program on the way
_SAME: Final = 0.01  # a pixel that is so much larger or smaller is the same pixel
_COARSEST: Final = 2.0  # times the spacing of the model: from coarser pixels nothing can be made that it knows
_ASSUMED: Final = (0.5, 0.5)  # um/px of a slide that has none, for its pictures alone
_CACHE_MB: Final = (32, 256)
_PARTS, _PART = 32, 2**15  # parts of a file, and bytes of each, that stand for it
_BAND_PX: Final = 4_000_000  # pixels that are read at once for an overview


@dataclass(frozen=True)
class Level:
    """One level of a slide's pyramid: its size, and how many pixels of level 0 one of its pixels is wide."""

    width: int
    height: int
    downsample: float


@runtime_checkable
class _Pixels(Protocol):
    """Where a slide's pixels come from."""

    levels: tuple[Level, ...]
    properties: dict[str, str]
    spacing: Spacing | None
    tile_px: int

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Rgb: ...

    def content(self) -> bytes:
        """What tells these pixels from others."""

    def close(self) -> None: ...


class Slide:
    """A slide that is open for reading; `read_slide` makes it. Use it in a `with` block, or close it."""

    def __init__(self, path: Path, pixels: _Pixels, spacing: Spacing | None) -> None:
        self.path, self._pixels = path, pixels
        self.spacing: Spacing | None = spacing or pixels.spacing
        """Micrometres a pixel of level 0, as given, else as the file has it, else None."""
        self.levels, self.properties = pixels.levels, pixels.properties

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._pixels.close()

    @property
    def name(self) -> str:
        return self.path.stem

    def require_spacing(self) -> Spacing:
        """The spacing; raises DataError, which names the three ways to give one, where there is none."""
        if self.spacing is None:
            raise DataError(
                "the file has no spacing, so its magnification is unknown",
                where=self.path,
                remedy="Give --spacing in um/px of level 0, a column spacing in a table of slides, or a file with one.",
            )
        return self.spacing

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        """A rectangle of a level, (height, width, 3); x, y is its upper left corner in that level's pixels.

        Raises DataError where a tile in it cannot be decoded.
        """
        return self._pixels.read(level, x, y, width, height)

    def read_what_can_be(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> tuple[Rgb, Bool[np.ndarray, "height width"] | None]:
        """`read`, with white for tiles that cannot be decoded, and where these lie; None for nowhere."""
        try:
            return self.read(level, x, y, width, height), None
        except DataError:
            pass
        rgb, lost = np.full((height, width, 3), WHITE, np.uint8), np.zeros((height, width), bool)
        step = self._pixels.tile_px
        for top in range(y // step * step, y + height, step):
            for left in range(x // step * step, x + width, step):
                upper, lower = max(top, y), min(top + step, y + height)
                first, last = max(left, x), min(left + step, x + width)
                place = slice(upper - y, lower - y), slice(first - x, last - x)
                try:
                    rgb[place] = self.read(level, first, upper, last - first, lower - upper)
                except DataError:
                    lost[place] = True
        return rgb, lost

    def plane(self, spacing_um_per_px: float) -> Plane:
        """The slide at that spacing; raises DataError where it has none, or its finest pixels are far coarser."""
        along_x, along_y = self.require_spacing()
        if max(along_x, along_y) > _COARSEST * spacing_um_per_px:
            raise DataError(
                f"has {max(along_x, along_y):.3g} um/px at its finest, too coarse for a model of patches at "
                f"{spacing_um_per_px:g} um/px",
                where=self.path,
                remedy="Give the slide itself, not an overview of it, or the right --spacing.",
            )
        finest = (spacing_um_per_px / along_x, spacing_um_per_px / along_y)  # pixels of level 0 a pixel of the plane
        fits = [k for k, level in enumerate(self.levels) if level.downsample <= min(finest) * (1 + _SAME)]
        best = max(fits, key=lambda k: self.levels[k].downsample, default=0)
        down = self.levels[best].downsample
        return Plane(self, best, (_snapped(finest[0] / down), _snapped(finest[1] / down)))

    def overview(self, spacing_um_per_px: float) -> Overview:
        """The whole slide at about that spacing, from the nearest finer level, read band by band.

        For a slide without a spacing, `_ASSUMED` is near enough.
        """
        along_x, along_y = self.spacing or _ASSUMED
        finest = (spacing_um_per_px / along_x, spacing_um_per_px / along_y)
        fits = [k for k, level in enumerate(self.levels) if level.downsample <= min(finest) * 1.5]
        best = max(fits, key=lambda k: self.levels[k].downsample, default=0)
        level = self.levels[best]
        factors = max(1, round(finest[0] / level.downsample)), max(1, round(finest[1] / level.downsample))
        rows = max(1, _BAND_PX // (level.width * factors[1])) * factors[1]
        bands, lost = [], []
        for top in range(0, level.height, rows):
            rgb, missing = self.read_what_can_be(best, 0, top, level.width, min(rows, level.height - top))
            bands.append(_reduced(rgb, factors))
            nowhere = np.zeros(rgb.shape[:2], bool) if missing is None else missing
            lost.append(_reduced(nowhere.astype(np.uint8) * 255, factors) > 0)
        scale = level.downsample * factors[0], level.downsample * factors[1]
        return Overview(np.concatenate(bands), np.concatenate(lost), scale, (scale[0] * along_x, scale[1] * along_y))

    def thumbnail(self, longest_px: int = 1024, *, of: Overview | None = None) -> Image.Image:
        """The whole slide as a picture, with a longest side of at most so many pixels; `of` an overview at hand.

        An overview that is smaller is used only where the slide has no finer pixels.
        """
        size, along = self.levels[0], self.spacing or _ASSUMED
        if of is None or max(of.rgb.shape) < longest_px:
            of = self.overview(max(size.width * along[0], size.height * along[1]) / longest_px)
        return of.picture(longest_px)

    @cached_property
    def identity(self) -> str:
        """A digest of what was read: it changes when the file does, and not with its name or place."""
        return hashlib.sha256(self._pixels.content()).hexdigest()


@dataclass(frozen=True, eq=False)
class Overview:
    """A whole slide in one small picture; `scale` is how many pixels of level 0 a pixel is wide and high."""

    rgb: Rgb
    lost: Bool[np.ndarray, "height width"]
    """Where at least one pixel could not be decoded."""
    scale: tuple[float, float]
    spacing: Spacing

    def picture(self, longest_px: int) -> Image.Image:
        """The same, with a longest side of so many pixels at most."""
        image = Image.fromarray(self.rgb)
        image.thumbnail((longest_px, longest_px), Image.Resampling.BOX)
        return image


class Plane:
    """A slide at one spacing: `read` counts in its pixels. A pixel is the mean of the area that it covers.

    `ratio` is how many pixels of the level that is read one of the plane's is wide and high: whole numbers where that
    is within 1 % of what was asked for, so that pixels are averaged block by block, or taken as they are.
    """

    def __init__(self, slide: Slide, level: int, ratio: tuple[float, float]) -> None:
        self.slide, self.level, self.ratio = slide, level, ratio
        size, down = slide.levels[level], slide.levels[level].downsample
        self.width, self.height = math.ceil(size.width / ratio[0]), math.ceil(size.height / ratio[1])
        self.scale = ratio[0] * down, ratio[1] * down
        """Pixels of level 0 that one of the plane's is wide and high."""
        along = slide.require_spacing()
        self.spacing: Spacing = (along[0] * self.scale[0], along[1] * self.scale[1])
        """What the plane's pixels measure: within 1 % of what was asked for."""

    def read(self, x: int, y: int, width: int, height: int) -> tuple[Rgb, Bool[np.ndarray, "height width"] | None]:
        """A rectangle of the plane, with white for what cannot be decoded, and where that lies (None for nowhere)."""
        left, right = _window(x, width, self.ratio[0])
        top, bottom = _window(y, height, self.ratio[1])
        rgb, lost = self.slide.read_what_can_be(self.level, left, top, right - left, bottom - top)
        if self.ratio == (1, 1):
            return rgb, lost
        if all(ratio.is_integer() for ratio in self.ratio):
            factors = int(self.ratio[0]), int(self.ratio[1])
            return _reduced(rgb, factors), None if lost is None else _reduced(lost.astype(np.uint8) * 255, factors) > 0
        rows = _Taps.of(y, height, self.ratio[1], top, bottom)
        columns = _Taps.of(x, width, self.ratio[0], left, right)
        marked = None if lost is None else _averaged(lost[..., None].astype(np.uint8) * 255, rows, columns)[..., 0] > 0
        return _averaged(rgb, rows, columns), marked


def read_slide(source: Path | str | Rgb, *, spacing: float | Spacing | None = None) -> Slide:
    """Open a slide's file or a plain image, or take an array (height, width, 3) of uint8 as one.

    `spacing` is in micrometres a pixel of level 0, for both axes or as (x, y); without it the file's own holds, if it
    has one. Raises DataError, in one line, for what is no slide or cannot be read, MissingExtraError without the extra
    `slides`.
    """
    given = None if spacing is None else _as_spacing(spacing)
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
            raise DataError(
                f"is {source.dtype} of the shape {source.shape}",
                where="the array",
                remedy="Give (height, width, 3) of uint8.",
            )
        return Slide(Path("array"), _ImagePixels(source), given)
    path = Path(source)
    if not path.exists():
        raise DataError("is missing", where=path, remedy="Give the path of a slide.")
    if path.is_dir():
        raise DataError("is a directory, not a slide", where=path, remedy="Give a slide's file.")
    if path.suffix.lower() not in _PLAIN:
        openslide = optional_module("openslide", what="reading slides", extra="slides")
        try:
            if openslide.OpenSlide.detect_format(path) is not None:
                return Slide(path, _OpenSlidePixels(path, openslide), given)
        except openslide.OpenSlideError as error:
            raise DataError(
                f"OpenSlide cannot read it ({error})", where=path, remedy="Copy it again from its scanner or source."
            ) from error
    return Slide(path, _ImagePixels(_decoded(path)), given)


def series_of(path: Path) -> str | None:
    """The series that a DICOM file belongs to; its other files, of the same directory, are opened with it.

    None for what is no DICOM, or cannot be read; MissingExtraError without the extra `slides`.
    """
    if path.suffix.lower() != ".dcm":
        return None
    openslide = optional_module("openslide", what="reading slides", extra="slides")
    try:
        with openslide.OpenSlide(path) as slide:
            return str(slide.properties["dicom.SeriesInstanceUID"])
    except (openslide.OpenSlideError, KeyError):
        return None


def _as_spacing(spacing: float | Spacing) -> Spacing:
    low, high = _POSSIBLE_UM
    along = (float(spacing), float(spacing)) if isinstance(spacing, int | float) else (spacing[0], spacing[1])
    if not all(low <= value <= high for value in along):  # nor NaN
        raise DataError(
            f"{spacing} um/px is no spacing of a slide",
            where="spacing",
            remedy=f"Give micrometres a pixel, from {low:g} to {high:g}.",
        )
    return along


# --- where pixels come from --------------------------------------------------------------------------


class _OpenSlidePixels:
    """Of a file that OpenSlide knows. It may be asked by several threads."""

    def __init__(self, path: Path, openslide: Any) -> None:
        self._path, self._openslide, self._lock = path, openslide, threading.Lock()
        self._handle = self._open()
        self.properties = dict(self._handle.properties)
        factors = self._handle.level_downsamples
        sizes = self._handle.level_dimensions
        self._factors: list[float] = [float(factor) for factor in factors]
        self.levels = tuple(
            Level(width, height, _true_downsample(factor, sizes[0], (width, height)))
            for factor, (width, height) in zip(self._factors, sizes, strict=True)
        )
        self.spacing = self._own_spacing()
        self.tile_px = int(self.properties.get("openslide.level[0].tile-width", 256))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        factor, handle = self._factors[level], self._handle
        try:
            image = handle.read_region((round(x * factor), round(y * factor)), level, (width, height))
        except self._openslide.OpenSlideError as error:
            self._reopen(handle)
            raise DataError(
                f"a tile cannot be decoded ({error})",
                where=f"{self._path}, level {level}, {width} x {height} pixels at {x}, {y}",
                remedy="Copy the slide again from its source.",
            ) from error
        return _on_white(image)

    def content(self) -> bytes:
        """Of gigabytes no more is read than OpenSlide's hash, of headers and the coarsest level.

        It has none where that level is large, as in a file of one level: then some places of the file stand for it.
        """
        found = self._path.stat()
        hashed = self.properties.get("openslide.quickhash-1", "").encode() or _some_of(self._path, found.st_size)
        return hashed + f" {found.st_size} {found.st_mtime_ns}".encode()

    def close(self) -> None:
        self._handle.close()

    def _open(self) -> Any:
        handle = self._openslide.OpenSlide(self._path)
        # A row of tiles, for blocks below one another share it.
        row_mb = handle.dimensions[0] * 4 * int(handle.properties.get("openslide.level[0].tile-height", 256)) / 1e6
        handle.set_cache(self._openslide.OpenSlideCache(int(min(max(2 * row_mb, _CACHE_MB[0]), _CACHE_MB[1]) * 1e6)))
        return handle

    def _reopen(self, failed: Any) -> None:
        """A handle that failed once fails for ever."""
        with self._lock:
            if self._handle is failed:
                self._handle = self._open()

    def _own_spacing(self) -> Spacing | None:
        try:
            along_x = float(self.properties[self._openslide.PROPERTY_NAME_MPP_X])
            along_y = float(self.properties[self._openslide.PROPERTY_NAME_MPP_Y])
        except (KeyError, ValueError):
            return None
        low, high = _POSSIBLE_UM
        return (along_x, along_y) if low <= min(along_x, along_y) and max(along_x, along_y) <= high else None


class _ImagePixels:
    """Of an image that lies in memory: one level."""

    def __init__(self, rgb: Rgb) -> None:
        self._rgb = rgb
        self.tile_px = max(rgb.shape)
        self.spacing: Spacing | None = None
        self.levels: tuple[Level, ...] = (Level(rgb.shape[1], rgb.shape[0], 1.0),)
        self.properties: dict[str, str] = {}

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        del level  # the only one
        rgb = np.full((height, width, 3), WHITE, np.uint8)
        top, left = max(y, 0), max(x, 0)
        inside = self._rgb[top : max(y + height, 0), left : max(x + width, 0)]
        rgb[top - y : top - y + inside.shape[0], left - x : left - x + inside.shape[1]] = inside
        return rgb

    def content(self) -> bytes:
        return self._rgb.tobytes()

    def close(self) -> None: ...


def _some_of(path: Path, size: int) -> bytes:
    """A few parts of a file, from its first byte to its last."""
    parts = []
    with path.open("rb") as file:
        for start in np.linspace(0, max(size - _PART, 0), _PARTS).astype(np.int64).tolist():
            file.seek(start)
            parts.append(file.read(_PART))
    return b"".join(parts)


def _decoded(path: Path) -> Rgb:
    remedy = "Give a slide, or a TIFF, PNG or JPEG image of 8 bits."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's of large images, below the size that it refuses
            with Image.open(path, formats=_FORMATS) as image:
                if image.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK", "YCbCr"):
                    raise DataError(f"has pixels of mode {image.mode}", where=path, remedy=remedy)
                return _on_white(image if image.mode in ("RGB", "RGBA") else image.convert("RGBA"))
    except UnidentifiedImageError as error:
        raise DataError("is neither a slide that OpenSlide knows nor an image", where=path, remedy=remedy) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"is too large to be read whole ({error})", where=path, remedy="Save it as a tiled, pyramidal TIFF."
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"cannot be read ({error})", where=path, remedy=remedy) from error


def _on_white(image: Image.Image) -> Rgb:
    if image.mode == "RGBA":
        alpha = image.getchannel("A")
        if alpha.getextrema() != (WHITE, WHITE):
            ground = Image.new("RGB", image.size, (WHITE,) * 3)
            ground.paste(image, mask=alpha)
            return np.asarray(ground)
    return np.asarray(image.convert("RGB"))


# --- geometry and area averaging ---------------------------------------------------------------------


def _true_downsample(told: float, finest: tuple[int, int], size: tuple[int, int]) -> float:
    """OpenSlide divides the sizes of levels, which are rounded: a factor of 2.0005 is 2."""
    whole = round(told)
    fits = (of in (pixels // whole, -(-pixels // whole)) for pixels, of in zip(finest, size, strict=True))
    return float(whole) if all(fits) else told


def _snapped(ratio: float) -> float:
    """A whole number where it is within 1 %."""
    whole = max(1, round(ratio))
    return float(whole) if abs(ratio / whole - 1) <= _SAME else ratio


def _window(start: int, length: int, ratio: float) -> tuple[int, int]:
    """The level's pixels under `length` pixels of the plane: first, and one behind the last."""
    return math.floor(start * ratio + 1e-9), math.ceil((start + length) * ratio - 1e-9)


def _reduced(pixels: UInt8[np.ndarray, "..."], factors: tuple[int, int]) -> UInt8[np.ndarray, "..."]:
    """Means over blocks of so many pixels in x and y; the last may be smaller."""
    return pixels if factors == (1, 1) else np.asarray(Image.fromarray(pixels).reduce(factors))


@dataclass(frozen=True, eq=False)
class _Taps:
    """Which of a level's rows (or columns) make up each of n of the plane, and by what share: they add up to 1."""

    at: Int[np.ndarray, "taps n"]
    share: Float32[np.ndarray, "taps n"]

    @classmethod
    def of(cls, start: int, length: int, ratio: float, first: int, behind: int) -> _Taps:
        """Of `length` rows of the plane from `start` on, where the level's from `first` to `behind` are at hand."""
        edges = (start + np.arange(length + 1)) * ratio - first
        low, high = edges[:-1], edges[1:]
        at = np.floor(low + 1e-9).astype(np.int64) + np.arange(math.ceil(ratio) + 1)[:, None]
        covered = np.clip(np.minimum(at + 1, high) - np.maximum(at, low), 0, None)
        return cls(np.minimum(at, behind - first - 1), (covered / covered.sum(axis=0)).astype(np.float32))

    def mean(self, rows: np.ndarray) -> Float32[np.ndarray, "n _ _"]:
        total = np.zeros((self.at.shape[1], *rows.shape[1:]), np.float32)
        for at, share in zip(self.at, self.share, strict=True):
            total += rows[at] * share[:, None, None]
        return total


def _averaged(pixels: UInt8[np.ndarray, "h w c"], rows: _Taps, columns: _Taps) -> UInt8[np.ndarray, "m n c"]:
    """Area averages, rounded to the nearest whole number."""
    tall = rows.mean(pixels)
    wide = columns.mean(np.ascontiguousarray(tall.transpose(1, 0, 2)))
    return np.asarray((wide.transpose(1, 0, 2) + np.float32(0.5)).astype(np.uint8))
