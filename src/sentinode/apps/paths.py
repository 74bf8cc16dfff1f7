"""What a command is given, looked at before the libraries load: a path that is wrong is told within a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, Literal

from sentinode.errors import ConfigError, DataError, RunError
from sentinode.files import DATA_FILES, EXPORTED, refuse_exported

_TABLES: Final = (".csv", ".tsv", ".gz")
"""The endings of tables of predictions."""

RECORDS: Final = ("check.json", "evidence.json", "explanation.json", "scores.json", "slides.json")
"""Of results that are neither a run nor a study; written here again, for what names them takes seconds to import."""


def require_data(root: Path) -> None:
    """Raise DataError unless it holds patches and their labels, as far as names tell."""
    if not root.exists():  # before pandas is loaded to look into it
        raise DataError("is missing", where=root, remedy="Give a folder or file of labelled patches.")
    if not root.is_dir() and root.suffix.lower() not in DATA_FILES:
        remedy = f"Give a folder of patches, or a file ({', '.join(DATA_FILES)})."
        raise DataError("is not a directory", where=root, remedy=remedy)
    from sentinode.data.folder import require_data_folder

    require_data_folder(root)


def require_patches(images: Path) -> None:
    """Raise DataError unless this is a directory, of patches or of data, or a file of data."""
    if not images.exists():
        raise DataError("is missing", where=images, remedy="Give a folder of patches.")
    if not images.is_dir() and images.suffix.lower() not in DATA_FILES:
        raise DataError("is not a directory", where=images, remedy="Give a folder of patches, or a file of data.")


def what_to_compare(first: Path, given: Sequence[Path]) -> Literal["tables", "runs", "data"]:
    """What `compare` is given: tables of predictions, finished runs or a folder of them, or else data to train on.

    Raises DataError where the first is none of these. A folder of data may hold run folders beside its own: it is
    taken for a folder of runs only where it holds nothing else.
    """
    if len(given) > 1 and all(path.suffix.lower() in _TABLES for path in given):
        return "tables"
    inside = [path for path in first.iterdir() if path.is_dir()] if first.is_dir() else []
    if _holds_results(first) or (inside and all(map(_holds_results, inside))):
        return "runs"
    refuse_exported(first)
    require_data(first)
    return "data"


def require_given_runs(folders: Sequence[Path]) -> None:
    """Raise RunError unless each is a directory, as that of a run or of several."""
    for folder in folders:
        refuse_exported(folder)
        if not folder.is_dir():
            raise RunError("is not a directory", where=folder, remedy="Give the folder of a finished run.")


def require_settings_files(names: Sequence[str]) -> None:
    """Raise ConfigError for a variant that is a file of settings, and is not there."""
    for name in names:
        if name.endswith(".toml") and not Path(name).is_file():
            raise ConfigError("is missing", where=name, remedy="Give a TOML file, a preset or settings.")


def require_place(out: Path, begun: str, *, resume: bool = True) -> None:
    """Raise RunError or StorageError where results cannot go there, as `claim` will later, which holds the folder.

    A folder with the file `begun` is gone on with, if it may, or refused later, by what it holds.
    """
    from sentinode.artefacts import refuse_full
    from sentinode.errors import storage_errors

    if (out / begun).exists():
        if not resume:
            what = "a run" if begun == "config.toml" else "a study"
            raise RunError(f"already contains {what}", where=out, remedy="Add --resume, or choose another --out.")
        return
    refuse_full(out)
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    with storage_errors(out), TemporaryFile(dir=there):
        pass


def require_results(*folders: Path) -> None:
    """Raise RunError unless each folder is that of a run or study, finished or not."""
    for folder in folders:
        refuse_exported(folder)
        if not folder.is_dir():
            raise RunError("is not a directory", where=folder, remedy="Give the folder of a finished run or study.")
        if not _holds_results(folder):
            raise RunError(
                "is not a run: it has no manifest.json",
                where=folder,
                remedy="Give a folder that `train` or `study` wrote.",
            )


def require_model(path: Path) -> None:
    """Raise RunError unless it is a file, which may be an exported model, or the folder of a run or study."""
    if not path.is_file():
        require_results(path)
    elif path.suffix.lower() != EXPORTED:
        remedy = f"Give the folder of a finished run or study, or a model ({EXPORTED}) that `export` wrote."
        raise RunError("is not an exported model", where=path, remedy=remedy)


def require_something_to_draw(folder: Path) -> None:
    """Raise RunError unless a folder holds records of any kind."""
    refuse_exported(folder)
    if not folder.is_dir():
        raise RunError("is not a directory", where=folder, remedy="Give a folder of results.")
    if not (_holds_results(folder) or any((folder / name).exists() for name in RECORDS)):
        raise RunError(
            "contains no study, run or check",
            where=folder,
            remedy="Give a folder that `study`, `compare`, `tune`, `train`, `evaluate`, `explain`, `slides` or "
            "`check --out` wrote.",
        )


def require_slides(sources: Sequence[Path]) -> None:
    """Raise DataError where none of the slides is there, or a table of slides is not."""
    for path in sources:
        if path.suffix.lower() == ".csv" and not path.is_file():
            raise DataError("is missing", where=path, remedy="Give the path of a table of slides.")
    if not any(path.exists() for path in sources):
        raise DataError("is missing", where=sources[0], remedy="Give slides, directories of slides, or a table.")


def require_table(path: Path | None) -> None:
    """Raise DataError for a table that was named, alone or with its column (FILE.csv:column), and is not there."""
    if path is not None and not path.exists() and not Path(str(path).rpartition(":")[0] or path).is_file():
        raise DataError("is missing", where=path, remedy="Give the path of a table.")


def require_tables(tables: Sequence[Path], labels: Path | None, slides: Path | None) -> Path:
    """The table of labels; raises DataError unless all are there, and ConfigError where it was not given."""
    for path in tables:
        if not path.is_file():
            raise DataError("is missing", where=path, remedy="Give a table id,probability.")
    if labels is None:
        raise ConfigError("tables of predictions need --labels", remedy="Give a table id,label of the patches.")
    require_table(labels)
    require_table(slides)
    return labels


def _holds_results(folder: Path) -> bool:
    from sentinode.artefacts import RUN_SEAL, STUDY_BEGUN

    return any((folder / name).exists() for name in (RUN_SEAL, STUDY_BEGUN, "config.toml", "checkpoint"))
