"""Chunks become rows: each byte read and written once, the same bytes by threads and by processes, none orphaned."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from sentinode.data import cache, packing
from sentinode.data.cache import pack
from sentinode.data.competition import listing_of_files
from sentinode.data.images import PATCH_BYTES, TIFF_BYTES, encode_tiff
from sentinode.data.listing import Listing, PatchFiles
from sentinode.data.packing import PackedChunk, pack_chunks, sum_of_pixels
from sentinode.errors import FailureError

COUNT = 70  # two whole blocks and a part
CHUNKS = [(0, range(0, 35)), (1, range(35, 70))]


def all_of(finished: Iterable[list[PackedChunk]]) -> list[PackedChunk]:
    return [chunk for some in finished for chunk in some]


@pytest.fixture
def patches() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (COUNT, 96, 96, 3), dtype=np.uint8)


@pytest.fixture
def plain(tmp_path: Path, patches: np.ndarray) -> PatchFiles:
    for number, patch in enumerate(patches):
        (tmp_path / f"{number}.tif").write_bytes(encode_tiff(patch))
    return PatchFiles(tmp_path, [f"{number}.tif" for number in range(COUNT)])


@pytest.fixture
def pngs(tmp_path: Path, patches: np.ndarray) -> Listing:
    (tmp_path / "images").mkdir()
    for number, patch in enumerate(patches):
        Image.fromarray(patch).save(tmp_path / "images" / f"{number}.png", compress_level=0)
    return listing_of_files(tmp_path / "images", {f"p{n}": f"{n}.png" for n in range(COUNT)})


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images are many."""
    monkeypatch.setattr(packing, "_PROCESSES_FROM", 10)
    monkeypatch.setattr(cache, "_CHUNK", 8)


def empty_file(tmp_path: Path) -> Path:
    path = tmp_path / "pixels.u8"
    path.write_bytes(bytes(COUNT * PATCH_BYTES))
    return path


def test_a_plain_tiff_costs_one_open_one_read_and_no_pillow_and_its_pixels_are_written_once(
    plain: PatchFiles, tmp_path: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, list[int]] = {"open": [], "readv": [], "close": [], "write": []}

    def counted(name: str) -> None:
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a: (result := call(*a), calls[name].append(result))[0])

    class Counting(io.FileIO):
        def write(self, block: memoryview) -> int:
            calls["write"].append(len(block))
            return super().write(block)

    path = empty_file(tmp_path)
    with monkeypatch.context() as context:
        for name in ("open", "readv", "close"):
            counted(name)
        context.setattr(packing, "FileIO", Counting)
        context.setattr(packing, "decode_with_pillow", lambda _: pytest.fail("Pillow was called"))
        packed = all_of(pack_chunks(plain, CHUNKS, path, workers=1))
    monkeypatch.undo()
    assert (len(calls["open"]), len(calls["close"])) == (COUNT, COUNT)
    assert calls["readv"] == [TIFF_BYTES] * COUNT
    assert calls["write"] == [32 * PATCH_BYTES, 3 * PATCH_BYTES] * 2
    assert np.array_equal(np.fromfile(path, np.uint8), patches.reshape(-1))
    assert {chunk.number: chunk.sum for chunk in packed} == {
        number: sum_of_pixels(patches[rows.start : rows.stop]) for number, rows in CHUNKS
    }


def test_a_file_that_takes_a_part_of_the_pixels_is_given_the_rest(
    plain: PatchFiles, tmp_path: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(io.FileIO):
        def write(self, block: memoryview) -> int:
            return super().write(block[:100_000])

    monkeypatch.setattr(packing, "FileIO", Slow)
    path = empty_file(tmp_path)
    list(pack_chunks(plain, CHUNKS, path, workers=1))
    assert np.array_equal(np.fromfile(path, np.uint8), patches.reshape(-1))


def test_the_sum_goes_on_from_block_to_block_and_sees_what_a_disk_can_lose(patches: np.ndarray) -> None:
    whole = sum_of_pixels(patches)
    assert sum_of_pixels(patches[32:], sum_of_pixels(patches[:32])) == whole
    for start in range(0, patches.nbytes - 4096, 37 * 4096):
        damaged = patches.copy()
        damaged.reshape(-1)[start : start + 4096] = 0  # a page that was never written
        assert sum_of_pixels(damaged) != whole
    assert sum_of_pixels(patches[::-1].copy()) != whole
    assert sum_of_pixels(np.zeros_like(patches[:8])) != sum_of_pixels(np.zeros_like(patches[:9]))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_what_is_no_plain_tiff_is_decoded_or_listed_with_its_reason(
    plain: PatchFiles, tmp_path: Path, patches: np.ndarray, workers: int
) -> None:
    other_tags = bytearray(encode_tiff(patches[3]))
    at = other_tags.index((262).to_bytes(2, "little"))
    other_tags[at + 8] = 6  # YCbCr: exactly the right size, and yet no plain RGB
    contents = {
        0: b"",
        1: encode_tiff(patches[1])[:20_000],
        2: b"MM" + encode_tiff(patches[2])[2:],
        3: bytes(other_tags),
        34: bytes(8_000_000),
        35: encode_tiff(patches[35]) + b"!",  # a whole TIFF and more: Pillow reads it
    }
    for number, content in contents.items():
        (tmp_path / f"{number}.tif").write_bytes(content)
    Image.fromarray(patches[50]).save(tmp_path / "50.tif", compression="tiff_lzw")
    (tmp_path / "69.tif").unlink()
    path = empty_file(tmp_path)
    packed = sorted(all_of(pack_chunks(plain, CHUNKS, path, workers=workers)), key=lambda chunk: chunk.number)
    unreadable = dict(entry for chunk in packed for entry in chunk.unreadable)
    ours = np.fromfile(path, np.uint8).reshape(patches.shape)
    lost = [0, 1, 2, 34, 69]
    assert sorted(set(unreadable) - {3}) == lost  # what Pillow makes of the fourth's colours is its own affair
    assert all(f"{row}.tif: " in reason for row, reason in unreadable.items())
    assert "No such file" in unreadable[69]
    assert not ours[lost].any()
    assert not np.array_equal(ours[3], patches[3])
    assert np.array_equal(np.delete(ours, [*lost, 3], axis=0), np.delete(patches, [*lost, 3], axis=0))
    for (_, rows), chunk in zip(CHUNKS, packed, strict=True):
        assert chunk.sum == sum_of_pixels(ours[rows.start : rows.stop])


def test_the_bytes_are_the_same_for_any_number_of_workers_by_threads_and_by_processes(
    pngs: Listing, tmp_path: Path, patches: np.ndarray, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images" / "9.png").write_bytes(b"broken")
    (tmp_path / "images" / "30.png").write_bytes(encode_tiff(patches[30]))  # a plain TIFF by another name
    pools = []
    for name in ("ThreadPoolExecutor", "ProcessPoolExecutor"):
        pool = getattr(packing, name)
        monkeypatch.setattr(packing, name, lambda *a, pool=pool, **k: (pools.append(pool.__name__), pool(*a, **k))[1])
    results = []
    for workers in (1, 2, 3):
        packed, unreadable = pack(pngs, tmp_path / f"cache-{workers}", workers=workers)
        results.append((packed.pixels.tobytes(), packed.ids.tolist(), unreadable))
    assert pools == ["ThreadPoolExecutor", "ProcessPoolExecutor", "ProcessPoolExecutor"]
    assert results[0] == results[1] == results[2]
    assert results[0][0] == np.delete(patches, 9, axis=0).tobytes()
    assert [entry.id for entry in results[0][2]] == ["p9"]
    assert multiprocessing.active_children() == []


def test_few_images_and_plain_tiffs_start_no_process(
    pngs: Listing, plain: PatchFiles, tmp_path: Path, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "get_context", lambda _: pytest.fail("a process was started"))
    list(pack_chunks(plain, CHUNKS, empty_file(tmp_path), workers=2))
    monkeypatch.setattr(packing, "_PROCESSES_FROM", COUNT + 1)
    pack(pngs, tmp_path / "cache", workers=2)


def test_a_script_that_guards_nothing_is_told_so_and_served_all_the_same(
    pngs: Listing, tmp_path: Path, patches: np.ndarray
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from sentinode.data import cache, packing\n"
        "from sentinode.data.competition import listing_of_files\n"
        "packing._PROCESSES_FROM, cache._CHUNK = 10, 8\n"
        f"folder = Path({str(tmp_path / 'images')!r})\n"
        f"listing = listing_of_files(folder, {{f'p{{n}}': f'{{n}}.png' for n in range({COUNT})}})\n"
        f"packed, _ = cache.pack(listing, Path({str(tmp_path / 'cache')!r}), workers=2)\n"
        f"packed.pixels.tofile({str(tmp_path / 'out')!r})\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "worker processes could not start" in done.stderr
    assert np.array_equal(np.fromfile(tmp_path / "out", np.uint8), patches.reshape(-1))


def test_a_killed_process_is_one_clear_error(pngs: Listing, tmp_path: Path, many: None) -> None:
    """Of so many chunks that they cannot be finished before the processes are killed."""
    chunks = pack_chunks(pngs.pixels, [(n, range(0, 35)) for n in range(400)], empty_file(tmp_path), workers=2)
    next(chunks)
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(FailureError, match="--workers 1") as caught:
        list(chunks)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


def test_ctrl_c_leaves_no_process_and_nothing_that_looks_complete(
    pngs: Listing, tmp_path: Path, patches: np.ndarray, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pack(pngs, tmp_path / "cache", workers=2, on_progress=interrupt)
    assert multiprocessing.active_children() == []
    assert not list((tmp_path / "cache").glob("*/manifest.json"))
    packed, _ = pack(pngs, tmp_path / "cache", workers=2)
    assert np.array_equal(packed.pixels, patches)


def _pack_until_killed(listing: Listing, root: Path, workers_are: multiprocessing.SimpleQueue[list[int]]) -> None:
    packing._PROCESSES_FROM, cache._CHUNK = 10, 8

    def tell(done: int, _total: int) -> None:
        if done:
            workers_are.put([process.pid for process in multiprocessing.active_children() if process.pid])
            signal.pause()

    pack(listing, root, workers=2, on_progress=tell)


@pytest.mark.skipif(not hasattr(signal, "pause"), reason="Windows has no signal to wait for")
def test_processes_end_with_a_parent_that_was_killed_and_the_next_call_builds_it(
    pngs: Listing, tmp_path: Path, patches: np.ndarray, many: None
) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_pack_until_killed, args=(pngs, tmp_path / "cache", queue))
    process.start()
    workers = [psutil.Process(pid) for pid in queue.get()]
    process.kill()
    process.join()
    assert len(workers) == 2
    _, alive = psutil.wait_procs(workers, timeout=60)
    # A zombie has ended, too; who adopted it has not yet looked.
    assert [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE] == []
    assert not list((tmp_path / "cache").glob("*/manifest.json"))
    packed, _ = pack(pngs, tmp_path / "cache", workers=2)
    assert np.array_equal(packed.pixels, patches)
