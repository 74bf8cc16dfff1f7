"""Reading patches: the direct path equals Pillow, and everything that is no patch is refused in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sentinode.data import images
from sentinode.data.images import encode_tiff, patch_id, read_patch
from sentinode.errors import DataError


@pytest.fixture
def patch() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def test_the_competitions_layout_reads_back_and_agrees_with_pillow(tmp_path: Path, patch: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(encode_tiff(patch))
    assert path.stat().st_size == 27_935
    assert np.array_equal(read_patch(path), patch)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), patch)


def test_an_id_is_the_sha1_of_the_raw_bytes(patch: np.ndarray) -> None:
    assert patch_id(patch) == hashlib.sha1(patch.tobytes()).hexdigest()


def test_the_direct_path_does_not_call_pillow(
    tmp_path: Path, patch: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(encode_tiff(patch))
    monkeypatch.setattr(images, "decode_with_pillow", lambda _: pytest.fail("Pillow was called"))
    read_patch(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_other_lossless_formats_give_the_same_pixels(tmp_path: Path, patch: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(patch).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_patch(path), patch)


def test_a_file_of_the_same_size_whose_header_says_otherwise_goes_through_pillow(
    tmp_path: Path, patch: np.ndarray
) -> None:
    header, path = bytearray(encode_tiff(patch)[:287]), tmp_path / "a.tif"
    at = header.index((259).to_bytes(2, "little"))
    header[at + 8] = 5  # compression: LZW, which these bytes are not
    path.write_bytes(bytes(header) + patch.tobytes())
    with pytest.raises(DataError, match="damaged"):
        read_patch(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: Image.new("RGB", (50, 50)).save(p), "50 x 50"),
        (lambda p: Image.new("RGBA", (96, 96)).save(p), "RGBA"),
        (lambda p: Image.new("L", (96, 96)).save(p), "mode L"),
        (lambda p: Image.new("I;16", (96, 96)).save(p), "I;16"),
        (lambda p: p.write_bytes(b"not an image"), "not an image"),
        (lambda p: p.write_bytes(b""), "not an image"),
    ],
)
def test_what_is_no_patch_is_refused(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(DataError, match=said) as caught:
        read_patch(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sixteen_bits_a_channel_are_not_cut_down_silently(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    _write_png16(path)
    with pytest.raises(DataError, match="16 bits"):
        read_patch(path)


@pytest.mark.parametrize("kept", [100, 287, 20_000])
def test_a_truncated_tiff_is_refused(tmp_path: Path, patch: np.ndarray, kept: int) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(encode_tiff(patch)[:kept])
    with pytest.raises(DataError):
        read_patch(path)


@pytest.mark.parametrize("fill", [images._fill_one_by_one, images._fill])
def test_either_way_of_reading_gives_the_same_answers(
    tmp_path: Path, patch: np.ndarray, monkeypatch: pytest.MonkeyPatch, fill: object
) -> None:
    monkeypatch.setattr(images, "_fill", fill)
    path, out = tmp_path / "a.tif", np.zeros_like(patch)
    path.write_bytes(encode_tiff(patch))
    assert images.read_plain_into(path, images.plain_parts(out), set())
    assert np.array_equal(out, patch)
    for content in (b"", encode_tiff(patch)[:-1], encode_tiff(patch) + b"\0", bytes(8_000_000)):
        path.write_bytes(content)
        assert not images.read_plain_into(path, images.plain_parts(out), set())
    with pytest.raises(DataError, match="cannot be read"):
        images.read_plain_into(tmp_path, images.plain_parts(out), set())


def test_a_known_header_is_not_checked_again(
    tmp_path: Path, patch: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, known = tmp_path / "a.tif", set[bytes]()
    path.write_bytes(encode_tiff(patch))
    assert images.read_plain_into(path, images.plain_parts(patch), known)
    monkeypatch.setattr(images, "_is_plain", lambda _: pytest.fail("checked again"))
    assert images.read_plain_into(path, images.plain_parts(patch), known)


def _write_png16(path: Path) -> None:
    """A 96 x 96 RGB PNG of 16 bits a channel, which Pillow can read but not write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(96 * 6) for _ in range(96))
    header = struct.pack(">IIBBBBB", 96, 96, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
