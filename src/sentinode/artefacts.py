"""Files that are complete or absent, and folders that one process at a time writes.

A file is written under a temporary name beside it, `.NAME.XXXXXXXX.part`, brought to the disk, and renamed. A command
claims its folder (or file) before it works, and holds it until it is done: a lock of the operating system's, which ends
with the process however that ends, so no dead process is ever in the way. What a killed one left half written is
removed by the next that claims the folder; of a folder within it that another process claimed, by the next that claims
that one. Whatever is finished, is sealed: nothing is claimed in it.
"""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import re
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import IO, Any, Final

from filelock import BaseFileLock, FileLock, Timeout

from sentinode.errors import RunError, SentinodeWarning, StorageError, storage_errors

RUN_SEAL: Final = "manifest.json"
"""A run's last file; without it the run is unfinished."""
STUDY_SEAL: Final = "study.json"
"""A study's last record; only pages are drawn after it."""
STUDY_BEGUN: Final = "study.toml"
"""A study's first file: every setting."""
_LOCK: Final = ".lock"
_HOLDER: Final = ".holder"  # behind the lock's name: who holds it, for others to read
_PART: Final = ".part"
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP)
_NO_UNICODE: Final = re.compile("[\ud800-\udfff]")  # in a string of JSON its spelling needs a backslash more
_LONGEST_COMMAND: Final = 120


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file, then put it at `path` in one step; raises StorageError."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def put_first(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` save a file, and put it at `path`, unless another process was first; raises StorageError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_PART}")  # in containers processes share numbers
    with storage_errors(path):
        try:
            write(draft)
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        except OSError:  # of a file system without links
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Save as UTF-8; what of a file name is no Unicode is spelled out, such as "K\\udcf6ln"."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Save plain JSON types; a number that is not finite, for JSON has no word for it, is null."""
    text = json.dumps(null_for_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, _NO_UNICODE.sub(lambda found: f"\\\\u{ord(found[0]):x}", text) + "\n")


def null_for_nan(content: Any) -> Any:
    match content:
        case float() if not math.isfinite(content):
            return None
        case dict():
            return {key: null_for_nan(value) for key, value in content.items()}
        case list() | tuple():
            return [null_for_nan(value) for value in content]
        case _:
            return content


@contextmanager
def claim(folder: Path, *, begun: str | None = None, replaces: Collection[str] = ()) -> Iterator[None]:
    """Hold a folder for results, alone, until the block ends; it is made where it is not there.

    In it may lie: nothing; or what can be gone on with, which the file named `begun` tells; or nothing but `replaces`,
    the names of what the same command writes. The same thread may claim it again within. A folder that was made and
    stayed empty is taken away. Raises RunError, in one line, where another process holds the folder, where something
    else lies in it, where it is finished or lies in what is; StorageError where it cannot be written.
    """
    refuse_full(folder, begun, replaces)
    made = list(takewhile(lambda path: not path.exists(), [folder, *folder.parents]))
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(folder / _LOCK, folder):
            refuse_full(folder, begun, replaces)  # by whoever held it until now
            _sweep(_parts_below(folder))
            yield
    finally:
        with suppress(OSError):  # not empty: as it should be
            for path in made:
                path.rmdir()


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder, alone, whatever of a command's own lies in it, until the block ends; raises as `claim`."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / _LOCK, folder):
        _sweep(_parts_below(folder))
        yield


@contextmanager
def claim_file(path: Path, *, of_finished: bool = False) -> Iterator[None]:
    """Hold a file that is to be written, or a folder that is put there in one step, alone, until the block ends.

    The folder around it is made. Raises RunError where another process holds it or where it lies in what is finished
    (but not with `of_finished`, for the pages of that), StorageError where nothing can be written beside it.
    """
    if not of_finished:
        refuse_sealed(path.parent)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.with_name(f".{path.name}{_LOCK}"), path):
        _sweep(path.parent.glob(f".{glob.escape(path.name)}.*{_PART}"))
        yield


@contextmanager
def passing_folder(parent: Path) -> Iterator[Path]:
    """A new folder below `parent` that only this process writes, and only this user reads; at the end it is removed.

    So is what killed processes left there. Raises StorageError.
    """
    with storage_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        left = [path for path in parent.iterdir() if path.is_dir()]
    for path in left:
        with suppress(RunError, StorageError), claim_file(path):  # not while its process lives
            shutil.rmtree(path, ignore_errors=True)
    place = parent / f"{os.getpid()}-{secrets.token_hex(8)}"
    with claim_file(place):
        try:
            with storage_errors(place):
                place.mkdir(mode=0o700)
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def tidy_finished(folder: Path) -> None:
    """Take away what a process left that was killed between the last file of a folder and letting go of it."""
    if (folder / _LOCK).exists():
        with suppress(RunError, StorageError), _alone(folder / _LOCK, folder):
            _sweep(_parts_below(folder))


def refuse_full(folder: Path, begun: str | None = None, replaces: Collection[str] = ()) -> None:
    """Raise RunError where `claim` would find what it does not write over; the folder need not be there."""
    refuse_sealed(folder)
    if folder.exists() and not folder.is_dir():
        raise RunError("is a file, not a directory", where=folder, remedy="Choose another folder.")
    with storage_errors(folder):
        found = {path.name for path in folder.iterdir() if not _is_passing(path)} if folder.exists() else set()
    if found and begun not in found and not found <= set(replaces):
        lacks = f" and contains no {begun}" if begun else ""
        raise RunError(f"is not empty{lacks}", where=folder, remedy="Choose a new or empty folder.")


def refuse_sealed(folder: Path) -> None:
    """Raise RunError where the folder is a finished run's or study's, or lies in one: nothing is written there."""
    for path in (place := folder.resolve(), *place.parents):
        kind = "run" if _seals_a_run(path / RUN_SEAL) else "study" if _seals_a_study(path / STUDY_SEAL) else None
        if kind:
            here = f"is not empty: it contains a finished {kind}"
            found = here if path == place else f"lies in the finished {kind} {path}"
            raise RunError(f"{found}, which is never changed", where=folder, remedy="Choose another place.")


def _seals_a_run(manifest: Path) -> bool:
    """Other programs have manifests, too."""
    try:
        return b'"sentinode_run"' in manifest.read_bytes()
    except OSError:
        return False


def _seals_a_study(record: Path) -> bool:
    return record.is_file() and record.with_name(STUDY_BEGUN).is_file()


@contextmanager
def _alone(lock_path: Path, target: Path) -> Iterator[None]:
    """Hold the lock at `lock_path`, which guards `target`; where the file system has no locks, say so and go on."""
    # One object for each path and thread, so a claim within a claim counts as one.
    lock = FileLock(lock_path.resolve(), is_singleton=True)
    holder, within = lock_path.with_name(lock_path.name + _HOLDER), lock.is_locked
    with storage_errors(target):
        _acquire(lock, holder, target)
    try:
        if not within:
            with storage_errors(target):
                holder.write_text(json.dumps(_this_process()), encoding="utf-8")
        yield
    finally:
        if not within:
            # Removed while they are held: whoever opened the lock meanwhile sees that it has lost its name.
            with suppress(OSError):
                holder.unlink(missing_ok=True)
                lock_path.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: BaseFileLock, holder: Path, target: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock's own, where it makes do without the system's locks
            lock.acquire(timeout=0)
    except Timeout:
        raise RunError(_who_holds(holder), where=target, remedy="Wait for it, or choose another place.") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        told = f"{target}: the file system has no locks ({error.strerror}): do not let another command write there"
        warnings.warn(told, SentinodeWarning, stacklevel=2)


def _this_process() -> dict[str, str | int]:
    program, *arguments = sys.argv or [sys.executable]
    now = datetime.now().astimezone()
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": now.isoformat(timespec="minutes"),
        "command": shlex.join([Path(program).name, *arguments]),
    }


def _who_holds(holder: Path) -> str:
    """In words, as far as it is known: the lock is taken a moment before its holder writes who it is."""
    try:
        known = json.loads(holder.read_text(encoding="utf-8"))
        since = datetime.fromisoformat(known["since"])
        day = "" if since.date() == datetime.now(since.tzinfo).date() else f"{since:%Y-%m-%d} "
        return (
            f"is being written by process {known['pid']} on {known['host']} since {day}{since:%H:%M} "
            f"({known['command'][:_LONGEST_COMMAND]})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "is being written by another process"


def _is_passing(path: Path) -> bool:
    """Whether it is a lock, who holds it, or what a killed process left half written."""
    return path.name in (_LOCK, _LOCK + _HOLDER) or (path.name.startswith(".") and path.name.endswith(_PART))


def _parts_below(folder: Path) -> Iterator[Path]:
    """What is half written in a folder, but not in folders in it that are held, or were: who holds these sees to it."""
    for path in list(folder.iterdir()):
        if path.name.startswith(".") and path.name.endswith(_PART):
            yield path
        elif path.is_dir() and not path.is_symlink() and not (path / _LOCK).exists():
            yield from _parts_below(path)


def _sweep(leftovers: Iterable[Path]) -> None:
    for path in list(leftovers):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
