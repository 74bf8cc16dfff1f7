"""Decode every patch once into one uint8 memory map, (N, 96, 96, 3), that later steps share.

A cache is a folder named after the content of its listing:

    <key>/pixels.u8       N * 27,648 bytes, no header
    <key>/journal.jsonl   a line for each chunk that is on the disk: its number, its sum, what was unreadable
    <key>/manifest.json   written last; without it the cache is unfinished and the next call resumes it
    <key>.lock            held while building, so that a second process waits for the first
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import current_process
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock, Timeout

from sentinode.data.artefacts import write_json
from sentinode.data.images import PATCH_BYTES, PATCH_SIZE_PX
from sentinode.data.listing import Listing
from sentinode.data.packing import pack_chunks, sum_of_pixels
from sentinode.data.patches import PatchSet
from sentinode.errors import DataError, storage_errors

Progress = Callable[[int, int], None]
_CHUNK: Final = 512  # patches: 14 MB, small enough to resume finely, large enough to cost nothing


@dataclass(frozen=True)
class Unreadable:
    """A patch whose image could not be decoded, and why."""

    id: str
    reason: str


def cache_key(listing: Listing) -> str:
    """A digest of the listing's ids and of its files' names, sizes and times of change."""
    digest = hashlib.sha256("\n".join(listing.ids.tolist()).encode())
    digest.update(listing.pixels.fingerprint().encode())
    return digest.hexdigest()[:20]


def pack(
    listing: Listing,
    cache_root: Path,
    *,
    workers: int = 2,
    on_progress: Progress | None = None,
    on_wait: Callable[[], None] | None = None,
) -> tuple[PatchSet, list[Unreadable]]:
    """The listing's patches from their cache, which is built, or finished, where need be.

    Images that cannot be read are left out of the PatchSet and listed beside it; all are tried. Raises
    DataError where none can be read, StorageError where the cache cannot be written.
    """
    folder = cache_root / cache_key(listing)
    manifest = _read_manifest(folder, len(listing))
    if manifest is None:
        with _building(folder, on_wait):
            manifest = _read_manifest(folder, len(listing)) or _build(listing, folder, workers, on_progress)
    unreadable = [Unreadable(**entry) for entry in manifest["unreadable"]]
    if unreadable:
        listing = listing.take(~np.isin(listing.ids, [entry.id for entry in unreadable]))
    if not len(listing):
        raise DataError(
            f"none of the {len(unreadable)} images can be used (first: {unreadable[0].reason})",
            remedy="Give 96 x 96 patches with 8-bit RGB.",
        )
    with storage_errors(folder):
        pixels = np.memmap(folder / "pixels.u8", np.uint8, "r", shape=_shape(len(listing)))
    return (
        PatchSet(listing.ids, listing.labels, listing.slides, listing.groups, np.asarray(pixels)),
        unreadable,
    )


@contextmanager
def _building(folder: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if getattr(current_process(), "_inheriting", False):
                # A script without `if __name__ == "__main__"`, run again by our own worker: both would wait for ever.
                raise RuntimeError("a worker process was started from a script that it runs again") from None
            if on_wait:
                on_wait()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(listing: Listing, folder: Path, workers: int, on_progress: Progress | None) -> dict[str, Any]:
    path = folder / "pixels.u8"
    with storage_errors(folder):
        _allocate(path, len(listing))
        done = _verified_journal(folder / "journal.jsonl", path)
    chunks = {
        number: range(start, min(start + _CHUNK, len(listing)))
        for number, start in enumerate(range(0, len(listing), _CHUNK))
    }
    packed = sum(len(rows) for number, rows in chunks.items() if number in done)
    missing = [(number, rows) for number, rows in chunks.items() if number not in done]
    if on_progress:
        on_progress(packed, len(listing))
    with (
        storage_errors(folder),
        path.open("r+b") as pixels,
        (folder / "journal.jsonl").open("a", encoding="utf-8") as journal,
        closing(pack_chunks(listing.pixels, missing, path, workers=workers)) as finished,
    ):
        for some in finished:
            # The workers read on meanwhile, so the disk is never idle; and what the journal names has arrived.
            os.fsync(pixels.fileno())
            for chunk in some:
                unreadable = [{"id": str(listing.ids[row]), "reason": reason} for row, reason in chunk.unreadable]
                entry = {"chunk": chunk.number, "sum": chunk.sum, "unreadable": unreadable}
                journal.write(json.dumps(entry) + "\n")
                done[chunk.number] = unreadable
                packed += len(chunks[chunk.number])
            journal.flush()
            if on_progress:
                on_progress(packed, len(listing))
    unreadable = [entry for number in sorted(done) for entry in done[number]]
    with storage_errors(folder):
        if unreadable:
            _close_gaps(folder, ~np.isin(listing.ids, [entry["id"] for entry in unreadable]))
        manifest = {"patches": len(listing), "unreadable": unreadable}
        write_json(folder / "manifest.json", manifest)
        (folder / "journal.jsonl").unlink()
    return manifest


def _close_gaps(folder: Path, readable: np.ndarray) -> None:
    """Move the readable rows together and shorten the file, a chunk in memory at a time."""
    # The rows move, so the journal's sums no longer hold: if we are killed here, the next build starts anew.
    (folder / "journal.jsonl").write_text("", encoding="utf-8")
    pixels = np.memmap(folder / "pixels.u8", np.uint8, "r+", shape=_shape(len(readable)))
    rows = np.flatnonzero(readable)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        pixels[start : start + len(chunk)] = pixels[chunk]
    pixels.flush()
    del pixels  # Windows shortens no file that is mapped
    os.truncate(folder / "pixels.u8", len(rows) * PATCH_BYTES)


def _allocate(path: Path, count: int) -> None:
    """Make the file of all pixels, its disk blocks reserved: a full disk fails here, cleanly."""
    size = count * PATCH_BYTES
    free = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.exists() else 0)
    if free < size:
        raise OSError(28, f"No space left on device: {size / 1e6:,.0f} MB wanted, {free / 1e6:,.0f} MB free", path)
    with path.open("r+b" if path.exists() else "w+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)


def _verified_journal(path: Path, pixels_path: Path) -> dict[int, list[dict[str, str]]]:
    """Finished chunks of an earlier, interrupted build whose pixels still have the sum noted for them."""
    done: dict[int, list[dict[str, str]]] = {}
    if not path.exists():
        return done
    pixels = np.memmap(pixels_path, np.uint8, "r").reshape(-1, *_shape(1)[1:])
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            start = entry["chunk"] * _CHUNK
            if sum_of_pixels(pixels[start : start + _CHUNK]) == entry["sum"]:
                done[entry["chunk"]] = entry["unreadable"]
        except (ValueError, KeyError):
            continue  # the line that was being written when the process was killed
    with path.open("a", encoding="utf-8") as journal:
        journal.write("\n")  # closes such a line
    return done


def _read_manifest(folder: Path, count: int) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        kept = count - len(manifest["unreadable"])
        complete = manifest["patches"] == count and (folder / "pixels.u8").stat().st_size == kept * PATCH_BYTES
    except (OSError, ValueError, KeyError):
        return None
    return manifest if complete else None


def _shape(count: int) -> tuple[int, int, int, int]:
    return (count, PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
