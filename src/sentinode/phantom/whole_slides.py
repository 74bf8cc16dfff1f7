"""Phantom slides: painted sections on glass as pyramidal TIFF, with metastases of known place and size, and defects.

In half of the slides metastases are planted: one of a macro- or micrometastasis's size, or isolated tumour cells, and
smaller ones beside it. Their outlines are written as ASAP writes annotations, and as masks. The spacing is that of the
patches, 0.972 um/px. What users of other programs report (slides without a spacing, with a wrong one, with one level
only, with a damaged tile, black padding, ink, pale stain) can be asked for.
"""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Literal
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from threadpoolctl import threadpool_limits

from sentinode.artefacts import claim_file, write_text
from sentinode.data.images import SPACING_UM_PER_PX
from sentinode.data.listing import PHANTOM_NOTE
from sentinode.errors import DataError, RunError, storage_errors
from sentinode.machine import optional_module
from sentinode.phantom.nuclei import BORDER_PX, Points
from sentinode.phantom.tissue import paint_section
from sentinode.phantom.zones import Planted, noise
from sentinode.progress import StepProgress
from sentinode.records import read_record, write_record

SlideDefect = Literal[
    "no spacing", "wrong spacing", "one level", "damaged tile", "black padding", "pen", "pale", "two sections", "glass"
]
SLIDE_DEFECTS: Final[tuple[SlideDefect, ...]] = (
    "no spacing", "wrong spacing", "one level", "damaged tile", "black padding", "pen", "pale", "two sections", "glass",
)  # fmt: skip
Kind = Literal["negative", "itc", "micro", "macro"]
"""What is the largest that was planted, in CAMELYON's words."""
_KINDS: Final[tuple[Kind, ...]] = ("negative", "micro", "negative", "macro", "negative", "itc")
_SIDE_PX: Final[dict[Kind, int]] = {"negative": 1400, "itc": 1400, "micro": 1400, "macro": 2900}
# Radii in um: longest axes above 2 mm, above 0.2 mm, and below.
_RADII_UM: Final[dict[Kind, tuple[float, float]]] = {"macro": (1080, 1200), "micro": (120, 400), "itc": (0, 0)}
_SMALLER: Final = (0, 3)  # micrometastases and groups of cells beside the largest
_GLASS: Final = 243
_MARGIN_PX: Final = 300  # of glass around a section
_CORNERS: Final = 96  # of an outline
_EMPTY_PX: Final = 8000  # of glass below and beside a section on a slide that is nearly empty
_GROUP_RADIUS_PX: Final = 24.0
_TILE: Final = 256
_WRONG: Final = 4.0  # times the true spacing


@dataclass(frozen=True)
class PlantedLesion:
    """A planted metastasis: its outline in pixels of level 0, (corners, 2) of x and y."""

    kind: Kind
    outline: Float[np.ndarray, "corners 2"]


@dataclass(frozen=True)
class _Painted:
    """phantom.json beside the slides: what was asked for."""

    seed: int
    whole_slides: int
    defects: tuple[SlideDefect, ...]
    note: str = PHANTOM_NOTE
    spacing_um_per_px: float = SPACING_UM_PER_PX


@dataclass(frozen=True)
class _Plan:
    """All that a worker needs to make one slide."""

    name: str
    kind: Kind
    defect: SlideDefect | None
    seed: np.random.SeedSequence


def write_whole_slides(
    dest: Path,
    count: int,
    *,
    defects: Sequence[SlideDefect] = (),
    seed: int = 25,
    workers: int = 1,
    on_progress: StepProgress | None = None,
) -> Path:
    """Paint so many slides into a new folder, which is complete or absent; the same arguments give the same bytes.

    They are `slides/NAME.tif`, `annotations/NAME.xml` and `masks/NAME.png` (of slides with tumour), and
    `reference.csv`: slide, type, largest metastasis, defect. The first slides have the `defects`, one each. Raises
    DataError for numbers that do not go together or a folder with other contents, MissingExtraError without the extra
    `slides`.
    """
    optional_module("tifffile", what="writing slides", extra="slides")
    asked = _Painted(seed, count, tuple(defects))
    if count < max(1, len(defects)) or seed < 0:
        raise DataError(
            f"{count} whole slides of the seed {seed}, with {len(defects)} defects, cannot be painted",
            where="phantom",
            remedy="Ask for 1 slide or more, one for each defect, and a seed of 0 or more.",
        )
    with claim_file(dest):
        if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
            if dest.is_dir() and _is_finished(dest, asked):
                return dest
            raise DataError("is there already", where=dest, remedy="Choose another folder, or remove this one.")
        seeds = np.random.SeedSequence(seed).spawn(count)
        plans = [
            _Plan(f"slide-{k + 1:03d}", _KINDS[k % len(_KINDS)], defects[k] if k < len(defects) else None, seeds[k])
            for k in range(count)
        ]
        staging = dest.absolute().with_name(f".{dest.name}.{os.getpid()}.part")
        try:
            with storage_errors(dest):
                for part in ("slides", "annotations", "masks"):
                    (staging / part).mkdir(parents=True)
                rows = [_row(plan) for plan in plans]
                if on_progress:
                    on_progress(0, count)  # time is counted from the first word, and the first slide takes its share
                for number, _ in enumerate(_make_all(plans, staging, workers), 1):
                    if on_progress:
                        on_progress(number, count)
                with (staging / "reference.csv").open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file, lineterminator="\n")
                    writer.writerow(["slide", "type", "largest", "defect"])
                    writer.writerows(rows)
                write_record(staging / "phantom.json", asked)
                if dest.exists():
                    dest.rmdir()
                staging.rename(dest)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return dest


def paint_slide(
    kind: Kind, rng: np.random.Generator, *, side_px: int | None = None
) -> tuple[UInt8[np.ndarray, "height width 3"], list[PlantedLesion]]:
    """One section of a kind on glass, and what was planted in it; `side_px` is that of the section's field."""
    side = side_px or _SIDE_PX[kind]
    lesions = _plant(kind, rng, side)
    nest = np.full((side, side), -60.0, np.float32)
    cells: list[Points] = []
    for lesion in lesions:
        if lesion.kind == "itc":
            spread = rng.normal(0, _GROUP_RADIUS_PX / 3, (int(rng.integers(4, 10)), 2))
            centre = lesion.outline.mean(axis=0)[::-1]
            cells.append(
                np.rint(centre + np.clip(spread, -_GROUP_RADIUS_PX / 2, _GROUP_RADIUS_PX / 2)).astype(np.int64)
            )
        else:
            np.maximum(nest, _level(lesion, side), out=nest)
    none = np.empty((0, 2), np.int64)
    planted = Planted(nest, np.concatenate([none, *cells]))
    section = paint_section(rng, side_px=side, tumour_share=0.0, planted=planted).rgb
    inside = _blob(rng, side)
    size = side + 2 * _MARGIN_PX
    slide = np.full((size, size, 3), _GLASS, np.float32) + rng.normal(0, 1, (size, size, 1)).astype(np.float32)
    place = slide[_MARGIN_PX : _MARGIN_PX + side, _MARGIN_PX : _MARGIN_PX + side]
    place += inside[..., None] * (section - place)
    moved = [PlantedLesion(lesion.kind, lesion.outline + _MARGIN_PX) for lesion in lesions]
    return np.clip(np.rint(slide), 0, 255).astype(np.uint8), moved


def asap_xml(lesions: Sequence[PlantedLesion]) -> str:
    """Outlines as ASAP writes them, in the group that CAMELYON calls tumour."""
    lines = ['<?xml version="1.0"?>', "<ASAP_Annotations>", "\t<Annotations>"]
    for number, lesion in enumerate(lesions):
        name = quoteattr(f"{lesion.kind} {number}")
        lines += [
            f'\t\t<Annotation Name={name} Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58">',
            "\t\t\t<Coordinates>",
        ]
        lines += [
            f'\t\t\t\t<Coordinate Order="{order}" X="{x:.2f}" Y="{y:.2f}" />'
            for order, (x, y) in enumerate(lesion.outline.tolist())
        ]
        lines += ["\t\t\t</Coordinates>", "\t\t</Annotation>"]
    group = '\t\t<Group Name="Tumor" PartOfGroup="None" Color="#ff0000"><Attributes /></Group>'
    lines += ["\t</Annotations>", "\t<AnnotationGroups>", group, "\t</AnnotationGroups>", "</ASAP_Annotations>"]
    return "\n".join(lines) + "\n"


def write_pyramid(
    path: Path,
    rgb: UInt8[np.ndarray, "height width 3"],
    *,
    spacing: float | None = SPACING_UM_PER_PX,
    levels: int | None = None,
) -> None:
    """A tiled TIFF without loss that OpenSlide reads, with levels of half the size down to one tile, or so many."""
    tifffile = optional_module("tifffile", what="writing slides", extra="slides")
    count = levels or max(1, math.ceil(math.log2(max(rgb.shape[:2]) / _TILE)) + 1)
    buffer, image = io.BytesIO(), Image.fromarray(rgb)
    with tifffile.TiffWriter(buffer, bigtiff=rgb.nbytes > 2**31) as writer:
        for number in range(count):
            resolution: dict[str, Any] = {"resolution": (1, 1), "resolutionunit": "NONE"}
            if spacing is not None:
                per_cm = 1e4 / (spacing * 2**number)
                resolution = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            writer.write(
                np.asarray(image.reduce(2**number)),
                tile=(_TILE, _TILE),
                photometric="rgb",
                compression="zlib",
                predictor=True,
                subfiletype=1 if number else 0,
                metadata=None,
                software=False,
                **resolution,
            )
    path.write_bytes(buffer.getbuffer())


# --- one slide ---------------------------------------------------------------------------------------


def _make_all(plans: Sequence[_Plan], folder: Path, workers: int) -> Iterable[str]:
    if workers == 1 or len(plans) == 1:
        return (_make(plan, folder) for plan in plans)
    # Fresh processes: a fork of a process that runs PyTorch's threads can hang.
    with ProcessPoolExecutor(min(workers, len(plans)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(_make, plans, [folder] * len(plans)))


def _make(plan: _Plan, folder: Path) -> str:
    """Paint one slide with its defect, and write its files; returns its name."""
    rng = np.random.default_rng(plan.seed)
    with threadpool_limits(1):
        rgb, lesions = paint_slide(plan.kind, rng)
        if plan.defect == "two sections":
            other, _ = paint_slide("negative", rng, side_px=len(rgb) - 2 * _MARGIN_PX)
            rgb = np.concatenate([rgb, other], axis=1)
    spacing: float | None = SPACING_UM_PER_PX
    levels = None
    match plan.defect:
        case "no spacing":
            spacing = None
        case "wrong spacing":
            spacing = SPACING_UM_PER_PX * _WRONG
        case "one level":
            levels = 1
        case "black padding":
            rgb = np.pad(rgb, ((0, 700), (0, 900), (0, 0)))
        case "pen":
            rgb = _inked(rgb)
        case "pale":
            rgb = (_GLASS - (_GLASS - rgb.astype(np.float32).clip(0, _GLASS)) * 0.25).round().astype(np.uint8)
        case "glass":
            rgb = np.pad(rgb, ((0, _EMPTY_PX), (0, _EMPTY_PX), (0, 0)), constant_values=_GLASS)
    path = folder / "slides" / f"{plan.name}.tif"
    write_pyramid(path, rgb, spacing=spacing, levels=levels)
    if plan.defect == "damaged tile":
        _damage(path)
    if lesions:
        write_text(folder / "annotations" / f"{plan.name}.xml", asap_xml(lesions))
        mask = Image.new("1", (rgb.shape[1], rgb.shape[0]))
        for lesion in lesions:
            ImageDraw.Draw(mask).polygon([(x, y) for x, y in lesion.outline.tolist()], fill=1)
        mask.save(folder / "masks" / f"{plan.name}.png")
    return plan.name


def _row(plan: _Plan) -> list[str]:
    kind = "Normal" if plan.kind == "negative" else "Tumor"
    return [plan.name, kind, plan.kind, plan.defect or ""]


def _is_finished(dest: Path, asked: _Painted) -> bool:
    try:
        return read_record(dest / "phantom.json", _Painted) == asked
    except RunError:
        return False


def _plant(kind: Kind, rng: np.random.Generator, side: int) -> list[PlantedLesion]:
    """The largest metastasis first, in the middle half of the field, then smaller ones, none touching another."""
    if kind == "negative":
        return []
    kinds = [kind]
    for _ in range(int(rng.integers(*_SMALLER, endpoint=True))):
        kinds.append("micro" if kind == "macro" and rng.random() < 0.5 else "itc")
    placed: list[tuple[float, float, float]] = []
    lesions: list[PlantedLesion] = []
    for each in kinds:
        low, high = _RADII_UM[each]
        radius = _GROUP_RADIUS_PX if each == "itc" else float(rng.uniform(low, high)) / SPACING_UM_PER_PX
        for _ in range(200):
            reach = side * 0.30 if lesions else side * 0.05
            y, x = (float(value) for value in side / 2 + rng.uniform(-reach, reach, 2))
            if all(math.hypot(y - b, x - a) > radius + r + 40 for a, b, r in placed):
                placed.append((x, y, radius))
                lesions.append(PlantedLesion(each, _outline(rng, x, y, radius, smooth=each == "itc")))
                break
    return lesions


def _outline(rng: np.random.Generator, x: float, y: float, radius: float, *, smooth: bool) -> np.ndarray:
    """A wobbly ring, so that its longest axis is at least twice the radius."""
    angle = np.arange(_CORNERS) * 2 * np.pi / _CORNERS
    reach = np.full(_CORNERS, radius)
    if not smooth:
        for lobes in (2, 3, 5, 7):
            reach = reach * (1 + rng.uniform(0, 0.08) * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi)))
    return np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], axis=1)


def _level(lesion: PlantedLesion, side: int) -> np.ndarray:
    """Depth below the outline along the ray from its centre, in pixels."""
    x, y = lesion.outline.mean(axis=0)
    rays = lesion.outline - (x, y)
    reach = np.hypot(*rays.T)
    columns, rows = (
        np.arange(side, dtype=np.float32) - np.float32(x),
        np.arange(side, dtype=np.float32)[:, None] - np.float32(y),
    )
    turn = np.arctan2(rows, columns)
    edge = np.interp(turn, np.arctan2(rays[:, 1], rays[:, 0]), reach, period=2 * np.pi).astype(np.float32)
    return np.asarray(np.maximum(edge - np.hypot(rows, columns), -60), np.float32)


def _blob(rng: np.random.Generator, side: int) -> np.ndarray:
    """The section's shape, 0 on glass to 1 inside, clear of the field's border."""
    middle, steps = side / 2, np.arange(side, dtype=np.float32)
    radius = np.hypot((steps[:, None] - middle) / 0.94, steps - middle)
    depth = middle - BORDER_PX - 12 - radius + 8 * np.clip(noise(rng, side, side / 8), -3, 1)
    return np.asarray(np.clip(0.5 + depth / 3, 0, 1), np.float32)


def _inked(rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Lines of blue, green and black ink across the slide."""
    image = Image.fromarray(rgb)
    draw, (width, height) = ImageDraw.Draw(image), image.size
    for share, colour in ((0.35, (30, 50, 150)), (0.55, (20, 110, 50)), (0.75, (35, 35, 38))):
        draw.line([(0, height * share), (width, height * (share - 0.08))], fill=colour, width=70)
    return np.asarray(image)


def _damage(path: Path) -> None:
    """Overwrite a tile in the middle of the finest level."""
    tifffile = optional_module("tifffile", what="writing slides", extra="slides")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        across = -(-page.imagewidth // _TILE)
        number = len(page.dataoffsets) // across // 2 * across + across // 2
        start, size = page.dataoffsets[number], page.databytecounts[number]
    with path.open("rb+") as opened:
        opened.seek(start)
        opened.write(b"\xff" * size)
