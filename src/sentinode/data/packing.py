"""Chunks of a listing -> rows of the file of pixels: in threads, or in processes where Pillow has much to decode.

The competition's plain TIFFs need hardly any Python, so threads keep the disk busy, and start at once. Pillow
decodes in one thread at a time; where that pays for the start of new processes, each gets a core of its own.
Either way a worker reads a chunk, sums it up, and writes it where it belongs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import FileIO
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sentinode.data.hdf5 import OpenArrays
from sentinode.data.images import (
    PATCH_BYTES,
    PATCH_SIZE_PX,
    centre_of,
    decode_bytes,
    decode_with_pillow,
    plain_parts,
    read_plain_into,
    require_size,
    silence_decoders,
)
from sentinode.data.listing import PatchArrays, PatchFiles
from sentinode.errors import DataError, FailureError, SentinodeWarning
from sentinode.files import open_zip, read_member

_BLOCK: Final = 32  # patches read before they are written: 0.9 MB, which a core's own cache holds
_WAITING_READERS_PER_WORKER: Final = 4  # threads, where they wait for the disk; on files in memory they only jostle
_SAMPLE: Final = 64  # files that are read to tell how many Pillow must decode, and whether they come from the disk
_PROCESSES_FROM: Final = 4000  # images for Pillow: fewer are decoded before new processes have started
_LARGEST_MB: Final = 100  # of an image in a zip file
_PARTS_OF_SUM: Final = 8  # sums a patch: 3,456 bytes each, less than a page of memory

Pixels = UInt8[np.ndarray, "n 96 96 3"]


@dataclass(frozen=True)
class PackedChunk:
    """A chunk whose pixels were written: their sum, and which rows of the listing could not be read, and why."""

    number: int
    sum: int
    unreadable: tuple[tuple[int, str], ...]


def sum_of_pixels(pixels: Pixels, before: int = 0) -> int:
    """A sum that tells whether pixels arrived on the disk; `before` is that of the pixels in front of them.

    The CRC-32 of the plain sums of each 3,456 bytes: it sees a page that is missing, old or misplaced, for a
    third of the time that a CRC-32 of every byte takes.
    """
    words = pixels.reshape(len(pixels) * _PARTS_OF_SUM, -1).view(np.uint64)
    return zlib.crc32(words.sum(axis=1), before)


def pack_chunks(
    pixels: PatchFiles | PatchArrays, chunks: Sequence[tuple[int, range]], path: Path, *, workers: int
) -> Generator[list[PackedChunk], None, None]:
    """Write the rows of each numbered chunk into the file at `path`; yields all that are finished by now, in any order.

    Whoever leaves early waits for the chunks that were begun, and for no others. Raises OSError where the
    file cannot be written, FailureError where a worker process was killed.
    """
    pool = _pool(pixels, chunks, workers)
    open_file = _left_open(pixels)
    try:
        tasks = {
            pool.submit(_pack_chunk, number, rows.start, pixels.take(np.arange(rows.start, rows.stop)), path, open_file)
            for number, rows in chunks
        }
        while tasks:
            done, tasks = wait_for(tasks, return_when=FIRST_COMPLETED)
            yield [task.result() for task in done]
    except BrokenProcessPool as error:
        raise FailureError(
            "a process that decoded images was ended from outside",
            where=path.parent,
            remedy="Free memory and repeat the command, or decode in one process with --workers 1.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if open_file is not None:
            open_file.close()


def _left_open(pixels: PatchFiles | PatchArrays) -> OpenArrays | ZipFile | None:
    """What all chunks are read from: arrays or a zip file; None where each patch has a file of its own."""
    if isinstance(pixels, PatchArrays):
        return OpenArrays()
    return open_zip(pixels.folder) if pixels.folder.is_file() else None


# --- who works --------------------------------------------------------------------------------------


def _pool(pixels: PatchFiles | PatchArrays, chunks: Sequence[tuple[int, range]], workers: int) -> Executor:
    match pixels:
        case PatchFiles() if pixels.folder.is_file():
            return ThreadPoolExecutor(workers)
        case PatchFiles():
            images_for_pillow, from_disk = _look_at(pixels, chunks)
            if workers > 1 and images_for_pillow >= _PROCESSES_FROM:
                return _processes(min(workers, len(chunks))) or ThreadPoolExecutor(workers)
            return ThreadPoolExecutor(max(1, workers) * (_WAITING_READERS_PER_WORKER if from_disk else 1))
        case PatchArrays():
            return ThreadPoolExecutor(1)  # in order; and HDF5 lets one thread work at a time anyway


def _processes(workers: int) -> Executor | None:
    """So many processes, ready to work, or None where they cannot start."""
    # Fresh processes: a fork of a process that runs PyTorch's threads can hang.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_live_with_parent)
    try:
        for ready in [pool.submit(os.getpid) for _ in range(workers)]:
            ready.result()
    except BrokenProcessPool:
        warnings.warn(
            "pack: worker processes could not start, so images are decoded in one process. Is there memory for more? "
            "A script calls sentinode below `if __name__ == '__main__':`.",
            SentinodeWarning,
            stacklevel=2,
        )
        return None
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    return pool


def _look_at(files: PatchFiles, chunks: Sequence[tuple[int, range]]) -> tuple[int, bool]:
    """By a sample of the files: about how many are no plain TIFFs, and whether reading mostly waits for the disk."""
    rows = np.concatenate([np.arange(rows.start, rows.stop) for _, rows in chunks] or [np.arange(0)])
    if len(rows) < _PROCESSES_FROM:
        return 0, False
    sample = rows[np.linspace(0, len(rows) - 1, _SAMPLE).astype(int)]
    parts = plain_parts(np.empty((PATCH_SIZE_PX, PATCH_SIZE_PX, 3), np.uint8))
    others = 0
    began, worked = time.perf_counter(), time.thread_time()
    for name in files.take(sample).names:
        try:
            others += not read_plain_into(_prefix(files) + name, parts, set())
        except DataError:  # its own chunk will list it
            continue
    worked, took = time.thread_time() - worked, time.perf_counter() - began
    return others * len(rows) // len(sample), took > 2 * worked


def _live_with_parent() -> None:
    """Leave Ctrl-C and what there is to say to the parent process, and end with it, even where it was killed."""
    silence_decoders()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


# --- one chunk --------------------------------------------------------------------------------------


def _pack_chunk(
    number: int, first: int, pixels: PatchFiles | PatchArrays, path: Path, open_file: OpenArrays | ZipFile | None
) -> PackedChunk:
    with FileIO(path, "r+") as out:
        out.seek(first * PATCH_BYTES)
        match pixels, open_file:
            case PatchArrays(), OpenArrays():
                return _pack_arrays(number, first, pixels, open_file, out)
            case PatchFiles(), ZipFile() | None:
                return _pack_files(number, first, pixels, open_file, out)
            case _:
                raise TypeError(pixels)


def _pack_files(number: int, first: int, files: PatchFiles, archive: ZipFile | None, out: FileIO) -> PackedChunk:
    block = np.empty((_BLOCK, PATCH_SIZE_PX, PATCH_SIZE_PX, 3), np.uint8)
    places = [(plain_parts(patch), patch) for patch in block]
    prefix, known_headers, total = _prefix(files), set[bytes](), 0
    unreadable: list[tuple[int, str]] = []
    for start in range(0, len(files), _BLOCK):
        names = files.names[start : start + _BLOCK]
        for row, (name, (parts, patch)) in enumerate(zip(names, places, strict=False), first + start):
            try:
                if archive is not None:
                    content = read_member(archive, name, limit_mb=_LARGEST_MB)
                    patch[...] = decode_bytes(content, Path(prefix + name), files.spacing)
                elif files.spacing is not None or not read_plain_into(prefix + name, parts, known_headers):
                    patch[...] = decode_with_pillow(Path(prefix + name), files.spacing)
            except DataError as error:
                patch[...] = 0
                unreadable.append((row, f"{error.where}: {error.what}"))
        total = sum_of_pixels(block[: len(names)], total)
        _write(out, block[: len(names)])
    return PackedChunk(number, total, tuple(unreadable))


def _prefix(files: PatchFiles) -> str:
    return f"{files.folder}{os.sep}"  # a Path for each file takes longer than reading it


def _pack_arrays(number: int, first: int, arrays: PatchArrays, open_file: OpenArrays, out: FileIO) -> PackedChunk:
    pixels = np.zeros((len(arrays), PATCH_SIZE_PX, PATCH_SIZE_PX, 3), np.uint8)
    unreadable: list[tuple[int, str]] = []
    for file in np.unique(arrays.file_of).tolist():
        here = np.flatnonzero(arrays.file_of == file)
        here = here[np.argsort(arrays.row_of[here])]  # HDF5 reads increasing rows only
        try:
            pixels[here] = _read_rows(arrays, file, here, open_file)
        except DataError:
            for row in here:  # one by one, for damage is of some
                try:
                    pixels[row] = _read_rows(arrays, file, np.array([row]), open_file)[0]
                except DataError as error:
                    unreadable.append((first + int(row), f"{error.where}: row {arrays.row_of[row]} {error.what}"))
    _write(out, pixels)
    return PackedChunk(number, sum_of_pixels(pixels), tuple(sorted(unreadable)))


def _read_rows(arrays: PatchArrays, file: int, rows: np.ndarray, open_file: OpenArrays) -> Pixels:
    found = open_file.read(arrays.files[file], arrays.names[file], arrays.row_of[rows])
    require_size((found.shape[2], found.shape[1]), arrays.files[file], arrays.spacing)
    if arrays.spacing is None:
        return found
    return np.stack([centre_of(Image.fromarray(np.asarray(image)), arrays.spacing) for image in found])


def _write(out: FileIO, pixels: Pixels) -> None:
    rest = pixels.reshape(-1).data
    while rest:  # a nearly full disk takes a part of it first
        rest = rest[out.write(rest) :]
