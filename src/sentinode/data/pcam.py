"""PatchCamelyon's HDF5 files -> the same listing as a competition folder's."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from sentinode.data.hdf5 import dataset, open_h5, require_whole
from sentinode.data.listing import DataFolder, Listing, PatchArrays
from sentinode.data.patches import UNLABELLED
from sentinode.data.tables import columns_of, is_unknown, read_table
from sentinode.errors import DataError

_PARTS: Final = ("train", "valid", "test")
_DEEPEST: Final = 2  # folders below DATA that mirrors leave the files in
_MOST_FOLDERS: Final = 200  # that are looked into; those of a mirror are a few
_NAME: Final = re.compile(
    r"camelyonpatch_level_2_split_(?P<part>train|valid|test)_(?P<kind>x\.h5|y\.h5|meta\.csv)(?P<zipped>\.gz)?"
    r"|(?P<mirror>training|validation|test)_split\.h5(?P<mirror_zipped>\.gz)?"
)
_OF_MIRRORS: Final = {"training": "train", "validation": "valid", "test": "test"}


def is_pcam_folder(root: Path) -> bool:
    return any(kind == "x" for _, kind in _files(root))


def present_parts(root: Path) -> list[str]:
    """The parts whose pixels are there; one alone can be predicted and scored.

    Raises DataError where they are there, and none is unzipped.
    """
    found = {part: _files(root)[part, "x"] for part in _PARTS if (part, "x") in _files(root)}
    unzipped = [part for part, file in found.items() if file.suffix != ".gz"]
    if found and not unzipped:
        _refuse_zipped(next(iter(found.values())))
    return unzipped


def _refuse_zipped(file: Path) -> None:
    if file.suffix == ".gz":
        raise DataError("is still zipped", where=file, remedy=f"Unzip all of them: gunzip --keep {file.parent}/*.gz")


def _files(root: Path) -> dict[tuple[str, str], Path]:
    """PatchCamelyon's files by part and kind ("x", "y", "meta"), as its authors, torchvision or a mirror lay them out.

    They lie in the folder itself, or one or two folders deeper, as in `pcam/` or `Labels/Labels/`. The nearest of a
    kind counts, and of a file and its zipped form the file.
    """
    found: dict[tuple[str, str], Path] = {}
    folders = [root]
    for depth in range(_DEEPEST + 1):
        deeper: list[Path] = []
        for folder in folders[:_MOST_FOLDERS]:
            try:
                with os.scandir(folder) as entries:
                    listed = sorted(entry.name for entry in entries if entry.is_dir() or _NAME.fullmatch(entry.name))
            except OSError:  # no folder, or one that cannot be listed, holds none of the files
                continue
            for name in listed:
                if match := _NAME.fullmatch(name):
                    part = match["part"] or _OF_MIRRORS[match["mirror"]]
                    key = (part, (match["kind"] or "x").partition(".")[0])
                    if key not in found or found[key].suffix == ".gz":
                        found[key] = folder / name
                else:
                    deeper.append(folder / name)
        if depth == 0 and {"train", "test"} & {folder.name for folder in deeper}:
            break  # the competition's folders hold images, hundreds of thousands of them
        folders = deeper
    return found


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
            remedy="Put camelyonpatch_level_2_split_train_x.h5 and ..._train_y.h5 there; `predict` and `evaluate` do "
            "without.",
        )
    training = read_parts(root, [part for part in parts if part != "test"])
    test = read_parts(root, ["test"], labels_needed=False) if "test" in parts else None
    sample_ids = np.array([], dtype=str) if test is None else test.ids
    return DataFolder(root, "PatchCamelyon", training, test, sample_ids, findings=())


def read_parts(root: Path, parts: Sequence[str], *, labels_needed: bool = True) -> Listing:
    """List some of the parts that are there; without their file of labels they are unlabelled, if that will do."""
    files, ids, labels, slides, file_of, row_of = [], [], [], [], [], []
    at = _files(root)
    for number, part in enumerate(parts):
        file = at[part, "x"]
        count = _count_patches(file)
        files.append(file)
        ids.append(np.array([f"{part}-{row:06d}" for row in range(count)], dtype=str))
        known = at.get((part, "y"))
        if known is None and labels_needed:
            raise DataError(
                f"has no labels of the part {part}",
                where=file.parent,
                remedy=f"Put camelyonpatch_level_2_split_{part}_y.h5 there.",
            )
        labels.append(np.full(count, UNLABELLED, np.int8) if known is None else _read_labels(known, count))
        slides.append(_read_slides(at.get((part, "meta")), count))
        file_of.append(np.full(count, number))
        row_of.append(np.arange(count))
    every_id = np.concatenate(ids)
    return Listing(
        ids=every_id,
        labels=np.concatenate(labels),
        slides=np.concatenate(slides),
        groups=np.full(len(every_id), "", dtype=str),
        pixels=PatchArrays(tuple(files), np.concatenate(file_of), np.concatenate(row_of), ("x",) * len(files)),
    )


def _count_patches(file: Path) -> int:
    with open_h5(file) as h5:
        x = dataset(h5, "x", file)
        if x.ndim != 4 or x.shape[1:] != (96, 96, 3) or x.dtype != np.uint8:
            raise DataError(
                f"'x' is {x.shape} {x.dtype}, not N x 96 x 96 x 3 uint8", where=file, remedy="Download the file again."
            )
        require_whole(x, file)
        return int(x.shape[0])


def _read_labels(file: Path, count: int) -> np.ndarray:
    _refuse_zipped(file)
    wrong = DataError(f"'y' must hold {count} labels, each 0 or 1", where=file, remedy="Download the file again.")
    with open_h5(file) as h5:
        y = dataset(h5, "y", file)
        if y.size != count or y.dtype.kind not in "biu":
            raise wrong
        require_whole(y, file)
        labels = np.asarray(y).reshape(-1)
    if not np.isin(labels, [0, 1]).all():
        raise wrong
    return labels.astype(np.int8)


def _read_slides(file: Path | None, count: int) -> np.ndarray:
    if file is None:
        return np.full(count, "", dtype=str)
    table = read_table(file, purpose="PatchCamelyon's meta table with the column wsi")
    if "wsi" not in table.columns or len(table) != count:
        raise DataError(
            f"has {len(table)} rows and the columns {columns_of(table)}",
            where=file,
            remedy=f"It must have the column wsi and {count} rows, one for each patch.",
        )
    return table["wsi"].mask(is_unknown(table["wsi"]), "").to_numpy(dtype=str)
