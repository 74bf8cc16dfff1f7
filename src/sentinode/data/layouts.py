"""Labelled patches as people keep them -> a listing: class folders, a table of paths, arrays, a zip file of images.

What lies where is read from names, tables and headers; pixels wait until they are packed. What cannot be told is never
guessed: an error names what was found, and the setting that answers.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import numpy as np
import pandas as pd

from sentinode.config.run import DataConfig
from sentinode.data.competition import LABELS_TABLE, SAMPLE, competition_of, labels_by_id, note
from sentinode.data.hdf5 import NUMPY, numpy_array
from sentinode.data.images import SUFFIXES
from sentinode.data.listing import DataFolder, Finding, FolderKind, Listing, PatchArrays, PatchFiles, joined
from sentinode.data.patches import UNLABELLED
from sentinode.data.tables import PATIENT_COLUMNS, SLIDE_COLUMNS, column_of, columns_of, is_unknown, read_table
from sentinode.errors import DataError
from sentinode.files import ZIP, as_file_name, open_zip
from sentinode.machine import optional_module

Layout = Literal["class folders", "table", "arrays", "zip"]
_TABLES: Final = (".csv", ".tsv", ".parquet")
_NORMAL: Final = frozenset(
    ("0", "no", "neg", "negative", "normal", "benign", "healthy", "non-tumor", "non-tumour", "no_tumor", "no_tumour")
)
_TUMOUR: Final = frozenset(
    ("1", "yes", "pos", "positive", "tumor", "tumour", "malignant", "cancer", "metastasis", "metastatic")
)
_PARTS: Final[dict[str, Literal["training", "test"]]] = {
    **dict.fromkeys(("train", "training", "val", "valid", "validation"), "training"),
    "test": "test",
}
_PATH_COLUMNS: Final = ("path", "image", "file", "filename", "filepath", "image_path")
_LABEL_COLUMNS: Final = ("label", "class", "target", "y")
_PART_COLUMNS: Final = ("part", "split", "set")
_ARRAYS: Final = (("x", "y"), ("x_train", "y_train"), ("images", "labels"), ("patches", "labels"))
_TEST_ARRAYS: Final = ("x_test", "y_test")
_MEANING: Final = ((1, "tumour"), (0, "normal"))
_DEEPEST: Final = 6  # folders below DATA
_LOOKED_AT: Final = 50  # entries of a folder, to tell what it is


def layout_of(root: Path) -> Layout | None:
    """What a folder or file is, by its name and the first names in it; None where it is none of these."""
    if root.is_file():
        suffix = root.suffix.lower()
        return "table" if suffix in _TABLES else "arrays" if suffix in NUMPY else "zip" if suffix == ZIP else None
    if not root.is_dir():
        return None
    if any((root / f"{x}.npy").is_file() for x, _ in _ARRAYS):
        return "arrays"
    return "class folders" if _classes_among(_first_folders(root)) else None


def read_layout(root: Path, config: DataConfig, *, labels_needed: bool = True) -> DataFolder:
    """The patches of a folder or file of which `layout_of` knows the layout; raises DataError on what is ambiguous.

    Where labels are not needed, class folders whose names do not tell which is tumour are unlabelled.
    """
    match layout_of(root):
        case "table":
            return _read_table(root, config)
        case "arrays":
            return _read_arrays(root, config)
        case "zip":
            return _read_zip(root, config, labels_needed=labels_needed)
        case _:
            return _read_class_folders(root, list(_images_below(root)), config, labels_needed=labels_needed)


# --- names -------------------------------------------------------------------------------------------


def _first_folders(root: Path) -> list[set[str]]:
    """For each of the first levels of folders, the names there, of a few branches: enough to see classes among them."""
    levels: list[set[str]] = []
    folders = [root]
    for _ in range(_DEEPEST):
        inner = [path for folder in folders for path in _some_folders(folder)]
        if not inner:
            break
        levels.append({path.name for path in inner})
        folders = inner[:_LOOKED_AT]
    return levels


def _some_folders(folder: Path) -> list[Path]:
    found: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number >= 4 * _LOOKED_AT:
                    break
                if not entry.name.startswith(".") and entry.is_dir():
                    found.append(folder / entry.name)
    except OSError:
        return []
    return sorted(found)


def _classes_among(levels: Iterable[set[str]]) -> bool:
    return any(len(names) == 2 and names & known for names in _folded(levels) for known in (_NORMAL, _TUMOUR)) or any(
        len(names) == 2 and not names <= _PARTS.keys() for names in _folded(levels)
    )


def _folded(levels: Iterable[set[str]]) -> Iterator[set[str]]:
    return ({name.casefold() for name in names} for names in levels)


def _images_below(root: Path) -> Iterator[str]:
    """Relative names of all images below a folder, links to folders not followed."""
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(root)
        if len(below.parts) >= _DEEPEST:
            folders.clear()
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield (below / name).as_posix()


@dataclass(frozen=True)
class _Place:
    """What the folders on the way to an image say."""

    name: str
    part: Literal["training", "test"]
    label: str
    slide: str
    patient: str


def _read_class_folders(root: Path, names: Sequence[str], config: DataConfig, *, labels_needed: bool) -> DataFolder:
    places = _places_of(root, names, config, labels_needed=labels_needed)
    named = {place.label for place in places} - {""}
    label_of = {"": UNLABELLED} | (_labels_of(named, config, root) if named else {})
    ids = _ids_of([place.name for place in places])
    rows = pd.DataFrame(
        {
            "id": ids,
            "label": [label_of[place.label] for place in places],
            "slide": [place.slide for place in places],
            "patient": [place.patient for place in places],
            "part": [place.part for place in places],
        }
    )
    files = PatchFiles(root, [place.name for place in places], config.spacing_um_per_px)
    return _folder(root, "class folders", rows, files, (), label_of)


def _places_of(root: Path, names: Sequence[str], config: DataConfig, *, labels_needed: bool) -> list[_Place]:
    paths = [PurePosixPath(name) for name in names]
    folders = [path.parts[:-1] for path in paths]
    if not folders:
        raise DataError("holds no image", where=root, remedy="Give a folder of folders of images.")
    shared = next((at for at, names in enumerate(zip(*folders, strict=False)) if len(set(names)) > 1), 0)
    inner = [parts[shared:] for parts in folders]
    has_parts = all(inner) and {parts[0].casefold() for parts in inner} <= _PARTS.keys()
    of_parts = [_PARTS[parts[0].casefold()] if has_parts else "training" for parts in inner]
    inner = [parts[has_parts:] for parts in inner]
    depths = Counter(map(len, inner))
    if len(depths) > 1:
        usual = depths.most_common(1)[0][0]
        odd = next(str(path) for path, parts in zip(paths, inner, strict=True) if len(parts) != usual)
        raise DataError(
            f"holds images at several depths (most of them {usual} folders deep, but {odd})",
            where=root,
            remedy="Arrange all alike, or give a table path,label.",
        )
    levels = [set(of_level) for of_level in zip(*inner, strict=True)]
    if not labels_needed and not any(_known_pair(names, config) for names in levels):
        return [_Place(name, part, "", "", "") for name, part in zip(names, of_parts, strict=True)]
    level = _class_level(root, levels, config)
    others = [[name for at, name in enumerate(parts) if at != level] for parts in inner]
    if others[0][2:]:
        raise DataError(
            f"holds images {len(others[0]) + 1} folders deep ({paths[0]}), of which only a class, a patient and a "
            "slide are known",
            where=root,
            remedy="Give a table path,label,slide,patient.",
        )
    return [
        _Place(name, part, parts[level], other[-1] if other else "", other[0] if len(other) == 2 else "")
        for name, part, parts, other in zip(names, of_parts, inner, others, strict=True)
    ]


def _class_level(root: Path, levels: Sequence[set[str]], config: DataConfig) -> int:
    two = [at for at, names in enumerate(levels) if len(names) == 2]
    known = [at for at in two if _known_pair(levels[at], config)]
    if len(known) == 1:
        return known[0]
    if len(two) == 1 and not known:
        first, second = sorted(levels[two[0]])
        raise DataError(
            f"holds folders of two names, {first} and {second}: which of them is tumour cannot be told",
            where=root,
            remedy=f"Say so with --set data.tumour={first} (or ={second}); if they are slides, give a table "
            "path,label,slide.",
        )
    seen = "; ".join(", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "") for names in levels)
    raise DataError(
        f"holds folders of images ({seen}), and which of them are two classes cannot be told",
        where=root,
        remedy="Name them normal and tumour, or give a table path,label[,slide,patient].",
    )


def _known_pair(names: set[str], config: DataConfig) -> bool:
    folded = {name.casefold() for name in names}
    return config.tumour in names or (len(folded & _TUMOUR) == 1 and len(folded & _NORMAL) == 1)


def _labels_of(names: set[str], config: DataConfig, where: Path) -> dict[str, int]:
    """Label of each class's name: 1 is what the settings call tumour, or what is known for it."""
    if config.tumour is not None:
        if config.tumour not in names:
            raise DataError(
                f"holds no class {config.tumour!r}, but {', '.join(sorted(names)[:4])}",
                where=where,
                remedy="Give data.tumour as it is written there.",
            )
        return {name: int(name == config.tumour) for name in names}
    of = {name: 1 if name.casefold() in _TUMOUR else 0 if name.casefold() in _NORMAL else None for name in names}
    unknown = sorted(name for name, label in of.items() if label is None)
    if unknown or len(names) > 2:
        told = ", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "")
        raise DataError(
            f"has the labels {told}: which of them is tumour cannot be told",
            where=where,
            remedy="Say so with --set data.tumour=NAME; all others are normal then.",
        )
    return {name: int(label or 0) for name, label in of.items()}


def _ids_of(names: Sequence[str]) -> list[str]:
    """Of each image its file's name without the ending or, where two have one name, with its folders before it."""
    paths = [PurePosixPath(name) for name in names]
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return ["--".join((*path.parts[:-1], path.stem)) for path in paths]


# --- a table of paths --------------------------------------------------------------------------------


def _read_table(path: Path, config: DataConfig) -> DataFolder:
    table = _table_at(path)
    of_path, of_label = column_of(table, _PATH_COLUMNS), column_of(table, _LABEL_COLUMNS)
    if of_path is None or of_label is None:
        raise DataError(
            f"has the columns {columns_of(table)}",
            where=path,
            remedy="It must have the columns path,label, and may have id, slide, patient and part (train or test).",
        )
    names = [_within(path, as_file_name(str(name))) for name in table[of_path].str.strip().str.replace("\\", "/")]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"names {len(twice):,} images twice (first: {twice[0]})", where=path, remedy="Remove a row.")
    labels = table[of_label].str.strip()
    label_of = _labels_of(set(labels[~is_unknown(labels)]), config, path)

    def column(candidates: Sequence[str]) -> list[str]:
        name = column_of(table, candidates)
        cells = pd.Series("", index=table.index) if name is None else table[name].str.strip()
        return cells.mask(is_unknown(cells), "").tolist()

    ids, parts = column(("id", "patch_id")), [_part(part, path) for part in column(_PART_COLUMNS)]
    rows = pd.DataFrame(
        {
            "id": ids if all(ids) else _ids_of(names),
            "label": [label_of.get(label, UNLABELLED) for label in labels],
            "slide": column(SLIDE_COLUMNS),
            "patient": column(PATIENT_COLUMNS),
            "part": parts,
            "name": names,
        }
    )
    there = np.array([(path.parent / name).is_file() for name in names])
    missing = rows["id"][~there].tolist()
    unlabelled = rows["id"][there & (rows["label"] == UNLABELLED) & (rows["part"] == "training")].tolist()
    findings: list[Finding] = []
    note(findings, "missing", f"rows of {path.name} whose image is not there", missing)
    note(findings, "unlabelled", f"rows of {path.name} without a label", unlabelled)
    rows = rows[there & ((rows["label"] != UNLABELLED) | (rows["part"] == "test"))]
    if not len(rows):
        raise DataError(
            f"names {len(names):,} images, of which none is there (first: {names[0]})",
            where=path,
            remedy="Paths are relative to the table's own folder.",
        )
    files = PatchFiles(path.parent, rows["name"].tolist(), config.spacing_um_per_px)
    return _folder(path, "table", rows, files, tuple(findings), label_of)


def _table_at(path: Path) -> pd.DataFrame:
    if path.suffix.lower() != ".parquet":
        return read_table(path, purpose="path,label")
    optional_module("pyarrow", what="reading Parquet", extra="parquet")
    try:
        return pd.read_parquet(path).astype("string").fillna("").astype(str)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as Parquet ({error})", where=path, remedy="Save it as CSV.") from error


def _within(table: Path, name: str) -> str:
    """A path of a table, relative to the table's folder; raises DataError for one that leaves it."""
    inside = PurePosixPath(os.path.normpath(name)) if name else PurePosixPath("..")
    if inside.is_absolute() and inside.is_relative_to(table.parent.resolve().as_posix()):
        inside = inside.relative_to(table.parent.resolve().as_posix())
    if inside.is_absolute() or inside.parts[:1] == ("..",):
        raise DataError(
            f"names {name!r}, which does not lie below the table's folder" if name else "has a row without a path",
            where=table,
            remedy="Put the table beside the images or above them, with paths relative to it.",
        )
    return inside.as_posix()


def _part(name: str, where: Path) -> Literal["training", "test"]:
    found = _PARTS.get(name.casefold() or "train")
    if found is None:
        raise DataError(f"names the part {name!r}", where=where, remedy="Parts are train, valid and test.")
    return found


# --- arrays ------------------------------------------------------------------------------------------


def _read_arrays(root: Path, config: DataConfig) -> DataFolder:
    """x (N, h, w, 3) uint8 and y (N,), in an .npz file or as .npy files in a folder; x_test for a test part."""
    at = root.parent if root.suffix == ".npy" else root
    held = _names_of_arrays(at)
    pair = next(((x, y) for x, y in _ARRAYS if x in held), None)
    if pair is None or pair[1] not in held:
        raise DataError(
            f"holds the arrays {', '.join(sorted(held)[:8]) or 'none'}",
            where=at,
            remedy="It must hold x, (N, 96, 96, 3) of bytes, and y, N labels; and may hold ids, slides, patients and "
            "x_test.",
        )
    files: PatchFiles | PatchArrays
    training, label_of, files = _rows_of_arrays(at, held, pair[0], pair[1], "training", config)
    if _TEST_ARRAYS[0] in held:
        test, _, more = _rows_of_arrays(at, held, *_TEST_ARRAYS, "test", config)
        training = pd.concat([training, test], ignore_index=True)
        files = joined(files, more)
    return _folder(at, "arrays", training, files, (), label_of)


def _names_of_arrays(at: Path) -> set[str]:
    if at.is_dir():
        return {path.stem for path in at.glob("*.npy")}
    try:
        with np.load(at, allow_pickle=False) as arrays:
            return set(arrays.files)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot be read as NumPy's ({error})", where=at, remedy="Save it with np.savez.") from error


def _rows_of_arrays(
    at: Path, held: set[str], x: str, y: str, part: Literal["training", "test"], config: DataConfig
) -> tuple[pd.DataFrame, dict[str, int], PatchArrays]:
    file = at / f"{x}.npy" if at.is_dir() else at

    def array(name: str) -> np.ndarray:
        return numpy_array(at / f"{name}.npy" if at.is_dir() else at, name)

    pixels = array(x)
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8 or not len(pixels):
        raise DataError(
            f"{x!r} is {pixels.shape} {pixels.dtype}", where=file, remedy="Give (N, 96, 96, 3) of uint8, from 0 to 255."
        )
    count = len(pixels)

    def strings(name: str) -> list[str]:
        if part == "test" or name not in held:
            return [""] * count
        found = array(name)
        if found.shape != (count,):
            raise DataError(f"{name!r} has the shape {found.shape}", where=at, remedy=f"Give {count:,} of them.")
        return [str(value) for value in found.tolist()]

    labels, label_of = np.full(count, UNLABELLED), dict[str, int]()
    if y in held:
        given = array(y).reshape(-1)
        if given.shape != (count,):
            raise DataError(f"{y!r} holds {given.size:,} labels of {count:,} patches", where=at, remedy="Fix it.")
        names = [str(int(value)) if given.dtype.kind in "biuf" else str(value) for value in given.tolist()]
        label_of = _labels_of(set(names), config, at)
        labels = np.array([label_of[name] for name in names])
    ids = strings("ids")
    rows = pd.DataFrame(
        {
            "id": ids if all(ids) else [f"{part}-{row:06d}" for row in range(count)],
            "label": labels,
            "slide": strings("slides"),
            "patient": strings("patients"),
            "part": part,
        }
    )
    return rows, label_of, PatchArrays((file,), np.zeros(count, int), np.arange(count), (x,), config.spacing_um_per_px)


# --- a zip file --------------------------------------------------------------------------------------


def _read_zip(path: Path, config: DataConfig, *, labels_needed: bool) -> DataFolder:
    """The competition's own download, or class folders, within a zip file that stays as it is."""
    with open_zip(path) as opened:
        every = sorted(name for name in opened.namelist() if not name.endswith("/"))
    names = [name for name in every if name.lower().endswith(SUFFIXES) and "/." not in f"/{name}"]
    labels = next((name for name in every if PurePosixPath(name).name == LABELS_TABLE), None)
    if labels is None:
        return _read_class_folders(path, names, config, labels_needed=labels_needed)
    base = PurePosixPath(labels).parent
    findings: list[Finding] = []
    label_of = labels_by_id(path / labels, findings)

    def images_in(part: str) -> dict[str, str]:
        return {PurePosixPath(n).stem: n for n in names if PurePosixPath(n).parent == base / part}

    sample = next((path / name for name in every if PurePosixPath(name) == base / SAMPLE), None)
    test = images_in("test") or None
    return competition_of(path, label_of, images_in("train"), test, sample, findings, config.spacing_um_per_px)


# --- what all of them end in -------------------------------------------------------------------------


def _folder(
    root: Path,
    kind: FolderKind,
    rows: pd.DataFrame,
    pixels: PatchFiles | PatchArrays,
    findings: tuple[Finding, ...],
    label_of: Mapping[str, int],
) -> DataFolder:
    """The listings of rows id, label, slide, patient and part, in the order of `pixels`."""
    repeated = rows["id"][rows["id"].duplicated()]
    if len(repeated):
        raise DataError(
            f"has {len(repeated):,} duplicate ids (first: {repeated.iloc[0]})", where=root, remedy="Give each its own."
        )
    everything = Listing(
        ids=rows["id"].to_numpy(dtype=str),
        labels=rows["label"].to_numpy(dtype=np.int8),
        slides=rows["slide"].to_numpy(dtype=str),
        groups=rows["patient"].to_numpy(dtype=str),
        pixels=pixels,
    )
    of_test = (rows["part"] == "test").to_numpy()
    if of_test.all():
        raise DataError("holds a test part alone, which is not trained on", where=root, remedy="Add a part train.")
    test = everything.take(of_test) if of_test.any() else None
    sample_ids = np.array([], dtype=str) if test is None else test.ids
    patients = bool((everything.groups != "").any())
    training = everything.take(~of_test)
    told = _in_words(kind, rows, label_of)
    return DataFolder(root, kind, training, test, sample_ids, findings, groups_are_patients=patients, layout=told)


def _in_words(kind: FolderKind, rows: pd.DataFrame, label_of: Mapping[str, int]) -> str:
    named = (f"{what}: {', '.join(sorted(n for n in label_of if label_of[n] == label))}" for label, what in _MEANING)
    counted = ", ".join(
        f"{len(set(rows[column]) - {''}):,} {column}s" for column in ("slide", "patient") if (rows[column] != "").any()
    )
    return f"{kind}, {'; '.join(named)}" + (f"; {counted}" if counted else "")
