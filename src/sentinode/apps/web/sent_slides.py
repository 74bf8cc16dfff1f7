"""Slides that clients send: brought to the disk piece by piece, looked at before they are shown, and never kept.

Each lies in a folder of its own below the service's, with its heat map, and goes when it is removed, when nobody asked
for it for an hour, and when the service ends, however it ends: what a killed one left, the next removes.
"""

from __future__ import annotations

import asyncio
import math
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from PIL import Image

from sentinode.apps.web.deep_zoom import Slides
from sentinode.apps.web.uploads import Limits, RefusedError
from sentinode.errors import DataError
from sentinode.machine import optional_module
from sentinode.slides.reader import Slide, read_slide

_BEGIN: Final = {
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"ZISRAWFILE": "CZI",
    b"\x89PNG\r\n\x1a\n": "image", b"\xff\xd8\xff": "image",
}  # fmt: skip
_SUFFIXES: Final = {
    ".svs": "TIFF", ".ndpi": "TIFF", ".scn": "TIFF", ".bif": "TIFF", ".svslide": "TIFF", ".tif": "TIFF",
    ".tiff": "TIFF", ".czi": "CZI", ".png": "image", ".jpg": "image", ".jpeg": "image",
}  # fmt: skip
"""Of slides that are one file, and how these begin."""
_PIECE: Final = 1 << 20
_SPARE_BYTES: Final = 1 << 30  # that stay free on the disk
_LARGEST_PLAIN_PX: Final = 64_000_000  # of what can only be decoded whole
_LARGEST_TILE_PX: Final = 4096 * 4096
_LONGEST_STEM: Final = 160  # bytes, of the 255 that a file's name may have
_HEAT_MAPS: Final = "heatmaps"


class SentSlides:
    """The slides that clients sent, in a folder that is this service's alone."""

    def __init__(self, folder: Path, slides: Slides, limits: Limits) -> None:
        self._folder, self._slides, self._limits = folder, slides, limits
        self._coming, self._number = 0, 0

    async def receive(self, given: str, spacing: float | None, length: int | None, stream: AsyncIterator[bytes]) -> str:
        """Take a slide of a client's; the name that it goes by. Raises RefusedError.

        `length` is what the client says that it will send, if it does.
        """
        path = self._place(given)
        if self._coming + len(self._slides.uploaded) >= self._limits.slides:
            raise RefusedError(409, f"{self._limits.slides} slides that were sent are here. Remove one first.")
        if shutil.disk_usage(self._folder).free < (length or 0) + _SPARE_BYTES:
            raise RefusedError(507, "the service's disk has no room for this slide. Send a smaller one.")
        self._coming += 1
        try:
            path.parent.mkdir()
            await self._write(path, stream)
            return await asyncio.to_thread(self._looked_at, path, spacing)
        except BaseException as error:
            await asyncio.to_thread(discard, path)
            if isinstance(error, OSError):
                raise RefusedError(507, "the service cannot keep this slide: its disk refuses it.") from error
            raise
        finally:
            self._coming -= 1

    def _place(self, given: str) -> Path:
        """Where a slide of that name goes; of the name, only what no system takes for anything else is kept."""
        name = re.sub(r"[^\w .()-]", "_", given.replace("\\", "/").rsplit("/", 1)[-1]).lstrip(". ")
        suffix = Path(name).suffix.lower()
        if suffix not in _SUFFIXES or not Path(name).stem.strip(". "):
            known = ", ".join(_SUFFIXES)
            raise RefusedError(422, f"name: {name}. Give that of a slide that is one file: {known}.")
        self._number += 1
        stem = Path(name).stem.encode()[:_LONGEST_STEM].decode(errors="ignore")
        return self._folder / str(self._number) / f"{stem}{suffix}"

    async def _write(self, path: Path, stream: AsyncIterator[bytes]) -> None:
        """The body into the file; raises RefusedError for one that begins as no slide does, and for a slow client."""
        with path.open("xb") as file:
            begun = False
            try:
                async with asyncio.timeout(self._limits.slide_s):
                    async for piece in _pieces(stream, self._limits.body_s):
                        if not begun:
                            _require_begin(piece, path)
                        begun = True
                        await asyncio.to_thread(file.write, piece)
            except TimeoutError as error:
                raise RefusedError(408, "the body: came too slowly. Send the slide again.") from error

    def _looked_at(self, path: Path, spacing: float | None) -> str:
        """Show a slide whose header is right, under the name that this gives."""
        try:
            _require_small_or_tiled(path)
            slide = read_slide(path, spacing=spacing)
            _require_tiles(slide)
        except DataError as error:
            told = error.what.replace(str(path), path.name)  # OpenSlide names the file
            raise RefusedError(422, f"{path.name}: {told}. Send a slide that this service can read.") from error
        return self._slides.add(slide, path.with_name(_HEAT_MAPS), spacing)


def discard(path: Path) -> None:
    """Remove the file of a slide that was sent, and its heat map."""
    shutil.rmtree(path.parent, ignore_errors=True)


async def _pieces(stream: AsyncIterator[bytes], each_s: float) -> AsyncIterator[bytes]:
    """A body in pieces of 1 MiB, the last of what is left; raises TimeoutError where one takes longer."""
    piece = bytearray()
    more: bytes | None = b""
    while more is not None:
        async with asyncio.timeout(each_s):
            while len(piece) < _PIECE and (more := await anext(stream, None)) is not None:
                piece += more
        yield bytes(piece)
        piece.clear()


def _require_begin(piece: bytes, path: Path) -> None:
    kind = _SUFFIXES[path.suffix]
    if not any(piece.startswith(begin) for begin, of in _BEGIN.items() if of == kind):
        raise RefusedError(422, f"{path.name}: does not begin as a file of its kind. Send a slide.")


def _require_small_or_tiled(path: Path) -> None:
    """What OpenSlide does not know would be decoded whole; raises DataError where that is too large."""
    if _SUFFIXES[path.suffix] != "image":
        openslide = optional_module("openslide", what="reading slides", extra="slides")
        with suppress(openslide.OpenSlideError):
            if openslide.OpenSlide.detect_format(path) is not None:
                return
    try:
        with Image.open(path, formats=("TIFF", "PNG", "JPEG")) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = _LARGEST_PLAIN_PX + 1
    except Exception as error:  # whatever a decoder makes of these bytes
        raise DataError("is neither a slide that OpenSlide knows nor an image", where=path, remedy="") from error
    if pixels > _LARGEST_PLAIN_PX:
        told = f"has more than {_LARGEST_PLAIN_PX:,} pixels and is not tiled, so it could only be read whole"
        raise DataError(told, where=path, remedy="")


def _require_tiles(slide: Slide) -> None:
    """Raises DataError for tiles that no scanner writes."""
    for number in range(len(slide.levels)):
        sides = (int(slide.properties.get(f"openslide.level[{number}].tile-{side}", 0)) for side in ("width", "height"))
        if math.prod(sides) > _LARGEST_TILE_PX:
            slide.close()
            raise DataError("has tiles that are larger than any scanner's", where=slide.path, remedy="")
