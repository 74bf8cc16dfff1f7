"""A material as a folder that other processes open: its tables, and where its pixels lie, which are not copied.

It is named by a digest of all that is in it, pixels too, so the same data are written once, and whoever is sent the
digest knows what was opened.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from filelock import FileLock
from jaxtyping import UInt8

from sentinode.artefacts import write_atomically, write_bytes
from sentinode.audit.audit import pixel_digests
from sentinode.data.cache import MATERIAL, MATERIALS, hold, make_room
from sentinode.data.images import PATCH_SIZE_PX
from sentinode.data.listing import Origin
from sentinode.data.patches import PatchSet
from sentinode.errors import RunError, storage_errors
from sentinode.records import read_record, write_record
from sentinode.runs.material import Material, Unlabelled
from sentinode.session import Session

_TABLES: Final = "tables.npz"
_PIXELS: Final = "pixels.u8"
_STAIN: Final = "stain-clusters-"
_REMEDY: Final = "Remove it; it is made again."


@dataclass(frozen=True)
class _Saved:
    """material.json: what the tables do not hold. It is written last."""

    tables_sha256: str
    pixels_offset: int
    patients_known: bool
    notices: tuple[str, ...]
    note: str
    origin: Origin
    test_from: int | None
    """The first row of the test part, where there is one."""
    overlaps: dict[str, int]


@dataclass(frozen=True, eq=False)
class SavedMaterial:
    """A material's folder in a cache, which is not removed from there while this lives."""

    digest: str
    files: dict[str, str]
    """By their names, where they lie."""
    _held: np.ndarray
    """A map of one of them, whose lock it keeps."""


def save_material(material: Material) -> SavedMaterial:
    """Save a material in its session's cache, unless it is there."""
    whole = material.patches if material.unlabelled is None else material.unlabelled.everything
    arrays = dict(zip(("ids", "labels", "slides", "groups"), whole.columns, strict=True))
    arrays |= {"given_groups": material.given_groups, "eligible": material.used}
    digests = material.pixel_digests
    arrays["pixel_digests"] = pixel_digests(material.patches.pixels) if digests is None else digests
    if material.unlabelled is not None:
        arrays["usable"], known = material.unlabelled.usable, material.unlabelled.pixel_digests
        arrays["test_pixel_digests"] = pixel_digests(material.unlabelled.patches.pixels) if known is None else known
    arrays |= {f"{_STAIN}{count}": names for count, names in material.stain_clusters.items()}
    tables = io.BytesIO()
    np.savez(tables, allow_pickle=False, **arrays)
    pixels, offset = _in_a_file(whole.pixels)
    record = _Saved(
        hashlib.sha256(tables.getvalue()).hexdigest(),
        offset,
        material.patients_known,
        tuple(material.own_notices),
        material.note,
        material.origin,
        None if material.unlabelled is None else material.unlabelled.first,
        {} if material.unlabelled is None else {name: int(of) for name, of in material.unlabelled.overlaps.items()},
    )
    digest = hashlib.sha256(repr(record).encode()).hexdigest()
    folder = (material.session.cache_root / MATERIALS / digest[:20]).resolve()
    if pixels is None:
        pixels = folder / _PIXELS
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            written = not (folder / MATERIAL).is_file()
            if written:
                if pixels.parent == folder:
                    write_atomically(pixels, whole.pixels.tofile)
                write_bytes(folder / _TABLES, tables.getvalue())
                write_record(folder / MATERIAL, record)
            (folder / MATERIAL).touch()  # the time of its last use
            held = _held_map(folder / MATERIAL, 0, None)
    if written:
        make_room(material.session.cache_root)
    files = {_PIXELS: str(pixels), _TABLES: str(folder / _TABLES), MATERIAL: str(folder / MATERIAL)}
    return SavedMaterial(digest, files, held)


def _held_map(path: Path, offset: int, shape: tuple[int, ...] | None) -> UInt8[np.ndarray, "..."]:
    """A map of a file's bytes, which keeps it in its cache."""
    with path.open("rb") as file:
        hold(file, shared=True)
        return np.asarray(np.memmap(file, np.uint8, "r", offset, shape))


def open_material(digest: str, place: Callable[[str], Path], session: Session) -> Material:
    """The material of a digest, whose files lie where `place` says; raises RunError where they are not those.

    Of the pixels the size is looked at; a run that begins checks nothing of them, as no run does of its cache.
    """
    record = read_record(place(MATERIAL), _Saved)
    content = place(_TABLES).read_bytes()
    if hashlib.sha256(repr(record).encode()).hexdigest() != digest:
        raise RunError("holds other patches than the task is of", where=place(MATERIAL), remedy=_REMEDY)
    if hashlib.sha256(content).hexdigest() != record.tables_sha256:
        raise RunError("was changed since it was written", where=place(_TABLES), remedy=_REMEDY)
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    count = len(arrays["ids"])
    try:
        shape = (count, PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
        pixels = _held_map(place(_PIXELS), record.pixels_offset, shape)
    except (OSError, ValueError) as error:
        raise RunError(f"does not hold {count:,} patches ({error})", where=place(_PIXELS), remedy=_REMEDY) from error
    whole = PatchSet(arrays["ids"], arrays["labels"], arrays["slides"], arrays["groups"], pixels)
    unlabelled, patches = None, whole
    if record.test_from is not None:
        patches = whole.part(slice(0, record.test_from))
        unlabelled = Unlabelled(
            whole, record.test_from, arrays["usable"], record.overlaps, arrays["test_pixel_digests"]
        )
    return Material(
        patches,
        arrays["given_groups"],
        patients_known=record.patients_known,
        eligible=arrays["eligible"],
        unlabelled=unlabelled,
        pixel_digests=arrays["pixel_digests"],
        notices=record.notices,
        note=record.note,
        origin=record.origin,
        session=session,
        stain_clusters=_stain_clusters(arrays),
    )


def _stain_clusters(arrays: Mapping[str, np.ndarray]) -> dict[int | None, np.ndarray]:
    counts = {name: name.removeprefix(_STAIN) for name in arrays if name.startswith(_STAIN)}
    return {None if count == "None" else int(count): arrays[name] for name, count in counts.items()}


def _in_a_file(pixels: np.ndarray) -> tuple[Path | None, int]:
    """The file that pixels are a map of, and where in it they begin; None where they lie in none that others find."""
    base: object = pixels
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and base.filename is not None and Path(str(base.filename)).is_file():
            within = pixels.__array_interface__["data"][0] - base.__array_interface__["data"][0]
            return Path(str(base.filename)), int(base.offset) + within
        base = base.base
    return None, 0
