"""Decode every patch once into one uint8 memory map, (N, 96, 96, 3), that later steps share.

A cache is a folder named after the content of its listing:

    <key>/pixels.u8       N * 27,648 bytes, no header; locked, shared, by whoever has it open
    <key>/manifest.json   written last; without it the cache is unfinished and the next call begins it again. Its time
                          of modification is that of its last use
    <key>.lock            held while building, so that a second process waits for the first
    torch-compiler/       what PyTorch's compiler keeps, where a command compiles its network
    materials/<key>/      tables that an engine's processes share, and pixels that lie in no other file; material.json
                          is written last, and locked, shared, by whoever has tasks of it done
    fetched/<key>/        such a folder that came from another machine, by Ray

A disk can lose what it was given. Sums of the pixels are in the manifest: they are checked, of small sets all, of large
ones a sample, whenever a cache is opened, and what is damaged is decoded again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import current_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Annotated, Final

import numpy as np
from annotated_types import Ge
from filelock import FileLock, Timeout
from jaxtyping import Int, UInt8
from pydantic import TypeAdapter, ValidationError

from sentinode.artefacts import write_json
from sentinode.data.images import PATCH_BYTES, PATCH_SIZE_PX
from sentinode.data.listing import Listing, PatchArrays, PatchFiles
from sentinode.data.packing import PackedChunk, pack_chunks, sum_of_pixels
from sentinode.data.patches import PatchSet
from sentinode.engine.on_ray import FETCHED, WHOLE
from sentinode.errors import DataError, SentinodeWarning, StorageError, storage_errors
from sentinode.progress import StepProgress

MANIFEST: Final = "manifest.json"
SUBSET: Final = "subset-"  # how folders of pixels that are not kept begin
COMPILER: Final = "torch-compiler"
MATERIALS: Final = "materials"
MATERIAL: Final = "material.json"
_PIXELS: Final = "pixels.u8"
_LIMIT_FILE: Final = "limit.json"
_CHUNK: Final = 512  # patches: 14 MB, small enough to check and to decode again, large enough to cost nothing
_CHECKED_AT_OPENING: Final = 32  # chunks: 0.45 GB, whose sums take a tenth of a second; smaller sets are checked whole


@dataclass(frozen=True)
class Unreadable:
    """A patch whose image could not be decoded: its row in the listing, its id, and why."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class CacheManifest:
    """What a finished cache holds: how many patches were listed, which are not in it, and the sum of each chunk."""

    patches: int
    unreadable: list[Unreadable]
    sums: list[int]
    source: str
    """The folder that the images lie in."""

    @property
    def kept(self) -> int:
        return self.patches - len(self.unreadable)


_MANIFEST: Final = TypeAdapter(CacheManifest)


def cache_key(listing: Listing) -> str:
    """A digest of the listing's ids and of its files' names and states."""
    digest = hashlib.sha256("\n".join(listing.ids.tolist()).encode())
    digest.update(listing.pixels.fingerprint().encode())
    return digest.hexdigest()[:20]


def pack(
    listing: Listing,
    cache_root: Path,
    *,
    workers: int = 2,
    whole: bool = False,
    on_progress: StepProgress | None = None,
    on_wait: Callable[[], None] | None = None,
) -> tuple[PatchSet, list[Unreadable]]:
    """The listing's patches from their cache, which is built where need be.

    Images that cannot be read are left out of the PatchSet and listed beside it; all are tried. With `whole` all
    pixels are checked against their sums, not a sample of them. Raises DataError where no image can be read,
    StorageError where the cache cannot be written.
    """
    folder = cache_root / cache_key(listing)
    built = False
    while (found := _open(listing, folder, workers, whole=whole)) is None:  # again, should it just be removed
        with _building(folder, on_wait):
            if read_manifest(folder, len(listing)) is None:
                _build(listing, folder, workers, on_progress)
                built = True
    if built:
        make_room(cache_root)
    return found


def pack_some(
    listing: Listing,
    rows: Int[np.ndarray, " k"],
    cache_root: Path,
    *,
    workers: int = 2,
    on_progress: StepProgress | None = None,
) -> tuple[PatchSet, list[Unreadable]]:
    """Some rows of a listing, without adding to the cache: from the whole listing's, or else decoded for this call."""
    if len(rows) < len(listing) and read_manifest(cache_root / cache_key(listing), len(listing)) is None:
        with storage_errors(cache_root):
            cache_root.mkdir(parents=True, exist_ok=True)
        # What is mapped can be removed; Windows keeps it until it is closed, and the next sweep takes it.
        with TemporaryDirectory(prefix=SUBSET, dir=cache_root, ignore_cleanup_errors=True) as place:
            return pack(listing.take(rows), Path(place), workers=workers, on_progress=on_progress)
    packed, unreadable = pack(listing, cache_root, workers=workers, on_progress=on_progress)
    at = np.full(len(listing), -1)
    at[np.setdiff1d(np.arange(len(listing)), [entry.row for entry in unreadable])] = np.arange(len(packed))
    lost = [replace(entry, row=int(place)) for place, entry in _among(unreadable, rows)]
    return packed.some(at[rows][at[rows] >= 0], cache_root), lost


def _among(unreadable: list[Unreadable], rows: Int[np.ndarray, " k"]) -> Iterator[tuple[int, Unreadable]]:
    """Those that stand among some rows, with their places there."""
    by_row = {entry.row: entry for entry in unreadable}
    return ((place, by_row[row]) for place, row in enumerate(rows.tolist()) if row in by_row)


def _open(listing: Listing, folder: Path, workers: int, *, whole: bool) -> tuple[PatchSet, list[Unreadable]] | None:
    """A finished cache, its pixels checked; None where there is none."""
    manifest = read_manifest(folder, len(listing))
    if manifest is None:
        return None
    if not manifest.kept:
        raise DataError(
            f"none of the {len(listing)} images can be used (first: {manifest.unreadable[0].reason})",
            remedy="Give 96 x 96 patches with 8-bit RGB, or the spacing of larger ones, such as --spacing 0.5.",
        )
    kept = np.setdiff1d(np.arange(len(listing)), [entry.row for entry in manifest.unreadable])
    listing = listing.take(kept) if len(kept) < len(listing) else listing
    pixels = map_pixels(folder, manifest)
    if pixels is None:
        return None
    damaged = damaged_chunks(pixels, manifest, whole=whole)
    if damaged:
        _decode_again(listing, folder, manifest, damaged, workers)
    with suppress(OSError):  # a cache that cannot be written is not pruned either
        os.utime(folder / MANIFEST)
    patches = PatchSet(listing.ids, listing.labels, listing.slides, listing.groups, pixels)
    return patches, manifest.unreadable


def map_pixels(folder: Path, manifest: CacheManifest) -> UInt8[np.ndarray, "n 96 96 3"] | None:
    """A finished cache's pixels, which nobody removes while they are in use; None where they were just removed."""
    try:
        with (folder / _PIXELS).open("rb") as file:
            hold(file, shared=True)
            if not os.path.samestat(os.fstat(file.fileno()), (folder / _PIXELS).stat()):
                return None
            return np.asarray(np.memmap(file, np.uint8, "r", shape=_shape(manifest.kept)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(
            f"cannot be read ({error.strerror or error})", where=folder, remedy="Choose another cache."
        ) from error


def hold(file: IO[bytes], *, shared: bool) -> bool:
    """Lock an open file for as long as it, or a memory map of it, is open; whether it could be.

    Locks of the system's, where it has them: a map keeps its file's. Windows removes no file that is open anyway.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return shared
    return True


def damaged_chunks(pixels: UInt8[np.ndarray, "n 96 96 3"], manifest: CacheManifest, *, whole: bool) -> list[int]:
    """The chunks whose pixels no longer have their sum: of all of them, or of a sample where they are many."""
    chunks = np.arange(len(manifest.sums))
    if not whole and len(chunks) > _CHECKED_AT_OPENING:
        # Any sample will do, and another each time finds more: no result depends on it.
        chunks = np.sort(np.random.default_rng().choice(chunks, _CHECKED_AT_OPENING, replace=False))
    return [n for n in chunks.tolist() if sum_of_pixels(pixels[n * _CHUNK : (n + 1) * _CHUNK]) != manifest.sums[n]]


def _decode_again(kept: Listing, folder: Path, manifest: CacheManifest, damaged: list[int], workers: int) -> None:
    """Put the pixels of damaged chunks right from the images, which have not changed since."""
    warnings.warn(
        f"packed pixels were damaged on the disk: {len(damaged)} of {len(manifest.sums)} chunks in {folder} are "
        "decoded again; look after that disk",
        SentinodeWarning,
        stacklevel=2,
    )
    chunks = [(n, range(n * _CHUNK, min((n + 1) * _CHUNK, manifest.kept))) for n in damaged]
    with _building(folder, None), storage_errors(folder):
        for some in pack_chunks(kept.pixels, chunks, folder / _PIXELS, workers=workers):
            for chunk in some:
                if chunk.unreadable or chunk.sum != manifest.sums[chunk.number]:
                    raise StorageError(
                        "holds damaged pixels, and the original images cannot be read any more",
                        where=folder,
                        remedy="Remove that folder, and check the disk.",
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


def _build(listing: Listing, folder: Path, workers: int, on_progress: StepProgress | None) -> None:
    path, total = folder / _PIXELS, len(listing)
    chunks = [(number, range(at, min(at + _CHUNK, total))) for number, at in enumerate(range(0, total, _CHUNK))]
    finished: list[PackedChunk] = []
    packed = 0
    with storage_errors(folder):
        _allocate(path, total)
        with closing(pack_chunks(listing.pixels, chunks, path, workers=workers)) as told:
            for some in told:
                finished += some
                packed += sum(len(chunks[chunk.number][1]) for chunk in some)
                if on_progress:
                    on_progress(packed, total)
        finished.sort(key=lambda chunk: chunk.number)
        lost = [Unreadable(row, str(listing.ids[row]), why) for chunk in finished for row, why in chunk.unreadable]
        sums = [chunk.sum for chunk in finished]
        if lost:
            sums = _close_gaps(path, total, [entry.row for entry in lost])
        with path.open("r+b") as pixels:
            os.fsync(pixels.fileno())
        write_json(folder / MANIFEST, asdict(CacheManifest(total, lost, sums, str(_source(listing)))))


def _source(listing: Listing) -> Path:
    match listing.pixels:
        case PatchFiles(folder=folder):
            return folder.resolve()
        case PatchArrays(files=files):
            return files[0].parent.resolve()


def _close_gaps(path: Path, count: int, lost: list[int]) -> list[int]:
    """Move the readable rows together and shorten the file, a chunk in memory at a time; the chunks' new sums."""
    pixels = np.memmap(path, np.uint8, "r+", shape=_shape(count))
    rows = np.setdiff1d(np.arange(count), lost)
    sums = []
    for start in range(0, len(rows), _CHUNK):
        chunk = pixels[rows[start : start + _CHUNK]]
        pixels[start : start + len(chunk)] = chunk
        sums.append(sum_of_pixels(chunk))
    pixels.flush()
    del pixels  # Windows shortens no file that is mapped
    os.truncate(path, len(rows) * PATCH_BYTES)
    return sums


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


def read_manifest(folder: Path, count: int | None = None) -> CacheManifest | None:
    """What a finished cache, of `count` patches if that is known, holds; None where it is not finished or damaged."""
    try:
        manifest = _MANIFEST.validate_json((folder / MANIFEST).read_bytes())
        size = (folder / _PIXELS).stat().st_size
    except (OSError, ValidationError):
        return None
    complete = size == manifest.kept * PATCH_BYTES and len(manifest.sums) == -(-manifest.kept // _CHUNK)
    return manifest if complete and count in (None, manifest.patches) else None


def _shape(count: int) -> tuple[int, int, int, int]:
    return (count, PATCH_SIZE_PX, PATCH_SIZE_PX, 3)


# --- how much there is ------------------------------------------------------------------------------


@dataclass(frozen=True)
class CacheEntry:
    """Something in a cache that can be made again: pixels, features, compiled code, or what a killed command left."""

    path: Path
    size_bytes: int
    used: float
    """When it was used last, in seconds since 1970."""
    what: str


@dataclass(frozen=True)
class Limit:
    """How large a cache may grow."""

    limit_gb: Annotated[float, Ge(0)] = 50.0


_LIMIT: Final = TypeAdapter(Limit)


def kept_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """An array of the cache, which changes no file when it is written into; None where it is absent or damaged."""
    try:
        kept: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return kept if kept.shape == shape else None


_SHARED: Final = (
    (MATERIALS, MATERIAL, "what an engine's processes share"),
    (FETCHED, WHOLE, "what came from another machine for an engine's processes"),
)
_COMPUTED: Final = {"features": "features of a backbone", "teachers": "what a teacher said"}


def entries(cache_root: Path) -> list[CacheEntry]:
    """What a cache holds, the least recently used first."""
    found = []
    for path in cache_root.iterdir() if cache_root.is_dir() else ():
        if path.is_dir() and (path.name.startswith(SUBSET) or (path / _PIXELS).is_file()):
            manifest = read_manifest(path)
            what = f"{manifest.kept:,} patches of {manifest.source}" if manifest else "unfinished"
            found.append(_entry(path, what, path / MANIFEST if manifest else path))
    for folder, what in _COMPUTED.items():
        found += [_entry(path, what, path) for path in (cache_root / folder).glob("*.npy")]
    for folder, last, what in _SHARED:
        for path in (cache_root / folder).glob("*/"):
            whole = (path / last).is_file()
            found.append(_entry(path, what if whole else "unfinished", path / last if whole else path))
    if (compiled := cache_root / COMPILER).is_dir():
        found.append(_entry(compiled, "networks compiled by PyTorch", compiled))
    return sorted(found, key=lambda entry: entry.used)


def _entry(path: Path, what: str, used: Path) -> CacheEntry:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return CacheEntry(path, sum(file.stat().st_size for file in files), used.stat().st_mtime, what)


def limit_of(cache_root: Path) -> Limit:
    """The limit that was set for a cache, or the default."""
    try:
        return _LIMIT.validate_json((cache_root / _LIMIT_FILE).read_bytes())
    except (OSError, ValidationError):
        return Limit()


def set_limit(cache_root: Path, limit: Limit) -> None:
    write_json(cache_root / _LIMIT_FILE, asdict(limit))


def make_room(cache_root: Path, limit: Limit | None = None) -> list[CacheEntry]:
    """Remove what was used longest ago until a cache holds no more than its limit; what is in use stays.

    Returns what was removed.
    """
    most = (limit or limit_of(cache_root)).limit_gb * 1e9
    held = entries(cache_root)
    total, removed = sum(entry.size_bytes for entry in held), []
    for entry in held:
        if total <= most:
            break
        if _remove(entry.path):
            total -= entry.size_bytes
            removed.append(entry)
    return removed


def _remove(path: Path) -> bool:
    """Remove an entry unless it is in use or being made."""
    if path.is_file():
        path.unlink(missing_ok=True)
        return True
    lock = FileLock(path.with_suffix(".lock"))
    try:
        with lock.acquire(timeout=0), ExitStack() as held:
            for name in (_PIXELS, MATERIAL):
                if (path / name).is_file() and not hold(held.enter_context((path / name).open("rb")), shared=False):
                    return False
            for name in (MANIFEST, MATERIAL, WHOLE):
                (path / name).unlink(missing_ok=True)  # first, so that nobody takes the rest for whole
            shutil.rmtree(path)
    except (Timeout, OSError):  # being made; or open, on Windows; or another's, who may keep it
        return False
    return True
