"""Arrays in files that are only read: HDF5 without a lock, whole, with no bytes of another file; NumPy's; records."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Int, UInt8

from sentinode.data.tfrecord import RECORDS, RecordImages
from sentinode.errors import DataError

if TYPE_CHECKING:
    import h5py

_MOST_ROWS: Final = 10_000_000  # patches of a part, of which PatchCamelyon's largest has 262,144
_LARGEST_CHUNK_BYTES: Final = 256_000_000
_LARGEST_IN_MEMORY: Final = 8_000_000_000
NUMPY: Final = (".npy", ".npz")


@contextmanager
def open_h5(file: Path, *, cache_bytes: int | None = None) -> Iterator[h5py.File]:
    """An HDF5 file to read, without a lock: it is only read, and some file systems give none.

    `cache_bytes`: how much of each dataset's unpacked chunks is kept. Raises DataError for what HDF5 refuses, also
    while the file is open.
    """
    import h5py  # here, because other data folders hold no such file and need not wait for it

    try:
        with h5py.File(file, "r", locking=False, rdcc_nbytes=cache_bytes) as h5:
            yield h5
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise h5_error(file, error) from error


def h5_error(file: Path, error: Exception) -> DataError:
    """What is wrong with an HDF5 file, after what the library said of it."""
    reason = " ".join(str(error).split())
    if not file.exists():
        return DataError("is missing", where=file, remedy="Restore the file.")
    if isinstance(error, PermissionError):
        return DataError("cannot be read (Permission denied)", where=file, remedy="Restore its permissions.")
    if "already open for write" in reason or "lock" in reason:
        return DataError(
            f"is open for writing elsewhere, or was when its program was killed ({reason})",
            where=file,
            remedy=f"Close it there; if nobody has it open: h5clear -s {file.name}",
        )
    return DataError(
        f"cannot be read as PatchCamelyon's HDF5 ({reason})", where=file, remedy="Download the file again."
    )


def dataset(h5: h5py.File, name: str, file: Path) -> h5py.Dataset:
    """A dataset whose bytes lie in the file itself; raises DataError for one that would bring in another file's."""
    import h5py

    remedy = "Give the file as it was published; h5repack writes one of its own."
    if name not in h5:
        known = ", ".join(sorted(h5)[:5]) or "nothing"
        raise DataError(f"has no dataset {name!r} (but {known})", where=file, remedy="Download the file again.")
    link = h5.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{name!r} is a link, and links are not followed", where=file, remedy=remedy)
    found = h5[name]
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{name!r} is not a dataset", where=file, remedy="Download the file again.")
    if found.is_virtual or found.external:
        raise DataError(f"{name!r} is stored in other files, which are not read", where=file, remedy=remedy)
    return found


def require_whole(found: h5py.Dataset, file: Path) -> None:
    """Raise DataError where a dataset claims more than the file holds: HDF5 makes up what was never written."""
    rows = int(found.shape[0]) if found.shape else 1
    if rows > _MOST_ROWS:
        raise DataError(
            f"claims {rows:,} rows, more than the {_MOST_ROWS:,} that are read", where=file, remedy="Split the file."
        )
    if found.chunks is None:
        there, claimed = found.id.get_storage_size(), int(found.size) * found.dtype.itemsize
    else:
        size = math.prod(found.chunks) * found.dtype.itemsize
        if size > _LARGEST_CHUNK_BYTES:
            raise DataError(
                f"has chunks of {size / 1e6:,.0f} MB, more than the {_LARGEST_CHUNK_BYTES / 1e6:,.0f} MB that are read",
                where=file,
                remedy="Write it with smaller ones: h5repack -l x:CHUNK=512x96x96x3 OLD NEW",
            )
        there = found.id.get_num_chunks()
        claimed = math.prod(-(-side // chunk) for side, chunk in zip(found.shape, found.chunks, strict=True))
    if there < claimed or not rows:
        raise DataError(
            f"{found.name.strip('/')!r} is incomplete: of {rows:,} rows {'not all' if rows else 'none'} were written",
            where=file,
            remedy="Download the file again.",
        )


class OpenArrays:
    """The array that is being read, its file left open from chunk to chunk.

    Chunks of HDF5 may be larger than ours. The last one is kept unpacked, so each is unpacked once where rows are read
    in order, and twice at most where ours ends within it.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._at: tuple[Path, str] | None = None
        self._x: h5py.Dataset | np.ndarray | RecordImages | None = None

    def read(self, file: Path, name: str, rows: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w 3"]:
        """Rows of an array, which increase; raises DataError where they cannot be read."""
        if (file, name) != self._at:
            self.close()
            if RECORDS in file.name:
                self._x = RecordImages(file)
                self._stack.callback(self._x.close)
            elif file.suffix in NUMPY:
                self._x = numpy_array(file, name)
            else:
                self._x = self._stack.enter_context(open_h5(file, cache_bytes=_LARGEST_CHUNK_BYTES))[name]
            self._at = (file, name)
        if isinstance(self._x, RecordImages):
            return self._x.at(rows)
        assert self._x is not None
        first, last = int(rows[0]), int(rows[-1])
        try:
            # A slice is read a hundred times faster than a list.
            if last - first < 2 * len(rows):
                pixels: UInt8[np.ndarray, "k h w 3"] = self._x[first : last + 1][rows - first]
            else:
                pixels = self._x[rows]
            return pixels
        except (OSError, ValueError, RuntimeError) as error:
            raise h5_error(file, error) from error

    def close(self) -> None:
        self._stack.close()
        self._at = self._x = None


def numpy_array(file: Path, name: str) -> np.ndarray:
    """An array of an .npz file, read whole, or that of an .npy file, mapped; no objects are unpacked.

    Raises DataError where it cannot be read or would take more than 8 GB.
    """
    try:
        if file.suffix == ".npy":
            return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        with np.load(file, allow_pickle=False) as arrays:
            if name not in arrays.files:
                known = ", ".join(sorted(arrays.files)[:8]) or "nothing"
                raise DataError(f"has no array {name!r} (but {known})", where=file, remedy="Name it so with np.savez.")
            size = arrays.zip.getinfo(f"{name}.npy").file_size
            if size > _LARGEST_IN_MEMORY:
                raise DataError(
                    f"{name!r} takes {size / 1e9:,.0f} GB of memory, more than {_LARGEST_IN_MEMORY / 1e9:g} GB",
                    where=file,
                    remedy=f"Save it with np.save as {name}.npy, which is read row by row.",
                )
            return np.asarray(arrays[name])
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"cannot be read as NumPy's ({reason})", where=file, remedy="Save it with np.save or np.savez."
        ) from error
