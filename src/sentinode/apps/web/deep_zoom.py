"""Slides as Deep Zoom tiles, and what `sentinode slides` found in them. No slide is read whole.

Which slides of a folder there are is settled when the service starts; those that clients send come and go. A name in a
request is looked up among these, and no path is ever made of it.
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Final

from PIL import Image

from sentinode.apps.web.answers import SlideCard
from sentinode.apps.web.heat_maps import HeatMapFiles, HeatMaps
from sentinode.apps.web.judge import Task
from sentinode.apps.web.uploads import RefusedError
from sentinode.errors import DataError
from sentinode.slides.cohort import cohort_of
from sentinode.slides.judging import SlideEntry
from sentinode.slides.reader import Slide, read_slide

TILE_PX: Final = 256
_OPEN_AT_ONCE: Final = 4  # slides, each with its cache of tiles
_FARTHEST: Final = 8  # from a level that is finer than this many times, no tile is read: from the overview then
_OVERVIEW_PX: Final = 2048
_ASSUMED_UM: Final = 0.5  # where a slide has no spacing: `Slide.overview` assumes the same
_QUALITY: Final = 85


class _Opened:
    """A slide that is open, with its overview, which is read when it is first needed."""

    def __init__(self, slide: Slide) -> None:
        self.slide, self._lock = slide, threading.Lock()
        self._overview: list[tuple[Image.Image, tuple[float, float]]] = []

    def overview(self, scale: float) -> tuple[Image.Image, tuple[float, float]]:
        """The whole slide in at most about 2,048 pixels, as coarse as it may be for this scale; and what its own is."""
        with self._lock:
            if not self._overview:
                size, along = self.slide.levels[0], self.slide.spacing or (_ASSUMED_UM, _ASSUMED_UM)
                longest_um = max(size.width * along[0], size.height * along[1])
                whole = self.slide.overview(longest_um / _OVERVIEW_PX)
                self._overview.append((Image.fromarray(whole.rgb), whole.scale))
                while max((finer := self._overview[-1])[0].size) > 1:
                    half = finer[0].reduce(2)
                    self._overview.append((half, (finer[1][0] * 2, finer[1][1] * 2)))
            return next(
                (found for found in reversed(self._overview) if max(found[1]) <= scale * 1.01), self._overview[0]
            )


@dataclass(eq=False)
class _Shown:
    """A slide that is shown, and where its heat map belongs."""

    entry: SlideEntry
    results: Path | None
    uploaded: bool = False
    used: float = field(default_factory=time.monotonic)


class Slides:
    """The slides of a folder and those that clients sent, by name; several threads may ask."""

    def __init__(self, folder: Path | None = None, results: Path | None = None) -> None:
        """`results`: of `sentinode slides` on the same folder. Raises DataError where the folder has no slides."""
        entries = [] if folder is None else cohort_of([folder])
        self._shown = {entry.name: _Shown(entry, results) for entry in entries}
        self.results, self._heat_maps = results, HeatMaps()
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """In the order of the folder, and then in that in which they were sent."""
        return list(self._shown)

    @property
    def uploaded(self) -> dict[str, float]:
        """The slides that clients sent, and for how many seconds each was not asked for."""
        now = time.monotonic()
        return {name: now - shown.used for name, shown in list(self._shown.items()) if shown.uploaded}

    def use(self, name: str) -> None:
        """Note that a slide is still wanted; raises RefusedError for one that is not there."""
        self._require(name).used = time.monotonic()

    def add(self, slide: Slide, results: Path, spacing: float | None) -> str:
        """Show a slide that a client sent; its name, which no other has."""
        path = slide.path
        with self._lock:
            names = {name.lower() for name in self._shown}
            numbered = (f"{path.stem}-{number}" for number in count(2))
            name = next(name for name in chain([path.stem], numbered) if name.lower() not in names)
            self._shown[name] = _Shown(SlideEntry(path, name, spacing), results, uploaded=True)
            self._open[name] = _Opened(slide)
        return name

    def remove(self, name: str) -> Task:
        """Show a slide no longer that a client sent; raises RefusedError for any other."""
        if not self._require(name).uploaded:
            raise RefusedError(403, f"{name}: was there when the service was started. Remove what was sent alone.")
        task = self.task(name)
        with self._lock:
            del self._shown[name]
            self._open.pop(name, None)
        return task

    def card(self, name: str) -> SlideCard:
        """What a slide is; raises RefusedError for one that is not there or cannot be read."""
        slide = self._opened(name).slide
        size, found = slide.levels[0], self.found(name)
        return SlideCard(
            name=name,
            width_px=size.width,
            height_px=size.height,
            spacing_um_per_px=None if slide.spacing is None else list(slide.spacing),
            tile_px=TILE_PX,
            heat_map=found and found.place,
            uploaded=self._require(name).uploaded,
        )

    def descriptor(self, name: str) -> str:
        """The slide's .dzi file."""
        size = self._opened(name).slide.levels[0]
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpeg" Overlap="0" TileSize="{TILE_PX}">'
            f'<Size Width="{size.width}" Height="{size.height}"/></Image>\n'
        )

    def tile(self, name: str, level: int, column: int, row: int) -> bytes:
        """A tile as JPEG; level 0 is one pixel, and each has twice the pixels of the one before.

        Tissue that cannot be decoded is white. Raises RefusedError for a tile that is not there.
        """
        opened = self._opened(name)
        size = opened.slide.levels[0]
        last = math.ceil(math.log2(max(size.width, size.height, 1)))
        if not 0 <= level <= last:
            raise RefusedError(404, f"{name}: has the levels 0 to {last}, not {level}.")
        scale = 2 ** (last - level)
        width, height = math.ceil(size.width / scale), math.ceil(size.height / scale)
        left, top = column * TILE_PX, row * TILE_PX
        if not (0 <= left < width and 0 <= top < height):
            raise RefusedError(
                404, f"{name}: level {level} is {width} x {height} pixels; no tile begins at {left}, {top}."
            )
        across, down = min(TILE_PX, width - left), min(TILE_PX, height - top)
        fits = [k for k, of in enumerate(opened.slide.levels) if of.downsample <= scale * 1.01]
        finest = max(fits, key=lambda k: opened.slide.levels[k].downsample, default=0)
        ratio = scale / opened.slide.levels[finest].downsample
        small = max(width, height) <= _OVERVIEW_PX
        whole, wide = opened.overview(scale) if small or ratio > _FARTHEST else (None, (math.inf, math.inf))
        if whole is not None and (max(wide) <= scale * 1.01 or ratio > _FARTHEST):
            box = (left * scale / wide[0], top * scale / wide[1],
                   min((left + across) * scale / wide[0], whole.width),
                   min((top + down) * scale / wide[1], whole.height))  # fmt: skip
            picture = whole.resize((across, down), Image.Resampling.BOX, box)
        else:
            first = round(left * ratio), round(top * ratio)
            size = opened.slide.levels[finest]
            # What lies beyond the slide is white, and must not be mixed into its last pixels.
            read = (max(1, min(round(across * ratio), size.width - first[0])),
                    max(1, min(round(down * ratio), size.height - first[1])))  # fmt: skip
            rgb, _ = opened.slide.read_what_can_be(finest, *first, *read)
            picture = Image.fromarray(rgb)
            if ratio.is_integer() and read == (across * ratio, down * ratio):
                picture = picture.reduce(int(ratio))
            elif read != (across, down):
                picture = picture.resize((across, down), Image.Resampling.BOX)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()

    def heat_map(self, name: str) -> HeatMapFiles:
        """What `sentinode slides` found in it; raises RefusedError where it was not judged."""
        if (found := self.found(name)) is None:
            raise RefusedError(404, f"{name}: has no heat map. Ask for one: POST /v1/slides/{name}/heatmap.")
        return found

    def task(self, name: str) -> Task:
        """A slide, and the folder in which its heat map belongs; raises RefusedError where there is none."""
        shown = self._require(name)
        if shown.results is None:
            raise RefusedError(409, "heat maps: have no folder to be kept in. Start the service with --heatmaps DIR.")
        return shown.entry, shown.results

    def found(self, name: str) -> HeatMapFiles | None:
        """Its heat map; None where it was not judged."""
        shown = self._require(name)
        return None if shown.results is None else self._heat_maps.of(shown.results / name, name)

    def _require(self, name: str) -> _Shown:
        if (shown := self._shown.get(name)) is None:
            raise RefusedError(404, "no slide has this name. See /v1/slides.")
        return shown

    def _opened(self, name: str) -> _Opened:
        shown = self._require(name)
        shown.used, entry = time.monotonic(), shown.entry
        with self._lock:
            if name not in self._open:
                try:
                    self._open[name] = _Opened(read_slide(entry.path, spacing=entry.spacing))
                except DataError as error:
                    told = error.what.replace(str(entry.path), entry.path.name)  # OpenSlide names the file
                    raise RefusedError(409, f"{name}: {told}. Copy it again from its source.") from error
                if len(self._open) > _OPEN_AT_ONCE:
                    self._open.popitem(last=False)  # closed when the last tile that is read from it is done
            self._open.move_to_end(name)
            return self._open[name]
