"""The packed cache: right pixels, complete or absent, resumable, shared by processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from sentinode.data import cache, packing
from sentinode.data.cache import cache_key, pack
from sentinode.data.competition import listing_of_files
from sentinode.data.images import encode_tiff
from sentinode.data.listing import Listing
from sentinode.errors import DataError, StorageError

COUNT = 40


@pytest.fixture
def patches() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (COUNT, 96, 96, 3), dtype=np.uint8)


@pytest.fixture
def listing(tmp_path: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Listing:
    monkeypatch.setattr(cache, "_CHUNK", 8)
    (tmp_path / "images").mkdir()
    for number, patch in enumerate(patches):
        (tmp_path / "images" / f"{number:03d}.tif").write_bytes(encode_tiff(patch))
    return listing_of_files(tmp_path / "images", {f"p{n}": f"{n:03d}.tif" for n in range(COUNT)})


def test_packed_pixels_are_the_files_pixels_in_the_listings_order(
    listing: Listing, tmp_path: Path, patches: np.ndarray
) -> None:
    packed, unreadable = pack(listing, tmp_path / "cache")
    assert unreadable == []
    assert np.array_equal(packed.pixels, patches)


def test_a_second_call_decodes_nothing(listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(listing, tmp_path / "cache")
    monkeypatch.setattr(packing, "read_plain_into", lambda *_: pytest.fail("read again"))
    pack(listing, tmp_path / "cache")


def test_the_key_follows_the_content(listing: Listing) -> None:
    before = cache_key(listing)
    assert cache_key(listing.take(np.arange(COUNT))) == before
    assert cache_key(listing.take(np.arange(COUNT - 1))) != before
    first = listing.pixels.folder / "000.tif"  # type: ignore[union-attr]
    os.utime(first, ns=(1, 1))
    assert cache_key(listing) != before


def test_an_interrupted_build_is_resumed_and_its_chunks_are_not_decoded_again(
    listing: Listing, tmp_path: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopError(Exception):
        pass

    read, stopped = packing.read_plain_into, threading.Event()

    def the_last_waits(path, *rest):
        if f"{COUNT - 1:03d}" in str(path):
            stopped.wait(timeout=60)  # else a quick reader would be done before anybody can stop it
        return read(path, *rest)

    def stop_half_way(done: int, total: int) -> None:
        if done >= total // 2:
            stopped.set()
            raise StopError

    monkeypatch.setattr(packing, "read_plain_into", the_last_waits)
    with pytest.raises(StopError):
        pack(listing, tmp_path / "cache", workers=1, on_progress=stop_half_way)
    (folder,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    assert not (folder / "manifest.json").exists()
    decoded = []
    monkeypatch.setattr(packing, "read_plain_into", lambda *a: (decoded.append(a[0]), read(*a))[1])
    packed, _ = pack(listing, tmp_path / "cache", workers=1)
    assert np.array_equal(packed.pixels, patches)
    assert 0 < len(decoded) < COUNT


def test_a_chunk_whose_pixels_were_lost_is_decoded_again(listing: Listing, tmp_path: Path, patches: np.ndarray) -> None:
    """As after a power cut: the journal survived, the pixels did not."""
    pack(listing, tmp_path / "cache")
    (folder,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    (folder / "manifest.json").unlink()
    (folder / "journal.jsonl").write_text(json.dumps({"chunk": 1, "sum": 12345, "unreadable": []}) + '\n{"chu')
    with (folder / "pixels.u8").open("r+b") as file:
        file.write(bytes(100_000))
    packed, _ = pack(listing, tmp_path / "cache")
    assert np.array_equal(packed.pixels, patches)


def test_unreadable_images_leave_no_gap(listing: Listing, tmp_path: Path, patches: np.ndarray) -> None:
    for number in (3, 20, COUNT - 1):
        (tmp_path / "images" / f"{number:03d}.tif").write_bytes(b"broken")
    for _ in range(2):  # built, then opened
        packed, unreadable = pack(listing, tmp_path / "cache")
        assert [entry.id for entry in unreadable] == ["p3", "p20", f"p{COUNT - 1}"]
        assert np.array_equal(packed.pixels, np.delete(patches, [3, 20, COUNT - 1], axis=0))
        assert "p3" not in packed.ids


def test_nothing_readable_is_an_error(listing: Listing, tmp_path: Path) -> None:
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="none of the 40 images"):
        pack(listing, tmp_path / "cache")


def test_a_full_disk_is_one_clear_error_before_anything_is_written(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left"):
        pack(listing, tmp_path / "cache")


def test_a_disk_that_fills_up_meanwhile_is_an_error_and_the_build_is_resumed(
    listing: Listing, tmp_path: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(packing, "_write", full)
        with pytest.raises(StorageError, match="No space left"):
            pack(listing, tmp_path / "cache")
    packed, _ = pack(listing, tmp_path / "cache")
    assert np.array_equal(packed.pixels, patches)


def test_a_chunk_is_on_the_disk_before_the_journal_names_it(
    listing: Listing, tmp_path: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: list[set[int]] = [set()]  # chunks whose pixels had arrived when the file was synced
    fsync = os.fsync

    def look(descriptor: int) -> None:
        fsync(descriptor)
        (journal,) = (tmp_path / "cache").glob("*/journal.jsonl")
        assert {json.loads(line)["chunk"] for line in journal.read_text().splitlines()} <= on_disk[-1]
        pixels = np.fromfile(journal.with_name("pixels.u8"), np.uint8).reshape(patches.shape)
        starts = range(0, len(patches), cache._CHUNK)
        here = [slice(start, start + cache._CHUNK) for start in starts]
        on_disk.append({n for n, rows in enumerate(here) if np.array_equal(pixels[rows], patches[rows])})

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", look)
        context.setattr(cache, "write_json", lambda path, _: path.write_text("{}"))  # it syncs files of its own
        pack(listing, tmp_path / "cache", workers=1)
    assert len(on_disk) > 1
    assert on_disk[-1]


def test_a_journal_of_an_older_version_is_not_believed(listing: Listing, tmp_path: Path, patches: np.ndarray) -> None:
    pack(listing, tmp_path / "cache")
    (folder,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    (folder / "manifest.json").unlink()
    (folder / "journal.jsonl").write_text(json.dumps({"chunk": 0, "crc": 1, "unreadable": []}) + "\n")
    (folder / "pixels.u8").write_bytes(bytes(patches.nbytes))
    packed, _ = pack(listing, tmp_path / "cache")
    assert np.array_equal(packed.pixels, patches)


def test_a_place_that_cannot_be_written_is_an_error(listing: Listing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        pack(listing, tmp_path / "file")


def _pack_slowly(listing: Listing, root: Path, started: object) -> None:
    def tell(done: int, total: int) -> None:
        started.set()  # type: ignore[attr-defined]
        if done:
            signal.pause()  # until killed

    cache._CHUNK = 8  # type: ignore[misc]
    pack(listing, root, workers=1, on_progress=tell)


def test_killed_while_building_it_leaves_nothing_that_looks_complete(
    listing: Listing, tmp_path: Path, patches: np.ndarray
) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_pack_slowly, args=(listing, tmp_path / "cache", started))
    process.start()
    assert started.wait(60)
    process.kill()
    process.join()
    packed, _ = pack(listing, tmp_path / "cache")  # the lock died with its owner
    assert np.array_equal(packed.pixels, patches)


def _pack_and_report(listing: Listing, root: Path, waited: object) -> None:
    cache._CHUNK = 8  # type: ignore[misc]
    pack(listing, root, workers=1, on_wait=waited.set)  # type: ignore[attr-defined]


def test_a_second_process_waits_for_the_first(listing: Listing, tmp_path: Path, patches: np.ndarray) -> None:
    context = multiprocessing.get_context("spawn")
    waited = context.Event()
    second: list[multiprocessing.process.BaseProcess] = []

    def start_second(done: int, _total: int) -> None:
        if not second:
            second.append(context.Process(target=_pack_and_report, args=(listing, tmp_path / "cache", waited)))
            second[0].start()
            assert waited.wait(60)

    packed, _ = pack(listing, tmp_path / "cache", workers=1, on_progress=start_second)
    second[0].join(60)
    assert second[0].exitcode == 0
    assert np.array_equal(packed.pixels, patches)
