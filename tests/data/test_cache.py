"""The packed cache: right pixels, complete or absent, shared by processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sentinode.data import cache, packing
from sentinode.data.cache import (
    COMPILER,
    MATERIAL,
    Limit,
    cache_key,
    entries,
    limit_of,
    make_room,
    pack,
    pack_some,
    set_limit,
)
from sentinode.data.competition import listing_of_files
from sentinode.data.images import encode_tiff
from sentinode.data.listing import Listing
from sentinode.engine.on_ray import WHOLE
from sentinode.errors import DataError, SentinodeWarning, StorageError

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
    first = listing.pixels.folder / "000.tif"
    os.utime(first, ns=(1, 1))
    assert cache_key(listing) != before


@pytest.mark.skipif(os.name != "posix", reason="Windows tells no time of change")
@pytest.mark.parametrize("how", ["written over", "put in its place", "swapped with another"])
def test_other_pixels_under_the_same_name_size_and_time_are_other_patches(
    how: str, listing: Listing, tmp_path: Path, patches: np.ndarray
) -> None:
    pack(listing, tmp_path / "cache")
    first, second = tmp_path / "images" / "000.tif", tmp_path / "images" / "001.tif"
    for path in (first, second):
        os.utime(path, ns=(10**18, 10**18))
    pack(listing, tmp_path / "cache")
    expected = patches.copy()
    match how:
        case "written over":
            expected[0] = 255 - patches[0]
            first.write_bytes(encode_tiff(expected[0]))
        case "put in its place":
            expected[0] = 255 - patches[0]
            (tmp_path / "new.tif").write_bytes(encode_tiff(expected[0]))
            (tmp_path / "new.tif").replace(first)
        case _:
            expected[[0, 1]] = patches[[1, 0]]
            first.rename(tmp_path / "away")
            second.rename(first)
            (tmp_path / "away").rename(second)
    for path in (first, second):
        os.utime(path, ns=(10**18, 10**18))
    packed, _ = pack(listing, tmp_path / "cache")
    assert np.array_equal(packed.pixels, expected)


def test_unreadable_images_leave_no_gap(listing: Listing, tmp_path: Path, patches: np.ndarray) -> None:
    for number in (3, 20, COUNT - 1):
        (tmp_path / "images" / f"{number:03d}.tif").write_bytes(b"broken")
    for _ in range(2):  # built, then opened
        packed, unreadable = pack(listing, tmp_path / "cache")
        assert [entry.id for entry in unreadable] == ["p3", "p20", f"p{COUNT - 1}"]
        assert np.array_equal(packed.pixels, np.delete(patches, [3, 20, COUNT - 1], axis=0))
        assert [entry.row for entry in unreadable] == [3, 20, COUNT - 1]
        assert "p3" not in packed.ids


def test_of_one_id_twice_only_the_damaged_image_is_lost(
    listing: Listing, tmp_path: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a patch stands in train/ and in test/."""
    twice = replace(listing, ids=np.array(["same"] * 2 + listing.ids[2:].tolist()))
    (tmp_path / "images" / "001.tif").write_bytes(b"broken")
    packed, unreadable = pack(twice, tmp_path / "cache")
    assert [(entry.row, entry.id) for entry in unreadable] == [(1, "same")]
    assert packed.ids.tolist() == ["same", *listing.ids[2:].tolist()]
    assert np.array_equal(packed.pixels, np.delete(patches, 1, axis=0))
    monkeypatch.setattr(packing, "read_plain_into", lambda *_: pytest.fail("packed again"))
    pack(twice, tmp_path / "cache")


@pytest.fixture
def packed_file(listing: Listing, tmp_path: Path) -> Path:
    pack(listing, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*/pixels.u8")
    return path


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("at", range(0, COUNT * 27_648, 99_991))
def test_a_flipped_bit_is_found_and_mended_when_the_cache_is_opened(
    at: int, packed_file: Path, listing: Listing, tmp_path: Path, patches: np.ndarray
) -> None:
    flip(packed_file, at)
    with pytest.warns(SentinodeWarning, match="were damaged on the disk: 1 of 5 chunks"):
        packed, _ = pack(listing, tmp_path / "cache")
    assert np.array_equal(packed.pixels, patches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack(listing, tmp_path / "cache")


def test_beside_damaged_images_flips_are_mended_too(listing: Listing, tmp_path: Path, patches: np.ndarray) -> None:
    (tmp_path / "images" / "003.tif").write_bytes(b"broken")
    pack(listing, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*/pixels.u8")
    flip(path, 1_000_000)
    with pytest.warns(SentinodeWarning, match="were damaged"):
        packed, _ = pack(listing, tmp_path / "cache")
    assert np.array_equal(packed.pixels, np.delete(patches, 3, axis=0))


def test_of_many_chunks_a_sample_is_checked_at_opening_and_all_where_that_is_asked_for(
    packed_file: Path, listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_CHECKED_AT_OPENING", 2)
    summed: list[int] = []
    monkeypatch.setattr(cache, "sum_of_pixels", lambda pixels: (summed.append(1), packing.sum_of_pixels(pixels))[1])
    pack(listing, tmp_path / "cache")
    assert len(summed) == 2
    flip(packed_file, 5)
    with pytest.warns(SentinodeWarning, match="were damaged"):
        pack(listing, tmp_path / "cache", whole=True)
    assert len(summed) == 2 + 5


def test_a_manifest_of_another_form_is_no_manifest(
    packed_file: Path, listing: Listing, tmp_path: Path, patches: np.ndarray
) -> None:
    for text in ("", "{", "[]", '{"patches": 40, "unreadable": []}', '{"patches": "many"}', "null"):
        (packed_file.parent / "manifest.json").write_text(text)
        packed, _ = pack(listing, tmp_path / "cache")
        assert np.array_equal(packed.pixels, patches)


def test_a_subset_adds_nothing_to_the_cache(
    listing: Listing, tmp_path: Path, patches: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images" / "004.tif").write_bytes(b"broken")
    root = tmp_path / "cache"
    subsets = [np.array([7, 2, 30]), np.arange(10, 20), np.array([3, 4, 5])]
    for rows in subsets:  # before the whole is packed
        packed, unreadable = pack_some(listing, rows, root)
        assert np.array_equal(packed.pixels, patches[rows[rows != 4]])
        assert [(entry.row, entry.id) for entry in unreadable] == [(1, "p4")] * int(4 in rows)
    assert list(root.iterdir()) == []
    pack(listing, root)
    monkeypatch.setattr(packing, "read_plain_into", lambda *_: pytest.fail("read again"))
    before = sorted(path.name for path in root.iterdir())
    for rows in subsets:  # from the whole
        packed, unreadable = pack_some(listing, rows, root)
        assert packed.ids.tolist() == listing.ids[rows[rows != 4]].tolist()
        assert np.array_equal(packed.pixels, patches[rows[rows != 4]])
        assert [(entry.row, entry.id) for entry in unreadable] == [(1, "p4")] * int(4 in rows)
    assert sorted(path.name for path in root.iterdir()) == before


def test_what_was_used_longest_ago_goes_first_and_nothing_that_is_in_use(listing: Listing, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    names = []
    for number in range(4):
        pack(listing.take(np.arange(number * 10, number * 10 + 10)), root)
        (name,) = {path.name for path in root.iterdir() if path.is_dir()} - set(names)
        names.append(name)
        os.utime(root / name / "manifest.json", (1e9 + number, 1e9 + number))
    assert [entry.path.name for entry in entries(root)] == names
    held, _ = pack(listing.take(np.arange(10)), root)  # used again, and open
    assert [entry.path.name for entry in entries(root)] == [*names[1:], names[0]]
    removed = make_room(root, Limit(25 * 27_648 / 1e9))
    assert [entry.path.name for entry in removed] == names[1:3]
    assert [entry.path.name for entry in make_room(root, Limit(0.0))] == names[3:]
    assert [entry.path.name for entry in entries(root)] == names[:1]  # still open
    del held
    gc.collect()
    assert [entry.path.name for entry in make_room(root, Limit(0.0))] == names[:1]
    assert entries(root) == []


def test_the_limit_is_kept_with_the_cache_and_holds_when_more_is_packed(listing: Listing, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    assert limit_of(root) == Limit(50.0)
    pack(listing.take(np.arange(10)), root)
    set_limit(root, Limit(15 * 27_648 / 1e9))
    pack(listing.take(np.arange(10, 20)), root)
    (left,) = entries(root)
    assert left.what == f"10 patches of {tmp_path / 'images'}"
    (root / "limit.json").write_text('{"limit_gb": -1}')
    assert limit_of(root) == Limit(50.0)


def test_what_a_killed_command_left_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / "subset-x").mkdir()
    (tmp_path / "subset-x" / "pixels.u8").write_text("half")
    (tmp_path / "0123").mkdir()
    (tmp_path / "0123" / "pixels.u8").write_bytes(b"half")
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "a.npy").write_bytes(b"features")
    assert {entry.path.name for entry in make_room(tmp_path, Limit(0.0))} == {"0123", "a.npy", "subset-x"}
    assert entries(tmp_path) == []


def test_what_the_compiler_of_networks_keeps_is_counted_and_removed(tmp_path: Path) -> None:
    (tmp_path / COMPILER / "fxgraph" / "ab").mkdir(parents=True)
    (tmp_path / COMPILER / "fxgraph" / "ab" / "code.so").write_bytes(bytes(1000))
    (entry,) = entries(tmp_path)
    assert (entry.path.name, entry.size_bytes, entry.what) == (COMPILER, 1000, "networks compiled by PyTorch")
    assert make_room(tmp_path, Limit(1.0)) == []
    assert make_room(tmp_path, Limit(0.0)) == [entry]
    assert not (tmp_path / COMPILER).exists()


def test_what_engines_share_and_fetch_is_counted_and_goes_with_the_rest(listing: Listing, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    pack(listing.take(np.arange(10)), root)
    for at, (name, last) in enumerate([("materials/ab", MATERIAL), ("fetched/cd", WHOLE), ("fetched/half", "")]):
        (root / name).mkdir(parents=True)
        (root / name / "tables.npz").write_bytes(bytes(1000))
        if last:
            (root / name / last).touch()
        os.utime(root / name / last, (1e9 - at, 1e9 - at))
    shared, came = "what an engine's processes share", "what came from another machine for an engine's processes"
    found = [(entry.path.name, entry.size_bytes, entry.what) for entry in entries(root)]
    assert found[:-1] == [("half", 1000, "unfinished"), ("cd", 1000, came), ("ab", 1000, shared)]
    assert [entry.path.name for entry in make_room(root, Limit((10 * 27_648 + 2500) / 1e9))] == ["half"]
    assert [entry.path.name for entry in make_room(root, Limit(0.0))][:2] == ["cd", "ab"]
    assert entries(root) == []


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


def test_a_disk_that_fills_up_meanwhile_is_an_error_and_the_next_call_builds_it(
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


def test_a_place_that_cannot_be_written_is_an_error(listing: Listing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        pack(listing, tmp_path / "file")


def _pack_slowly(listing: Listing, root: Path, started: Any) -> None:
    def tell(done: int, total: int) -> None:
        started.set()
        if done:
            signal.pause()  # until killed

    cache._CHUNK = 8
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


def _pack_and_report(listing: Listing, root: Path, waited: Any) -> None:
    cache._CHUNK = 8
    pack(listing, root, workers=1, on_wait=waited.set)


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
