"""The files of one judged slide: heat map, cells, lesions, pictures and the record; the manifest comes last.

While a slide is judged, its blocks go into a journal, from which an interrupted slide goes on. No file holds a time or
a duration, so that what was interrupted ends in the same bytes as what was not.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw

from sentinode.artefacts import write_atomically, write_bytes
from sentinode.errors import RunError, storage_errors
from sentinode.machine import optional_module
from sentinode.records import Number, read_record, write_record
from sentinode.slides.guard import Look, Unlike
from sentinode.slides.heatmap import CELL_PX, Block, Grid, HeatMap, Parity
from sentinode.slides.lesions import Lesion, Size, geojson
from sentinode.slides.reader import Overview, Slide, Spacing
from sentinode.slides.tissue import LEFT_OUT, Reason

HEATMAP: Final = "heatmap.ome.tif"
CELLS: Final = "cells.csv"
LESIONS: Final = "lesions.geojson"
SLIDE_RECORD: Final = "slide.json"
THUMBNAIL: Final = "thumbnail.png"
OVERLAY: Final = "overlay.png"
SLIDE_MANIFEST: Final = "manifest.json"
JOURNAL: Final = "journal.bin"
TISSUE: Final = "tissue.npy"
BEGUN: Final = "begun.json"
_PICTURE_PX: Final = 1024
_LOUDEST: Final = 0.75  # of a colour laid over the tissue
_NO_PROBABILITY: Final = 0  # in the picture of 8 bits; 1 to 255 are the probabilities 0 to 1
_SMALLEST_LEVEL: Final = 256
_TILE: Final = 256
_COLOURS: Final = {
    Reason.PEN: (0, 150, 60),
    Reason.FOLD: (255, 140, 0),
    Reason.BLUR: (40, 90, 220),
    Reason.UNREADABLE: (90, 90, 90),
}
_OUTLINE: Final = (40, 0, 90)


@dataclass(frozen=True)
class Request:
    """What a slide is judged by; with another request, nothing that was computed is used again."""

    model: str
    """The digest of the model's manifest."""
    slide: str
    """`Slide.identity`."""
    spacing: Spacing
    spacing_from: Literal["file", "given"]
    threshold: float
    calibration: str | None
    dense: bool
    """Whether networks went over blocks of the slide at once, where they can; then `parity` says what that changes."""
    places: str | None
    """The digest of the table of places that alone are judged, if one was given."""
    sentinode: str
    """The version that judges."""
    stride: int = CELL_PX  # which 0.2.0 does not say
    """A cell's side in pixels of the model's spacing."""


@dataclass(frozen=True)
class SlideRecord:
    """slide.json: what was judged, how much of the tissue, and what was found."""

    slide: str
    """The name of its file."""
    model: str
    request: Request
    judged_spacing: Spacing
    """Micrometres a pixel along x and y of what the network saw."""
    level: int
    """The level that was read."""
    width_px: int
    height_px: int
    """Of level 0."""
    rows: int
    columns: int
    step: Spacing
    """Sides of a cell in pixels of level 0."""
    step_um: Spacing
    tissue_mm2: float
    tissue_cells: int
    judged_cells: int
    left_out: dict[str, int]
    """Cells of tissue that were not judged, by reason."""
    threshold_rule: str
    networks_disagree: bool
    """Whether there is a second layer: a model of one network has none."""
    parity: Parity | None
    """Of the heat map to `predict`; None where places alone were judged."""
    look: Look | None
    """A second look at the kind of tissue and its spacing; None for a model of phantoms, or for too little tissue."""
    max_probability: Number
    mean_probability: Number
    lesions: tuple[Lesion, ...]
    lesions_not_drawn: int
    """For which lesions.geojson had no room."""
    note: str
    """What the model's data said of themselves, such as the phantom's note."""
    warnings: tuple[str, ...]
    computed_by: tuple[str, ...] = ()  # which 0.2.0 does not say
    """What computed the networks, with versions, each once."""

    @property
    def judged_share(self) -> float:
        return self.judged_cells / self.tissue_cells if self.tissue_cells else 0.0

    @property
    def largest(self) -> Size | None:
        """What the longest lesion is called; None where there is none."""
        return max(self.lesions, key=lambda lesion: lesion.longest_axis_um).size if self.lesions else None


@dataclass(frozen=True)
class SlideManifest:
    """The last file of a slide: the digest of each of the others."""

    sha256: dict[str, str]
    sentinode_slide: Literal[True] = True


# --- the journal -------------------------------------------------------------------------------------


class Journal:
    """The blocks of a slide that is being judged, one behind the other, each with a sum; a torn end is cut off."""

    _HEAD: Final = struct.Struct("<4s6II")
    _MAGIC: Final = b"snbl"

    def __init__(self, path: Path) -> None:
        self._path = path

    def blocks(self) -> Iterator[Block]:
        """Those that are there, whole; what follows the first that is not is removed."""
        if not self._path.is_file():
            return
        good = 0
        with self._path.open("rb") as file:
            while len(head := file.read(self._HEAD.size)) == self._HEAD.size:
                magic, number, *place, total = self._HEAD.unpack(head)
                top, bottom, left, right, size = place
                content = file.read(size)
                shape = (bottom - top, right - left)
                if magic != self._MAGIC or len(content) != size or zlib.crc32(content) != total:
                    break
                cells = shape[0] * shape[1]
                numbers = np.frombuffer(content, np.float32, 2 * cells).reshape(2, *shape)
                codes = np.frombuffer(content, np.uint8, 2 * cells, 8 * cells).reshape(2, *shape)
                good = file.tell()
                yield Block(number, slice(top, bottom), slice(left, right), *numbers, *codes)
        if good != self._path.stat().st_size:
            with storage_errors(self._path), self._path.open("rb+") as file:
                file.truncate(good)

    def append(self, block: Block) -> None:
        layers = (block.probability, block.disagreement, block.reason, block.unlike)
        content = b"".join(layer.tobytes() for layer in layers)
        place = (block.rows.start, block.rows.stop, block.columns.start, block.columns.stop)
        head = self._HEAD.pack(self._MAGIC, block.number, *place, len(content), zlib.crc32(content))
        with storage_errors(self._path), self._path.open("ab") as file:
            file.write(head + content)


# --- results -----------------------------------------------------------------------------------------


def write_results(folder: Path, found: HeatMap, record: SlideRecord, picture: Image.Image) -> None:
    """Write all files of a slide's heat map, the manifest last; raises StorageError.

    `picture` is the slide's thumbnail, which is there already.
    """
    write_atomically(folder / HEATMAP, lambda file: _write_heat_map(file, found, record))
    write_atomically(folder / CELLS, lambda file: _write_cells(file, found))
    write_bytes(folder / LESIONS, geojson(list(record.lesions))[0])
    write_bytes(folder / OVERLAY, _png(_overlay(found, record, picture)))
    write_record(folder / SLIDE_RECORD, record)
    _seal(folder, (HEATMAP, CELLS, LESIONS, THUMBNAIL, OVERLAY, SLIDE_RECORD))


def write_places(
    folder: Path, record: SlideRecord, corners: np.ndarray, probability: np.ndarray, disagreement: np.ndarray
) -> None:
    """Write what was predicted for places alone: cells.csv in their order, and the record."""
    words = np.where(np.isnan(probability), Reason.UNREADABLE.word, Reason.JUDGED.word)
    rows = _HEADER + _rows(corners, probability, disagreement, words)
    write_bytes(folder / CELLS, rows)
    write_record(folder / SLIDE_RECORD, record)
    _seal(folder, (CELLS, THUMBNAIL, SLIDE_RECORD))


def write_thumbnail(folder: Path, slide: Slide, overview: Overview | None = None) -> None:
    write_bytes(folder / THUMBNAIL, _png(slide.thumbnail(_PICTURE_PX, of=overview)))


def _seal(folder: Path, names: tuple[str, ...]) -> None:
    """Write the manifest; what was only needed to go on is removed."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    write_record(folder / SLIDE_MANIFEST, SlideManifest(digests))
    forget(folder)


def forget(folder: Path) -> None:
    """Remove what an unfinished slide goes on from."""
    for name in (JOURNAL, TISSUE, BEGUN):
        (folder / name).unlink(missing_ok=True)


def open_slide_record(folder: Path) -> SlideRecord:
    """The record of a finished slide; raises RunError where a file of it is missing or has changed."""
    manifest = read_record(folder / SLIDE_MANIFEST, SlideManifest)
    for name, digest in manifest.sha256.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise RunError(
                "is missing or has changed since the slide was finished",
                where=path,
                remedy=f"Remove {folder}, and give the command again with --resume.",
            )
    return read_record(folder / SLIDE_RECORD, SlideRecord)


def open_heat_map(folder: Path, record: SlideRecord) -> HeatMap:
    """The heat map of a finished slide, from its cells; raises RunError where only places were judged."""
    import pandas as pd

    if record.request.places is not None:
        raise RunError("holds single places, and no heat map", where=folder, remedy="Judge the slide without --at.")
    shape = record.rows, record.columns
    table = pd.read_csv(folder / CELLS, usecols=[*_NUMBERS, "reason"], keep_default_na=False)
    probability, disagreement = (pd.to_numeric(table[name]).to_numpy(np.float32).reshape(shape) for name in _NUMBERS)
    words = table["reason"].to_numpy().reshape(shape)
    reason, unlike = np.full(shape, Reason.JUDGED, np.uint8), np.full(shape, Unlike.NOTHING, np.uint8)
    for why in Reason:
        reason[words == why.word] = why
    for what in Unlike:
        unlike[words == what.word] = what
    grid = Grid(*shape, record.step, record.step_um, record.request.stride)
    return HeatMap(grid, probability, disagreement, reason, unlike)


def open_layers(folder: Path) -> dict[str, list[UInt8[np.ndarray, "rows columns"]]]:
    """The layers of a finished heat map as bytes to look at, by name: 0 is not judged, 1 to 255 are from 0 to 1.

    Each has levels of half the size, the finest first, down to one pixel, which is the greatest of all.
    """
    with require_tifffile().TiffFile(folder / HEATMAP) as file:
        names = ["probability", "disagreement"]
        levels = [level.asarray().reshape(-1, *level.shape[-2:]) for level in file.series[0].levels]
    while max(levels[-1].shape[1:]) > 1:
        levels.append(_halved(levels[-1]))
    return {name: [level[number] for level in levels] for number, name in enumerate(names[: len(levels[0])])}


def reasons_in(folder: Path) -> dict[str, int]:
    """How many cells of a finished heat map have each reason that is said of tissue, of judged cells too."""
    words = [reason.word for reason in LEFT_OUT] + [unlike.word for unlike in Unlike if unlike.word]
    counts, rest = dict.fromkeys(words, 0), b""
    with (folder / CELLS).open("rb") as file:
        while chunk := file.read(1 << 24):
            rows, end, rest = (rest + chunk).rpartition(b"\n")
            for word in words:
                counts[word] += (rows + end).count(f",{word}\n".encode())
    return {word: count for word, count in counts.items() if count}


def cell_in(folder: Path, record: SlideRecord, row: int, column: int) -> tuple[float, float, str]:
    """Probability and disagreement of a cell of a finished heat map, NaN where it has none, and its reason.

    The table may have millions of rows, which are in order: this one is found by bisection.
    """
    wanted = row * record.columns + column
    with (folder / CELLS).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as table:
        low, high = len(_HEADER), len(table)
        while low < high:
            start = table.rfind(b"\n", low - 1, (low + high) // 2) + 1
            end = table.find(b"\n", start)
            x, y, probability, disagreement, reason = table[start:end].decode("ascii").split(",")
            number = round(float(y) / record.step[1]) * record.columns + round(float(x) / record.step[0])
            if number == wanted:
                return float(probability or "nan"), float(disagreement or "nan"), reason
            low, high = (end + 1, high) if number < wanted else (low, start)
    raise RunError(f"has no cell {row}, {column}", where=folder / CELLS, remedy="Judge the slide again.")


def _write_cells(file: IO[bytes], found: HeatMap) -> None:
    """Every cell of the grid, row by row, some rows at a time; of one that was judged, the reason tells of doubt."""
    file.write(_HEADER)
    step = found.grid.step
    words = np.array([reason.word for reason in Reason] + [unlike.word for unlike in Unlike])
    at_once = max(1, 100_000 // found.grid.columns)
    for top in range(0, found.grid.rows, at_once):
        rows = slice(top, min(top + at_once, found.grid.rows))
        down, across = np.mgrid[rows, 0 : found.grid.columns].reshape(2, -1)
        corners = np.column_stack([across * step[0], down * step[1]])
        probability, disagreement, reason, unlike = (
            plane[rows].ravel() for plane in (found.probability, found.disagreement, found.reason, found.unlike)
        )
        why = np.where(reason == Reason.JUDGED, len(Reason) + unlike, reason)
        file.write(_rows(corners, probability, disagreement, words[why]))


_HEADER: Final = b"x_px,y_px,probability,disagreement,reason\n"
_NUMBERS: Final = ("probability", "disagreement")


def _rows(corners: np.ndarray, probability: np.ndarray, disagreement: np.ndarray, words: np.ndarray) -> bytes:
    def text(value: float) -> str:
        return "" if value != value else f"{value:.7g}"

    columns = (corners.round(2).tolist(), probability.tolist(), disagreement.tolist(), words.tolist())
    rows = zip(*columns, strict=True)
    return "".join(f"{x:.10g},{y:.10g},{text(p)},{text(d)},{word}\n" for (x, y), p, d, word in rows).encode("ascii")


def _write_heat_map(file: IO[bytes], found: HeatMap, record: SlideRecord) -> None:
    """Two images of the same channels: bytes to look at (0: not judged, 1 to 255: from 0 to 1), and numbers.

    The numbers have the precision of 16-bit floats. OME has no such type: they are kept as 32 bits, half of them 0.
    """
    tifffile = require_tifffile()
    planes = [found.probability, *([found.disagreement] if record.networks_disagree else [])]
    names = ["probability", "disagreement"][: len(planes)]
    layers = np.stack(planes)
    # In memory: tifffile seeks back and forth, and names what it writes to.
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=True, bigtiff=layers.nbytes > 2**31) as writer:
        for title, image in (("to look at", _as_bytes(layers)), ("numbers", _as_halves(layers))):
            _write_pyramid(writer, image, title, names, found.grid, _fixed_uuid(record))
    file.write(buffer.getbuffer())


def _write_pyramid(writer: Any, image: np.ndarray, title: str, names: list[str], grid: Grid, identity: str) -> None:
    levels = [image]
    while max(levels[-1].shape[1:]) > _SMALLEST_LEVEL:
        levels.append(_halved(levels[-1]))
    options = {"tile": (_TILE, _TILE), "compression": "zlib", "predictor": image.dtype == np.uint8}
    options |= {"photometric": "minisblack", "software": "sentinode"}
    for number, level in enumerate(levels):
        scale = 2**number
        metadata = {
            "axes": "CYX",
            "Name": title,
            "Channel": {"Name": names},
            "PhysicalSizeX": grid.step_um[0],
            "PhysicalSizeY": grid.step_um[1],
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeYUnit": "µm",
            "UUID": identity,
        }
        writer.write(
            level,
            subifds=len(levels) - 1 if number == 0 else None,
            subfiletype=1 if number else 0,
            metadata=metadata if number == 0 else None,
            resolution=(1e4 / (grid.step_um[0] * scale), 1e4 / (grid.step_um[1] * scale)),
            resolutionunit="CENTIMETER",
            **options,
        )


def _as_bytes(layers: Float32[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "c h w"]:
    known = ~np.isnan(layers)
    return np.where(known, 1 + np.rint(254 * np.where(known, layers, 0)), _NO_PROBABILITY).astype(np.uint8)


def _as_halves(layers: Float32[np.ndarray, "c h w"]) -> Float32[np.ndarray, "c h w"]:
    return layers.astype(np.float16).astype(np.float32)


def _halved(image: np.ndarray) -> np.ndarray:
    """Half the size; a pixel is the greatest of its four, so that a single cell is still seen from afar."""
    unknown = 0 if image.dtype == np.uint8 else np.nan
    height, width = image.shape[1:]
    even = np.pad(image, ((0, 0), (0, height % 2), (0, width % 2)), constant_values=unknown)
    fours = [even[:, dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)]
    greatest: np.ndarray = np.fmax.reduce(fours)
    return greatest


def _fixed_uuid(record: SlideRecord) -> str:
    """OME wants one; drawn at random, it would make two equal results differ."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{record.request}"))


def _overlay(found: HeatMap, record: SlideRecord, picture: Image.Image) -> Image.Image:
    """The thumbnail with the probabilities laid over it, reasons in flat colours, and the outlines of lesions."""
    scale = picture.width / record.width_px
    step = found.grid.step
    size = max(1, round(found.grid.columns * step[0] * scale)), max(1, round(found.grid.rows * step[1] * scale))
    colours = np.zeros((*found.reason.shape, 4), np.uint8)
    judged = found.reason == Reason.JUDGED
    colours[judged] = _heat(found.probability[judged])
    for reason in LEFT_OUT:
        colours[found.reason == reason] = (*_COLOURS[reason], int(255 * _LOUDEST))
    heat = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).crop((0, 0, *picture.size))
    picture = Image.alpha_composite(picture.convert("RGBA"), heat).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for lesion in record.lesions:
        for polygon in lesion.rings:
            for ring in polygon:
                draw.line([(x * scale, y * scale) for x, y in ring], fill=_OUTLINE, width=2)
    return picture


def _heat(probability: Float32[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 4"]:
    """From clear over yellow to red: what is certainly no tumour is left to see."""
    p = probability.astype(np.float64)
    return np.column_stack([np.full(len(p), 255), 220 * (1 - p), 40 * (1 - p), 255 * _LOUDEST * p]).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def require_tifffile() -> Any:
    """The module that reads and writes TIFF; raises MissingExtraError."""
    return optional_module("tifffile", what="a heat map's file", extra="slides")


def legend() -> Mapping[str, tuple[int, int, int]]:
    """The flat colours of the overlay, by the words of the reasons."""
    return {reason.word: colour for reason, colour in _COLOURS.items()}
