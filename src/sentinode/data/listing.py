"""What a data folder holds, before any pixel is read: ids, labels, slides, groups, and where pixels lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from sentinode.data.patches import PatchTable

PHANTOM_NOTE: Final = "phantom: synthetic tissue"

FolderKind = Literal["competition", "PatchCamelyon", "class folders", "table", "arrays"]
Origin = Literal["competition", "PatchCamelyon", "phantom", "other"]
"""Whose patches they are: a folder can have the competition's layout and hold another's patches."""


def state_of(found: os.stat_result) -> str:
    """What changes whenever a file's content does, however it was changed.

    Size and time of modification alone do not: who copies another image over one can keep both (`cp -p`, `touch -r`).
    The system's own time of change and the file's number cannot be set. On Windows that time is the file's creation.
    """
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} {found.st_dev}"


@dataclass(frozen=True, eq=False)
class PatchFiles:
    """Pixels in one image file a patch, named relative to one folder, or within one zip file.

    `spacing`: what a pixel measures, in um, where the patch is the centre of its image; None where it is the image.
    """

    folder: Path
    names: Sequence[str]
    spacing: float | None = None

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        """A digest of every file's name and `state_of`; pixels are not read."""
        digest = hashlib.sha256(os.fsencode(self.folder.resolve()))
        if self.spacing is not None:
            digest.update(f"\0{self.spacing}\0".encode())
        if self.folder.is_file():
            digest.update("\n".join([state_of(self.folder.stat()), *self.names]).encode())
            return digest.hexdigest()
        prefix = f"{self.folder}{os.sep}"
        for name in self.names:
            try:
                found = os.stat(prefix + name)  # noqa: PTH116  (a Path for each name takes longer than the call)
                digest.update(f"{name}\0{state_of(found)}\n".encode())
            except OSError:  # reading it will say what is wrong
                digest.update(f"{name}\0unreadable\n".encode())
        return digest.hexdigest()

    def take(self, rows: Int[np.ndarray, " k"]) -> PatchFiles:
        return replace(self, names=[self.names[row] for row in rows])


@dataclass(frozen=True, eq=False)
class PatchArrays:
    """Pixels in rows of arrays, (N, h, w, 3) uint8: of HDF5 files, NumPy's .npy files, or one in an .npz file.

    `names`: of each file the array in it. `spacing`: as of PatchFiles.
    """

    files: tuple[Path, ...]
    file_of: Int[np.ndarray, " n"]
    row_of: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    spacing: float | None = None

    def __len__(self) -> int:
        return len(self.row_of)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for file, name in zip(self.files, self.names, strict=True):
            digest.update(os.fsencode(file.resolve()) + f"\0{state_of(file.stat())}\0{name}\n".encode())
        digest.update(f"{self.spacing}\n".encode())
        digest.update(np.ascontiguousarray(self.file_of).tobytes())
        digest.update(np.ascontiguousarray(self.row_of).tobytes())
        return digest.hexdigest()

    def take(self, rows: Int[np.ndarray, " k"]) -> PatchArrays:
        return replace(self, file_of=self.file_of[rows], row_of=self.row_of[rows])


@dataclass(frozen=True, eq=False)
class Listing(PatchTable):
    """Patches, and where their pixels lie."""

    pixels: PatchFiles | PatchArrays

    def take(self, rows: Int[np.ndarray, " k"] | Bool[np.ndarray, " n"]) -> Listing:
        """The listing of some rows, in the order given."""
        index = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Listing(*self.rows(index).columns, pixels=self.pixels.take(index))

    def followed_by(self, other: Listing) -> Listing:
        """The patches of both listings of one data folder, this one's first."""
        ids, labels, slides, groups = (
            np.concatenate([mine, theirs]) for mine, theirs in zip(self.columns, other.columns, strict=True)
        )
        return Listing(ids, labels, slides, groups, joined(self.pixels, other.pixels))

    def with_tables(self, *, slides: dict[str, str] | None = None, groups: dict[str, str] | None = None) -> Listing:
        """Join slides and groups by id; ids that a table does not name stay unknown."""

        def by_id(table: dict[str, str] | None, old: np.ndarray) -> np.ndarray:
            return old if table is None else np.array([table.get(i, "") for i in self.ids.tolist()], dtype=str)

        return replace(self, slides=by_id(slides, self.slides), groups=by_id(groups, self.groups))


def joined(first: PatchFiles | PatchArrays, second: PatchFiles | PatchArrays) -> PatchFiles | PatchArrays:
    """The pixels of two parts of one data folder, one after the other."""
    match first, second:
        case PatchFiles(), PatchFiles() if first.folder == second.folder:
            return replace(first, names=[*first.names, *second.names])
        case PatchArrays(), PatchArrays():
            return PatchArrays(
                first.files + second.files,
                np.concatenate([first.file_of, second.file_of + len(first.files)]),
                np.concatenate([first.row_of, second.row_of]),
                first.names + second.names,
                first.spacing,
            )
        case _:
            raise ValueError("only listings of one data folder can be joined")


FindingKind = Literal["missing", "unlabelled", "label", "duplicate row", "extra file", "sample", "table"]


@dataclass(frozen=True)
class Finding:
    """Something wrong with a data folder: what, how often, and the first few places."""

    kind: FindingKind
    what: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class DataFolder:
    """A training part, and a test part where there is one.

    `sample_ids`: the ids that a submission must hold, in order (empty: none is asked for).
    """

    root: Path
    kind: FolderKind
    training: Listing
    test: Listing | None
    sample_ids: Shaped[np.ndarray, " m"]
    findings: tuple[Finding, ...]
    note: str = ""
    """Said on every page made from this data; for a phantom, that the tissue is synthetic."""
    groups_are_patients: bool = False
    layout: str = ""
    """What names and numbers were taken for, in words; "" where there was nothing to tell."""


@dataclass(frozen=True)
class Column:
    """A column of a table; `empty` cells hold nothing or say that a value is not known."""

    name: str
    kind: Literal["text", "numbers"]
    empty: int


@dataclass(frozen=True)
class TableHead:
    """What is seen of a table at the first look; `first` are its first rows."""

    file: str
    rows: int
    columns: tuple[Column, ...]
    first: tuple[tuple[str, ...], ...]
