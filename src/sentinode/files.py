"""Files that are read whole: ordinary ones, of a size that is known before a byte is read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from sentinode.errors import DataError, InputError

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_bytes(path: Path, *, limit_mb: float, remedy: str, kind: type[InputError] = DataError) -> bytes:
    """The content of an ordinary file of at most `limit_mb`; raises `kind` for any other, before it is read.

    Opening never waits, so that a pipe nobody writes to is refused like a device without an end.
    """
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
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise kind(f"cannot be read ({reason})", where=path, remedy=remedy) from error
