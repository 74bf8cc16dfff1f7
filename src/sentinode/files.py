"""Files that are read whole: ordinary ones, of a size that is known before a byte is read; also of a zip file."""

from __future__ import annotations

import os
import stat
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Final

from sentinode.errors import DataError, InputError, RunError

ZIP: Final = ".zip"
DATA_FILES: Final = (".csv", ".tsv", ".parquet", ".npy", ".npz", ZIP)
"""The endings of files that hold labelled patches, or name them."""
EXPORTED: Final = ".onnx"
"""The ending of a model in one file."""
_MOST_MEMBERS: Final = 2_000_000

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def refuse_exported(path: Path) -> None:
    """Raise RunError for a model in one file, where what a run's folder alone holds is needed."""
    if path.suffix.lower() == EXPORTED and path.is_file():
        raise RunError(
            "is an exported model, and this needs the run that it was made from",
            where=path,
            remedy="Give the folder of that run or study. `predict` and `sentinode.load` take exported models.",
        )


def read_bytes(path: Path, *, limit_mb: float, remedy: str, kind: type[InputError] = DataError) -> bytes:
    """The content of an ordinary file of at most `limit_mb`; raises `kind` for any other, before it is read.

    Opening never waits, so that a pipe nobody writes to is refused like a device without an end. A path may lead into a
    zip file: "data.zip/train_labels.csv".
    """
    archive = next((parent for parent in path.parents if parent.suffix.lower() == ZIP and parent.is_file()), None)
    if archive is not None:
        with open_zip(archive) as opened:
            return read_member(opened, path.relative_to(archive).as_posix(), limit_mb=limit_mb)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                what = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
                raise kind(f"is {what}, not a file", where=path, remedy=remedy)
            if found.st_size > limit_mb * 1e6:
                raise kind(
                    f"has {found.st_size / 1e6:,.0f} MB, more than the {limit_mb:,g} MB that are read",
                    where=path,
                    remedy=remedy,
                )
            return file.read(found.st_size + 1)  # not more, should it grow meanwhile
    except FileNotFoundError as error:
        raise kind("is missing", where=path, remedy=remedy) from error
    except IsADirectoryError as error:
        raise kind("is a directory, not a file", where=path, remedy=remedy) from error
    except UnicodeEncodeError as error:
        raise kind(f"cannot be opened: {needs_utf8()}", where=path, remedy="Set PYTHONUTF8=1.") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise kind(f"cannot be read ({reason})", where=path, remedy=remedy) from error


def as_file_name(text: str) -> str:
    """A name from a table, which is UTF-8, as directories give it here: in a locale of ASCII, as bytes in letters."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def needs_utf8() -> str:
    """Why a name of UTF-8 cannot be used as it is where the locale of this process is another."""
    return f"its name is UTF-8, and the locale of this process is not ({sys.getfilesystemencoding()})"


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip file to read; raises DataError for what is none, or lists more than two million files."""
    try:
        opened = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"cannot be read as a zip file ({error})", where=path, remedy="Download it again.") from error
    if len(opened.infolist()) > _MOST_MEMBERS:
        opened.close()
        raise DataError(
            f"lists more than the {_MOST_MEMBERS:,} files that are read", where=path, remedy="Give a folder."
        )
    return opened


def read_member(opened: zipfile.ZipFile, name: str, *, limit_mb: float) -> bytes:
    """The content of a file of at most `limit_mb` in a zip file; several threads may read one. Raises DataError."""
    where = f"{opened.filename}/{name}"
    try:
        with opened.open(name) as file:
            content = file.read(int(limit_mb * 1e6) + 1)  # what a header says of the size may be wrong
    except KeyError as error:
        raise DataError("is missing", where=where, remedy="Give the whole zip file.") from error
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"cannot be unzipped ({error})", where=where, remedy="Download the zip file again.") from error
    if len(content) > limit_mb * 1e6:
        raise DataError(
            f"has more than the {limit_mb:,g} MB that are read", where=where, remedy="Remove it from the zip file."
        )
    return content
