"""PatchCamelyon's files -> the same listing as a competition folder's.

HDF5 as its authors, torchvision and mirrors lay it out, or the TFRecords of TensorFlow Datasets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from sentinode.data.hdf5 import dataset, open_h5, require_whole
from sentinode.data.listing import DataFolder, Listing, PatchArrays
from sentinode.data.patches import UNLABELLED
from sentinode.data.tables import columns_of, is_unknown, read_table
from sentinode.data.tfrecord import IMAGE, read_examples
from sentinode.errors import DataError

_PARTS: Final[tuple[str, ...]] = ("train", "valid", "test")
_PREPARE: Final = "Prepare the dataset again with tfds.load('patch_camelyon')."
_DEEPEST: Final = 2  # folders below DATA that mirrors leave the files in
_MOST_FOLDERS: Final = 200  # that are looked into; those of a mirror are a few
_NAME: Final = re.compile(
    r"camelyonpatch_level_2_split_(?P<part>train|valid|test)_(?P<kind>x\.h5|y\.h5|meta\.csv)(?P<zipped>\.gz)?"
    r"|(?P<mirror>training|validation|test)_split\.h5(?P<mirror_zipped>\.gz)?"
    r"|patch_camelyon-(?P<shard_of>train|validation|test)\.tfrecord-(?P<shard>\d{5})-of-(?P<shards>\d{5})"
)
_OF_MIRRORS: Final = {"training": "train", "train": "train", "validation": "valid", "test": "test"}


def is_pcam_folder(root: Path) -> bool:
    return any(_is_pixels(kind) for _, kind in _files(root))


def _is_pixels(kind: str) -> bool:
    return kind == "x" or " of " in kind


def present_parts(root: Path) -> list[str]:
    """The parts whose pixels are there; one alone can be predicted and scored.

    Raises DataError where they are there, and none is unzipped.
    """
    files = _files(root)
    found = {part: files[part, kind] for part, kind in files if _is_pixels(kind)}
    unzipped = [part for part in _PARTS if part in found and found[part].suffix != ".gz"]
    if found and not unzipped:
        _refuse_zipped(next(iter(found.values())))
    return unzipped


def _refuse_zipped(file: Path) -> None:
    if file.suffix == ".gz":
        raise DataError("is still zipped", where=file, remedy=f"Unzip all of them: gunzip --keep {file.parent}/*.gz")


def _files(root: Path) -> dict[tuple[str, str], Path]:
    """PatchCamelyon's files by part and kind, however its authors, torchvision, TensorFlow or a mirror lay them out.

    Kinds are "x", "y" and "meta", and "00000 of 00008" of TensorFlow's. They lie in the folder itself, or one or two
    folders deeper, as in `pcam/`, `Labels/Labels/` or `patch_camelyon/2.0.0/`. The nearest of a kind counts, and of a
    file and its zipped form the file.
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
                    part = match["part"] or _OF_MIRRORS[match["mirror"] or match["shard_of"]]
                    shard = match["shard"] and f"{match['shard']} of {match['shards']}"
                    key = (part, shard or (match["kind"] or "x").partition(".")[0])
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
    at = _files(root)
    first, *others = (
        _read_hdf5(at, part, labels_needed=labels_needed) if (part, "x") in at else _read_records(at, part)
        for part in parts
    )
    for other in others:
        first = first.followed_by(other)
    return first


def _read_hdf5(at: Mapping[tuple[str, str], Path], part: str, *, labels_needed: bool) -> Listing:
    file = at[part, "x"]
    count = _count_patches(file)
    known = at.get((part, "y"))
    if known is None and labels_needed:
        raise DataError(
            f"has no labels of the part {part}",
            where=file.parent,
            remedy=f"Put camelyonpatch_level_2_split_{part}_y.h5 there.",
        )
    return Listing(
        ids=_ids(part, count),
        labels=np.full(count, UNLABELLED, np.int8) if known is None else _read_labels(known, count),
        slides=_read_slides(at.get((part, "meta")), count),
        groups=np.full(count, "", dtype=str),
        pixels=PatchArrays((file,), np.zeros(count, int), np.arange(count), ("x",)),
    )


def _read_records(at: Mapping[tuple[str, str], Path], part: str) -> Listing:
    """TensorFlow's shards, in their order: a row's place in its file is the byte at which its record begins."""
    kinds = sorted(kind for of, kind in at if of == part and _is_pixels(kind))
    files, shards = [at[part, kind] for kind in kinds], int(kinds[0].split()[-1])
    if kinds != [f"{number:05d} of {shards:05d}" for number in range(shards)]:
        raise DataError(f"has not all of the {shards} files of {part}", where=files[0].parent, remedy=_PREPARE)
    examples = [(number, example) for number, file in enumerate(files) for example in read_examples(file)]
    wrong = sum(example.label not in (0, 1, None) for _, example in examples)
    if wrong:
        raise DataError(f"{wrong:,} labels of {part} are not 0 or 1", where=files[0].parent, remedy=_PREPARE)
    count = len(examples)
    labels = [UNLABELLED if example.label is None else example.label for _, example in examples]
    return Listing(
        ids=_ids(part, count),
        labels=np.array(labels, np.int8),
        slides=np.full(count, "", dtype=str),
        groups=np.full(count, "", dtype=str),
        pixels=PatchArrays(
            tuple(files),
            np.array([number for number, _ in examples]),
            np.array([example.offset for _, example in examples]),
            (IMAGE,) * shards,
        ),
    )


def _ids(part: str, count: int) -> np.ndarray:
    return np.array([f"{part}-{row:06d}" for row in range(count)], dtype=str)


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
