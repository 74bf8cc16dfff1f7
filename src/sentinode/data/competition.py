"""The competition's folder -> a checked listing; the folder is only ever read."""

from __future__ import annotations

import itertools
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from sentinode.data.images import SUFFIXES
from sentinode.data.listing import PHANTOM_NOTE, DataFolder, Finding, FindingKind, Listing, PatchFiles
from sentinode.data.patches import UNLABELLED
from sentinode.data.tables import column_of, columns_of, ids_of, read_table, table_at
from sentinode.errors import DataError, RunError
from sentinode.records import read_record

LABELS_TABLE, SAMPLE = "train_labels.csv", "sample_submission.csv"
TABLES: Final = (LABELS_TABLE, SAMPLE)
"""The tables of a competition folder, by their names."""


def is_competition_folder(root: Path) -> bool:
    return (root / LABELS_TABLE).is_file() or (root / "train").is_dir()


def read_competition(root: Path, spacing: float | None = None) -> DataFolder:
    """List `train/`, `test/`, `train_labels.csv` and `sample_submission.csv` below `root`.

    Rows and files that do not belong together become findings: missing images and unlabelled files
    are not in the training listing; a label that is not 0 or 1 is listed as unlabelled. Raises
    DataError where there is nothing to list: no folder, no table, no image.
    """
    if not (root / "train").is_dir():
        others = [name for name in folders_with_images(root) if name != "test"]
        if others:
            raise no_images_in(root)
        raise DataError(
            "is not a competition folder: it has no train/ folder",
            where=root,
            remedy=f"Give the folder that holds train/, {LABELS_TABLE} and (for a submission) test/ and {SAMPLE}.",
        )
    findings: list[Finding] = []
    # Images before the table, which layouts without images here have none of.
    training = {i: f"train/{name}" for i, name in list_images(root / "train", findings).items()}
    labels = labels_by_id(root / LABELS_TABLE, findings)
    test = None
    if (root / "test").is_dir():
        test = {i: f"test/{name}" for i, name in list_images(root / "test", findings).items()}
    sample = table_at(root / SAMPLE)
    return competition_of(root, labels, training, test, sample, findings, spacing)


def competition_of(
    root: Path,
    labels: dict[str, int],
    training: dict[str, str],
    test: dict[str, str] | None,
    sample: Path | None,
    findings: list[Finding],
    spacing: float | None,
) -> DataFolder:
    """The competition's data from their labels, images (id -> path below `root`, or in it) and sample submission."""
    missing = [i for i in labels if i not in training]
    unlabelled = [i for i in training if i not in labels]
    note(findings, "missing", f"rows of {LABELS_TABLE} without an image in train/", missing)
    note(findings, "unlabelled", f"images in train/ without a row in {LABELS_TABLE}", unlabelled)
    files = {i: training[i] for i in labels if i in training}
    if not files:
        raise DataError(
            f"none of the {len(training)} images in train/ has a row in {LABELS_TABLE}",
            where=root,
            remedy="An image's name without its ending must be its id in the table.",
        )
    sample_ids = np.array([], dtype=str) if sample is None else read_sample_ids(sample)
    asked, there = set(sample_ids.tolist()), set(test or ())
    if asked and test is None:
        note(findings, "sample", f"ids of {SAMPLE} without an image (there is no test/)", sample_ids.tolist())
    elif asked:
        note(findings, "sample", f"ids of {SAMPLE} without an image in test/", sorted(asked - there))
        note(findings, "sample", f"images in test/ that {SAMPLE} does not name", sorted(there - asked))
    return DataFolder(
        root,
        "competition",
        listing_of_files(root, files, labels, spacing),
        None if test is None else listing_of_files(root, test, spacing=spacing),
        sample_ids,
        tuple(findings),
        note_of(root),
    )


def listing_of_files(
    folder: Path, files: dict[str, str], labels: dict[str, int] | None = None, spacing: float | None = None
) -> Listing:
    """A listing of image files (id -> path below the folder or in the zip file), with labels by id where given."""
    ids = list(files)
    known = labels or {}
    none = np.full(len(ids), "", dtype=str)
    return Listing(
        ids=np.array(ids, dtype=str),
        labels=np.array([known.get(i, UNLABELLED) for i in ids], dtype=np.int8),
        slides=none,
        groups=none,
        pixels=PatchFiles(folder, list(files.values()), spacing),
    )


def list_images(folder: Path, findings: list[Finding]) -> dict[str, str]:
    """Id -> file name of the images directly in `folder`, sorted; other files become findings."""
    files: dict[str, str] = {}
    extra: list[str] = []
    try:
        with os.scandir(folder) as entries:
            # A link is listed, so that it is refused by name when its image is read.
            names = sorted(e.name for e in entries if not e.name.startswith(".") and (e.is_file() or e.is_symlink()))
    except OSError as error:
        raise DataError(
            f"cannot be listed ({error.strerror})", where=folder, remedy="Give a folder of patches."
        ) from error
    for name in names:
        stem, suffix = _id_and_suffix(name, folder)
        if suffix.lower() not in SUFFIXES or stem in files:
            extra.append(name)
        else:
            files[stem] = name
    if not files:
        raise no_images_in(folder)
    note(findings, "extra file", f"files in {folder.name}/ that are not patches, or repeat an id", extra)
    return files


_MOST_FOLDERS: Final = 10_000  # that are looked into for a message


def no_images_in(folder: Path) -> DataError:
    """What to say of a folder that should hold images and does not: where they lie instead, and what to do."""
    inner = folders_with_images(folder)
    match inner:
        case []:
            return DataError(
                "holds no image",
                where=folder,
                remedy=f"Put the patches there ({', '.join(s.lstrip('.') for s in SUFFIXES)}).",
            )
        case [one]:
            return DataError(
                f"holds no image itself; they lie a folder deeper, in {one}/",
                where=folder,
                remedy=f"Move them up: mv {folder / one}/* {folder}/",
            )
    named = ", ".join(f"{name}/" for name in inner[:4]) + (", ..." if len(inner) > 4 else "")
    return DataError(
        f"holds no image itself, but {len(inner):,} folders of images ({named}), as of one for each slide",
        where=folder,
        remedy="Put a table path,label,slide there, with paths relative to it, and give that table in place of the "
        "folder.",
    )


def folders_with_images(folder: Path) -> list[str]:
    """The folders right below that hold images or, one level deeper, nothing but folders of them."""

    def holds_images(path: Path, deeper: int) -> bool:
        folders: list[Path] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                        return True
                    if deeper and entry.is_dir():
                        folders.append(path / entry.name)
        except OSError:  # no folder, or one that cannot be listed
            return False
        return any(holds_images(each, deeper - 1) for each in folders[:_MOST_FOLDERS])

    names = sorted(path.name for path in itertools.islice(folder.iterdir(), _MOST_FOLDERS) if path.is_dir())
    return [name for name in names if not name.startswith(".") and holds_images(folder / name, 1)]


def _id_and_suffix(name: str, folder: Path) -> tuple[str, str]:
    """The id that a file's name gives, as tables give it (`ids_of`), and its ending."""
    stem, dot, ending = name.rpartition(".")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                "has a name that is not UTF-8, as a zip file from another system leaves it",
                where=folder / name,
                remedy="Rename it, or all of them with: convmv -f cp1252 -t utf8 --notest -r FOLDER.",
            ) from error
        stem = unicodedata.normalize("NFC", stem)
    return (stem.rpartition("\\")[2], dot + ending) if stem else (name, "")


def labels_by_id(path: Path, findings: list[Finding]) -> dict[str, int]:
    """Label of each id of a table id,label; what is wrong with it becomes findings, and its label unknown."""
    table = read_table(path, purpose="id,label")
    id_column, label_column = column_of(table, ("id",)), column_of(table, ("label",))
    if id_column is None or label_column is None:
        raise DataError(
            f"has the columns {columns_of(table)}",
            where=path,
            remedy="It must have the columns id,label.",
        )
    table = pd.DataFrame({"id": ids_of(table[id_column]), "label": table[label_column].str.strip()})
    twice = table["id"].duplicated()
    note(findings, "duplicate row", f"rows of {path.name} that repeat an id", table["id"][twice].tolist())
    conflict = table[~table.duplicated()]["id"].duplicated()
    wrong = ~table["label"].isin(["0", "1"])
    note(
        findings,
        "label",
        f"labels in {path.name} that are not 0 or 1",
        [f"{i} has {label!r}" for i, label in table.loc[wrong, ["id", "label"]].itertuples(index=False)],
    )
    conflicting = table[~table.duplicated()].loc[conflict, "id"].tolist()
    note(findings, "label", f"ids in {path.name} with two different labels", conflicting)
    values = pd.to_numeric(table["label"].where(~wrong, str(UNLABELLED))).astype(int)
    labels = dict(zip(table["id"].tolist(), values.tolist(), strict=True))
    return labels | dict.fromkeys(conflicting, UNLABELLED)


def read_sample_ids(path: Path) -> np.ndarray:
    """The ids of a sample submission, in its order."""
    table = read_table(path, purpose="id,label")
    id_column = column_of(table, ("id",))
    if id_column is None:
        raise DataError(
            f"has the columns {columns_of(table)}",
            where=path,
            remedy="It must have the columns id,label.",
        )
    return ids_of(table[id_column]).to_numpy(dtype=str)


@dataclass(frozen=True)
class _Mark:
    note: str


def note_of(root: Path) -> str:
    """What is said on every page made from a folder's data; "" for a folder that is no phantom's."""
    mark = root / "phantom.json"
    if not mark.exists():
        return ""
    try:
        return read_record(mark, _Mark).note
    except RunError:
        return PHANTOM_NOTE  # a damaged mark is still a mark


def note(findings: list[Finding], kind: FindingKind, what: str, places: list[str]) -> None:
    if places:
        findings.append(Finding(kind, what, len(places), tuple(places[:5])))
