"""One tree of errors; each says what is wrong, where, and what to do next, in one line.

SentinodeError
├── InputError            the user's input; the command line exits with 2
│   ├── ConfigError       a setting: unknown, misspelt or out of range
│   ├── DataError         a data folder, table, label or image
│   ├── SplitError        a split that the data cannot give
│   ├── RunError          a run folder with a missing or foreign file
│   └── SubmissionError   predictions that do not answer the sample submission
└── FailureError          the work itself failed; the command line exits with 1
    ├── StorageError      the disk is full, the folder cannot be written
    ├── DivergedError     the loss is no longer a number
    ├── WeightsError      pretrained weights that cannot be had, or do not fit
    ├── TasksError        some of many tasks failed; the others are finished
    ├── ExportError       a network that a format cannot hold, or that computes something else in it
    └── MissingExtraError an optional dependency is not installed

SentinodeWarning          a notice: the work goes on, differently from what was asked
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LONGEST_LINE: Final = 2000  # characters: a path of the longest kind may be cut, a sentence never is


def one_line(text: str) -> str:
    """Text from anywhere, fit for a terminal: on one line, of bounded length, control characters written out.

    What a table or a file name holds must neither begin a line of its own nor move the cursor, change colours or
    turn the direction of writing.
    """
    line = " ".join(text.split())
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 4 :]}"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


class SentinodeError(Exception):
    """Base of all errors; `str()` gives "where: what. Remedy." on one line."""

    exit_code = 1

    def __init__(self, what: str, *, remedy: str, where: str | Path | None = None) -> None:
        self.what, self.remedy, self.where = what, remedy, where
        place = f"{where}: " if where is not None else ""
        super().__init__(one_line(f"{place}{what.rstrip('.')}. {remedy}"))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker processes.
        return (_rebuild, (type(self), self.what, self.remedy, self.where))


def _rebuild(kind: type[SentinodeError], what: str, remedy: str, where: str | Path | None) -> SentinodeError:
    return kind(what, remedy=remedy, where=where)


class InputError(SentinodeError):
    exit_code = 2


class ConfigError(InputError): ...


class DataError(InputError): ...


class SplitError(InputError): ...


class RunError(InputError): ...


class SubmissionError(InputError): ...


class FailureError(SentinodeError):
    exit_code = 1


class StorageError(FailureError): ...


class DivergedError(FailureError): ...


class WeightsError(FailureError): ...


class TasksError(FailureError): ...


class ExportError(FailureError): ...


class MissingExtraError(FailureError): ...


class SentinodeWarning(UserWarning):
    """A notice that something was done differently from what was asked, and how."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write below `path` into a StorageError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        choose = "Free space or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Choose"
        raise StorageError(
            f"cannot write ({reason})",
            where=path,
            remedy=f"{choose} another folder; what was finished before is kept.",
        ) from error
