"""Labelled patches written in any layout that is read: each patch 96 x 96 pixels, its pixels unchanged.

competition    train/<id>.tif, test/<id>.tif, train_labels.csv, slides.csv, groups.csv
classes        train/<normal|tumour>[/<patient>][/<slide>]/<id>.png, and test/ likewise, or without classes
table          images/<id>.png, and patches.csv: path,id,label,slide,patient,part
arrays         x.npy, y.npy, ids.npy, slides.npy, patients.npy, x_test.npy
h5             PatchCamelyon's own files of the parts train and test
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import pandas as pd
from PIL import Image

from sentinode.artefacts import write_atomically
from sentinode.data.competition import LABELS_TABLE
from sentinode.data.folder import PackedFolder
from sentinode.data.images import encode_tiff
from sentinode.data.patches import UNLABELLED, PatchSet
from sentinode.errors import DataError, storage_errors
from sentinode.progress import StepProgress

PatchLayout = Literal["competition", "classes", "table", "arrays", "h5"]
LAYOUTS: Final[tuple[PatchLayout, ...]] = get_args(PatchLayout)
_CLASSES: Final = {0: "normal", 1: "tumour", UNLABELLED: ""}
_AT_ONCE: Final = 512


def write_patches(
    packed: PackedFolder, dest: Path, layout: PatchLayout, on_progress: StepProgress | None = None
) -> None:
    """Fill an empty folder; what names the labels is written last. `on_progress` counts patches.

    Raises DataError for an id, slide or patient that cannot be a file's name, StorageError where the disk is full.
    """
    parts = {"train": packed.training} | ({} if packed.test is None else {"test": packed.test})
    total = sum(map(len, parts.values()))
    _require_names(parts)
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        if on_progress:
            on_progress(done, total)

    if shutil.disk_usage(dest).free < total * 96 * 96 * 3 and layout in ("competition", "arrays"):
        raise DataError(f"has no room for {total:,} patches", where=dest, remedy="Choose another disk.")
    with storage_errors(dest):
        match layout:
            case "competition":
                _competition(parts, dest, told)
            case "classes":
                _images(parts, dest, told, lambda part, *kept: "/".join(name for name in (part, *kept) if name))
            case "table":
                rows = _images(parts, dest, told, lambda *_: "images")
                _write_table(dest / "patches.csv", rows)
            case "arrays":
                _arrays(parts, dest, told)
            case "h5":
                _h5(parts, dest, told)


def _require_names(parts: dict[str, PatchSet]) -> None:
    for patches in parts.values():
        for what, names in (("id", patches.ids), ("slide", patches.slides), ("patient", patches.groups)):
            for name in np.unique(names).tolist():
                if name in (".", "..") or any(c in '/\\:*?"<>|' or ord(c) < 32 for c in name):
                    raise DataError(f"the {what} {name!r} cannot be a file's name", remedy="Rename it.")


def _chunks(patches: PatchSet) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(patches), _AT_ONCE):
        rows = slice(start, min(start + _AT_ONCE, len(patches)))
        yield rows, np.asarray(patches.pixels[rows])


def _competition(parts: dict[str, PatchSet], dest: Path, told: Callable[[int], None]) -> None:
    for part, patches in parts.items():
        (dest / part).mkdir()
        for rows, pixels in _chunks(patches):
            for name, patch in zip(patches.ids[rows].tolist(), pixels, strict=True):
                (dest / part / f"{name}.tif").write_bytes(encode_tiff(patch))
            told(len(pixels))
    every = list(parts.values())
    for file, column, cells in (
        ("slides.csv", "slide", np.concatenate([patches.slides for patches in every])),
        ("groups.csv", "patient", np.concatenate([patches.groups for patches in every])),
    ):
        if (cells != "").any():
            ids = np.concatenate([patches.ids for patches in every])
            _write_table(dest / file, pd.DataFrame({"id": ids, column: cells})[cells != ""].drop_duplicates())
    training = parts["train"]
    labelled = training.labels != UNLABELLED
    _write_table(dest / LABELS_TABLE, pd.DataFrame({"id": training.ids[labelled], "label": training.labels[labelled]}))


def _images(
    parts: dict[str, PatchSet], dest: Path, told: Callable[[int], None], folder_of: Callable[..., str]
) -> pd.DataFrame:
    """A PNG for each patch; the rows of a table of them."""
    columns = ["path", "id", "label", "slide", "patient", "part"]
    rows: list[tuple[str, ...]] = []
    for part, patches in parts.items():
        for at, pixels in _chunks(patches):
            known = zip(
                *(values[at].tolist() for values in (patches.ids, patches.labels, patches.slides, patches.groups)),
                strict=True,
            )
            for patch, (name, label, slide, patient) in zip(pixels, known, strict=True):
                path = f"{folder_of(part, _CLASSES[label], patient, slide)}/{name}.png"
                (dest / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(patch).save(dest / path)
                said = "" if label == UNLABELLED else str(label)
                rows.append((path, name, said, slide, patient, part))
            told(len(pixels))
    return pd.DataFrame(rows, columns=columns)


def _arrays(parts: dict[str, PatchSet], dest: Path, told: Callable[[int], None]) -> None:
    for part, patches in parts.items():
        ending = "" if part == "train" else "_test"
        held = np.lib.format.open_memmap(dest / f"x{ending}.npy", "w+", np.uint8, (len(patches), 96, 96, 3))
        for rows, pixels in _chunks(patches):
            held[rows] = pixels
            told(len(pixels))
        held.flush()
    training = parts["train"]
    for name, values in (("ids", training.ids), ("slides", training.slides), ("patients", training.groups)):
        if (values != "").any():
            np.save(dest / f"{name}.npy", values, allow_pickle=False)
    np.save(dest / "y.npy", training.labels, allow_pickle=False)


def _h5(parts: dict[str, PatchSet], dest: Path, told: Callable[[int], None]) -> None:
    import h5py

    for part, patches in parts.items():
        stem = f"camelyonpatch_level_2_split_{part}"
        with h5py.File(dest / f"{stem}_x.h5", "w") as file:
            x = file.create_dataset(
                "x", (len(patches), 96, 96, 3), np.uint8, chunks=(min(32, len(patches)), 96, 96, 3), compression=4
            )
            for rows, pixels in _chunks(patches):
                x[rows] = pixels
                told(len(pixels))
        if (patches.slides != "").any():
            _write_table(dest / f"{stem}_meta.csv", pd.DataFrame({"wsi": patches.slides}))
        if (patches.labels != UNLABELLED).all():
            with h5py.File(dest / f"{stem}_y.h5", "w") as file:
                file["y"] = patches.labels.astype(np.uint8).reshape(-1, 1, 1, 1)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda file: table.to_csv(file, index=False))
