"""Open data of any layout, join slides and groups by id, refuse what nobody left out, and pack it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sentinode.config.run import DataConfig, Omission
from sentinode.data.cache import Unreadable, pack, pack_some
from sentinode.data.competition import (
    LABELS_TABLE,
    SAMPLE,
    folders_with_images,
    is_competition_folder,
    list_images,
    listing_of_files,
    no_images_in,
    note_of,
    read_competition,
    read_sample_ids,
)
from sentinode.data.images import SUFFIXES
from sentinode.data.layouts import Layout, layout_of, read_layout
from sentinode.data.listing import DataFolder, Finding, Listing
from sentinode.data.patches import UNLABELLED, PatchSet
from sentinode.data.pcam import is_pcam_folder, present_parts, read_parts, read_pcam
from sentinode.data.tables import (
    GROUP_COLUMNS,
    PATIENT_COLUMNS,
    SLIDE_COLUMNS,
    read_column_by_id,
    read_named_column,
    table_at,
)
from sentinode.errors import DataError
from sentinode.files import DATA_FILES
from sentinode.progress import of_step
from sentinode.session import Session


def read_folder(root: Path, config: DataConfig | None = None) -> DataFolder:
    """Read labelled patches of any layout that `require_data_folder` knows, with every finding kept."""
    config = config or DataConfig()
    match require_data_folder(root):
        case "PatchCamelyon":
            folder = read_pcam(root)
        case "competition":
            folder = read_competition(root, config.spacing_um_per_px)
        case _:
            folder = read_layout(root, config)
    slides = _table(config.slides or table_at(root / "slides.csv"), SLIDE_COLUMNS)
    groups_path = config.groups or table_at(root / "groups.csv")
    column, groups = ("", None) if groups_path is None else read_named_column(groups_path, GROUP_COLUMNS)
    findings = list(folder.findings)
    for table, name in ((slides, "slides"), (groups, "groups")):
        if table is not None and not any(i in table for i in folder.training.ids.tolist()):
            findings.append(Finding("table", f"rows of the {name} table, none of a training patch", len(table), ()))
    return replace(
        folder,
        training=folder.training.with_tables(slides=slides, groups=groups),
        test=folder.test and folder.test.with_tables(slides=slides, groups=groups),
        findings=tuple(findings),
        groups_are_patients=column.strip().casefold() in PATIENT_COLUMNS if column else folder.groups_are_patients,
    )


def require_data_folder(root: Path) -> Literal["competition", "PatchCamelyon"] | Layout:
    """What the names in a folder, or a file's ending, say that it is; raises DataError for what holds no patches."""
    if is_pcam_folder(root):
        return "PatchCamelyon"
    layout = layout_of(root)
    if is_competition_folder(root) and (layout is None or (root / LABELS_TABLE).is_file()):
        return "competition"
    if layout is None:
        raise (
            _other_layout(root)
            if root.is_dir()
            else DataError(
                "is not a directory",
                where=root,
                remedy=f"Give a folder of patches, or a file ({', '.join(DATA_FILES)}).",
            )
        )
    return layout


def _other_layout(root: Path) -> DataError:
    """What to say of a folder of neither kind: what it holds instead, and what to do."""
    inner = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    within = next((path for path in inner[:100] if is_competition_folder(path) or is_pcam_folder(path)), None)
    if within is not None:
        return DataError(f"is not a data folder, but contains one: {within.name}/", where=root, remedy=f"Give {within}")
    if folders_with_images(root):
        return no_images_in(root)
    images = list_images(root, []) if any(path.name.lower().endswith(SUFFIXES) for path in root.iterdir()) else {}
    if images:
        return DataError(
            f"holds {len(images):,} images itself, and no train/ beside a table of labels",
            where=root,
            remedy="Move them into a folder train/ and put train_labels.csv (id,label) beside it; `predict` takes them "
            "as they are.",
        )
    return DataError(
        "is not a competition folder (train/, train_labels.csv) and has no PatchCamelyon files "
        "(camelyonpatch_level_2_split_train_x.h5)",
        where=root,
        remedy="Give the folder that holds them, or none to use a phantom.",
    )


def open_folder(root: Path, config: DataConfig) -> tuple[DataFolder, dict[str, int]]:
    """Read a data folder for training, and count what is left out by name; raises DataError on any other finding."""
    folder = read_folder(root, config)
    left_out: dict[str, int] = {}
    for finding in folder.findings:
        example = f" (first: {finding.examples[0]})" if finding.examples else ""
        what = f"{finding.what}: {finding.count}{example}"
        match finding.kind:
            case "missing" | "unlabelled" if finding.kind in config.leave_out:
                left_out[finding.kind] = finding.count
            case "missing" | "unlabelled":
                fix = "Restore the images" if finding.kind == "missing" else "Label or remove them"
                raise DataError(what, where=root, remedy=f"{fix}, or {_how_to_leave_out(finding.kind, config)}")
            case "label" | "duplicate row" | "table":
                raise DataError(what, where=root, remedy="Fix the table; `sentinode check` lists everything.")
            case "extra file" | "sample":
                pass  # no harm to training; the submission has its own, strict check
    labels = folder.training.labels
    if np.all(labels == labels[0]):
        raise DataError(
            f"all {len(labels)} training patches have the label {labels[0]}",
            where=root,
            remedy="A classifier needs both classes; check train_labels.csv.",
        )
    return folder, left_out


@dataclass(frozen=True, eq=False)
class PackedFolder:
    """A data folder's patches with their pixels; both parts lie in one memory map, training first."""

    everything: PatchSet
    training: PatchSet
    test: PatchSet | None
    unreadable: tuple[Unreadable, ...]


def pack_folder(folder: DataFolder, session: Session, *, whole: bool = False) -> PackedFolder:
    """Pack both parts of a data folder; images that cannot be read are left out and listed.

    With `whole` all pixels that were packed before are checked, not a sample of them.
    """
    listing = folder.training if folder.test is None else folder.training.followed_by(folder.test)
    everything, unreadable = pack(
        listing,
        session.cache_root,
        workers=session.workers,
        whole=whole,
        on_progress=of_step(session.progress, "pack"),
        on_wait=_waiting(session),
    )
    # Row numbers, not ids, tell the parts apart: one patch may stand in both under one id.
    split_at = len(folder.training) - sum(entry.row < len(folder.training) for entry in unreadable)
    test = everything.part(slice(split_at, None)) if folder.test is not None else None
    return PackedFolder(everything, everything.part(slice(0, split_at)), test, tuple(unreadable))


def require_readable(packed: PackedFolder, config: DataConfig) -> dict[str, int]:
    """Raise DataError where images are unreadable, unless they are left out by name; then they are counted."""
    count = len(packed.unreadable)
    if not count:
        return {}
    if "unreadable" in config.leave_out:
        return {"unreadable": count}
    total = len(packed.everything) + count
    raise DataError(
        f"images that cannot be used: {count} of {total} (first: {packed.unreadable[0].reason.rstrip('.')})",
        remedy=f"Restore them, or {_how_to_leave_out('unreadable', config)}",
    )


@dataclass(frozen=True, eq=False)
class Images:
    """Any folder of patches, whatever else is known of them.

    `sample_ids`: the ids that its sample submission asks for, in order (empty: none); `note`: as of a DataFolder.
    """

    listing: Listing
    sample_ids: np.ndarray
    note: str


def read_images(root: Path, *, part: Literal["test", "all"], config: DataConfig | None = None) -> Images:
    """List the patches of a data folder's test part, or all of them; of a folder without parts, those in it.

    Data without a test part are listed whole. Of a competition folder nothing but images and tables of slides and
    groups is read, so its patches have no labels; others have those that they come with.
    """
    config = config or DataConfig()
    layout = layout_of(root)
    if layout is None and not root.is_dir():
        raise DataError("is not a directory", where=root, remedy="Give a folder of patches.")
    sample_ids, note, parts = np.array([], dtype=str), note_of(root), list[str]()
    if is_pcam_folder(root):
        parts = _of_part(present_parts(root), part)
        listing = read_parts(root, parts, labels_needed=False)
    elif layout is not None and not (root / LABELS_TABLE).is_file():
        folder = read_layout(root, config, labels_needed=False)
        listing = folder.training if part == "all" or folder.test is None else folder.test
        if part == "all" and folder.test is not None:
            listing = listing.followed_by(folder.test)
        sample_ids = folder.sample_ids if part == "test" else sample_ids
    elif parts := _of_part([name for name in ("train", "test") if (root / name).is_dir()], part):
        found = {name: list_images(root / name, []) for name in parts}
        listing = functools.reduce(
            Listing.followed_by,
            (
                listing_of_files(
                    root, {i: f"{name}/{file}" for i, file in of.items()}, spacing=config.spacing_um_per_px
                )
                for name, of in found.items()
            ),
        )
    else:
        listing = listing_of_files(root, list_images(root, []), spacing=config.spacing_um_per_px)
        note = note or note_of(root.parent)
    if part == "test" and parts != ["train"] and table_at(root / SAMPLE):
        sample_ids = read_sample_ids(root / SAMPLE)
    slide_of = _table(config.slides or table_at(root / "slides.csv"), SLIDE_COLUMNS)
    group_of = _table(table_at(root / "groups.csv"), GROUP_COLUMNS)
    return Images(listing.with_tables(slides=slide_of, groups=group_of), sample_ids, note)


def _of_part(present: list[str], part: Literal["test", "all"]) -> list[str]:
    return ["test"] if part == "test" and "test" in present else present


def pack_all(listing: Listing, session: Session, *, rows: np.ndarray | None = None) -> PatchSet:
    """Pack patches of which none may be missing: all of a listing, or some rows of it, which adds nothing to the cache.

    Raises DataError where one cannot be read.
    """
    root, workers, told = session.cache_root, session.workers, of_step(session.progress, "pack")
    if rows is None:
        patches, unreadable = pack(listing, root, workers=workers, on_progress=told, on_wait=_waiting(session))
    else:
        patches, unreadable = pack_some(listing, rows, root, workers=workers, on_progress=told)
    if unreadable:
        raise DataError(
            f"images that cannot be used: {len(unreadable)} of {len(patches) + len(unreadable)} "
            f"(first: {unreadable[0].reason.rstrip('.')})",
            remedy="Restore or remove them.",
        )
    return patches


def read_labels(path: Path, ids: np.ndarray) -> np.ndarray:
    """Labels, 0 or 1, by id; -1 for ids that the table does not name. Raises DataError for other values."""
    table = labels_in(path)
    known = set(ids.tolist())
    absent = [i for i in table if i not in known]
    if absent:
        raise DataError(
            f"ids without an image in the data: {len(absent)} of {len(table)} (first: {absent[0]})",
            where=path,
            remedy="Give the folder that holds these patches.",
        )
    return np.array([table.get(i, UNLABELLED) for i in ids.tolist()], dtype=np.int8)


def labels_in(path: Path) -> dict[str, int]:
    """Labels, 0 or 1, of the ids that a table id,label names; raises DataError for other values."""
    table = read_column_by_id(path, ("label",))
    wrong = [i for i, label in table.items() if label not in ("0", "1")]
    if wrong:
        raise DataError(
            f"labels that are not 0 or 1: {len(wrong)} (first: {wrong[0]} has {table[wrong[0]] or 'none'!r})",
            where=path,
            remedy="Fix the table.",
        )
    return {i: int(label) for i, label in table.items()}


def _how_to_leave_out(kind: Omission, config: DataConfig) -> str:
    """The option that adds a kind to those left out already, quoted so that a shell leaves it alone."""
    return f'leave them out with --set "data.leave_out={[*config.leave_out, kind]}".'


def _waiting(session: Session) -> Callable[[], None]:
    return lambda: session.notify("another process is packing these patches; waiting for it")


def _table(path: Path | None, columns: tuple[str, ...]) -> dict[str, str] | None:
    return None if path is None else read_column_by_id(path, columns)
