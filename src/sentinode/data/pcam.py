"""PatchCamelyon's HDF5 files -> the same listing as a competition folder's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from sentinode.data.listing import DataFolder, Listing, PatchArrays
from sentinode.data.patches import UNLABELLED
from sentinode.data.tables import columns_of, read_table
from sentinode.errors import DataError

if TYPE_CHECKING:
    import h5py

_STEM: Final = "camelyonpatch_level_2_split"
_PARTS: Final = ("train", "valid", "test")


def is_pcam_folder(root: Path) -> bool:
    return bool(present_parts(root))


def present_parts(root: Path) -> list[str]:
    """The parts whose pixels are there; one alone can be predicted and scored."""
    return [part for part in _PARTS if (root / f"{_STEM}_{part}_x.h5").is_file()]


def read_pcam(root: Path) -> DataFolder:
    """List the official training and validation parts as training, the official test part as test.

    A patch's id is its part and row, such as "train-000123"; its slide is the column `wsi` of the
    part's meta table, joined by row because PatchCamelyon knows no other key. The two training
    parts share no slide, so any split by slide may be drawn from their union.
    """
    parts = present_parts(root)
    if parts == ["test"]:
        raise DataError(
            "has PatchCamelyon's test part alone, which is not trained on",
            where=root,
            remedy=f"Put {_STEM}_train_x.h5 and {_STEM}_train_y.h5 there; `predict` and `evaluate` do without.",
        )
    training = read_parts(root, [part for part in parts if part != "test"])
    test = read_parts(root, ["test"], labels_needed=False) if "test" in parts else None
    sample_ids = np.array([], dtype=str) if test is None else test.ids
    return DataFolder(root, "PatchCamelyon", training, test, sample_ids, findings=())


def read_parts(root: Path, parts: Sequence[str], *, labels_needed: bool = True) -> Listing:
    """List some of the parts that are there; without their file of labels they are unlabelled, if that will do."""
    files, ids, labels, slides, file_of, row_of = [], [], [], [], [], []
    for number, part in enumerate(parts):
        file = root / f"{_STEM}_{part}_x.h5"
        count = _count_patches(file)
        files.append(file)
        ids.append(np.array([f"{part}-{row:06d}" for row in range(count)], dtype=str))
        known = root / f"{_STEM}_{part}_y.h5"
        unlabelled = not labels_needed and not known.is_file()
        labels.append(np.full(count, UNLABELLED, np.int8) if unlabelled else _read_labels(known, count))
        slides.append(_read_slides(root / f"{_STEM}_{part}_meta.csv", count))
        file_of.append(np.full(count, number))
        row_of.append(np.arange(count))
    every_id = np.concatenate(ids)
    return Listing(
        ids=every_id,
        labels=np.concatenate(labels),
        slides=np.concatenate(slides),
        groups=np.full(len(every_id), "", dtype=str),
        pixels=PatchArrays(tuple(files), np.concatenate(file_of), np.concatenate(row_of)),
    )


def _count_patches(file: Path) -> int:
    try:
        with _open(file) as h5:
            x = h5["x"]
            if x.ndim != 4 or x.shape[1:] != (96, 96, 3) or x.dtype != np.uint8:
                raise DataError(
                    f"'x' is {x.shape} {x.dtype}, not N x 96 x 96 x 3 uint8",
                    where=file,
                    remedy="Download the file again.",
                )
            return int(x.shape[0])
    except (OSError, KeyError) as error:
        raise _damaged(file, error) from error


def _read_labels(file: Path, count: int) -> np.ndarray:
    try:
        with _open(file) as h5:
            labels = np.asarray(h5["y"]).reshape(-1)
    except (OSError, KeyError) as error:
        raise _damaged(file, error) from error
    if len(labels) != count or not np.isin(labels, [0, 1]).all():
        raise DataError(f"'y' must hold {count} labels, each 0 or 1", where=file, remedy="Download the file again.")
    return labels.astype(np.int8)


def _read_slides(file: Path, count: int) -> np.ndarray:
    if not file.is_file():
        return np.full(count, "", dtype=str)
    table = read_table(file, purpose="PatchCamelyon's meta table with the column wsi")
    if "wsi" not in table.columns or len(table) != count:
        raise DataError(
            f"has {len(table)} rows and the columns {columns_of(table)}",
            where=file,
            remedy=f"It must have the column wsi and {count} rows, one for each patch.",
        )
    return table["wsi"].to_numpy(dtype=str)


def _open(file: Path) -> h5py.File:
    import h5py  # here, because other data folders hold no such file and need not wait for it

    return h5py.File(file, "r")


def _damaged(file: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(
        f"cannot be read as PatchCamelyon's HDF5 ({reason})", where=file, remedy="Download the file again."
    )
