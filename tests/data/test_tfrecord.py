"""PatchCamelyon as TensorFlow Datasets keeps it: the pixels and labels of the files that TensorFlow would read."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sentinode.config.run import DataConfig
from sentinode.data.folder import open_folder, pack_all
from sentinode.data.pcam import read_pcam
from sentinode.data.tfrecord import read_examples
from sentinode.errors import DataError
from sentinode.session import Session

RNG = np.random.default_rng(7)


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(image: bytes, label: int, *, packed: bool = True) -> bytes:
    """As protoc writes tf.train.Example; TensorFlow packs numbers, and must read those that are not packed."""
    numbers = field(1, varint(label)) if packed else varint(1 << 3) + varint(label)
    features = {
        "image": field(1, field(1, image)),
        "label": field(3, numbers),
        "id": field(1, field(1, b"train_1")),
    }
    entries = (field(1, field(1, name.encode()) + field(2, value)) for name, value in features.items())
    return field(1, b"".join(entries))


def record(content: bytes) -> bytes:
    return struct.pack("<QI", len(content), 0) + content + bytes(4)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Two shards of train, one of validation and test; all pixels and labels in that order."""
    folder = tmp_path / "patch_camelyon" / "2.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text("{}")
    pixels = RNG.integers(0, 256, (20, 96, 96, 3), np.uint8)
    labels = RNG.integers(0, 2, 20)
    shards = {
        "train.tfrecord-00000-of-00002": range(6),
        "train.tfrecord-00001-of-00002": range(6, 12),
        "validation.tfrecord-00000-of-00001": range(12, 16),
        "test.tfrecord-00000-of-00001": range(16, 20),
    }
    for name, rows in shards.items():
        content = (record(example(png(pixels[row]), int(labels[row]), packed=row % 2 == 0)) for row in rows)
        (folder / f"patch_camelyon-{name}").write_bytes(b"".join(content))
    return tmp_path, pixels, labels


def test_every_patch_has_its_pixels_and_label(prepared: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    root, pixels, labels = prepared
    session = Session(cache_root=tmp_path / "cache")
    folder, left_out = open_folder(root, DataConfig())
    assert folder.kind == "PatchCamelyon"
    assert left_out == {}
    assert folder.training.ids.tolist() == [f"train-{k:06}" for k in range(12)] + [f"valid-{k:06}" for k in range(4)]
    assert folder.training.labels.tolist() == labels[:16].tolist()
    np.testing.assert_array_equal(pack_all(folder.training, session).pixels, pixels[:16])
    assert folder.test is not None
    np.testing.assert_array_equal(pack_all(folder.test, session).pixels, pixels[16:])
    some = np.array([13, 2, 7])
    np.testing.assert_array_equal(pack_all(folder.training, session, rows=some).pixels, pixels[some])


def test_a_file_that_is_missing_is_not_passed_over(prepared: tuple[Path, np.ndarray, np.ndarray]) -> None:
    root, _, _ = prepared
    next(root.rglob("*train*-00000-of-00002")).unlink()
    with pytest.raises(DataError, match="has not all of the 2 files of train"):
        read_pcam(root)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (record(example(b"", 1))[:-20], "ends within a record"),
        (b"\x00" * 64, "holds no record at byte 0"),
        (b"\xff" * 64, "holds no record at byte 0"),
        (record(b"\xff" * 40), "holds no example at byte 0"),
        (record(b"\x0b" * 40), "holds no example at byte 0"),
        (record(field(1, b"")), "an example without an image"),
        (record(example(b"", 1)) + b"PK\x03\x04", r"holds no record at byte \d+"),
    ],
)
def test_what_is_damaged_is_told_in_one_line(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "patch_camelyon-train.tfrecord-00000-of-00001"
    file.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        list(read_examples(file))
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_decoded_is_told_as_of_any_folder(tmp_path: Path) -> None:
    image = png(RNG.integers(0, 256, (96, 96, 3), np.uint8))
    large = png(np.zeros((97, 96, 3), np.uint8))
    content = [record(example(of, k % 2)) for k, of in enumerate((image, image[:200], large, image))]
    (tmp_path / "patch_camelyon-train.tfrecord-00000-of-00001").write_bytes(b"".join(content))
    folder, _ = open_folder(tmp_path, DataConfig())
    with pytest.raises(DataError, match=r"2 of 4 .*row \d+ is damaged"):
        pack_all(folder.training, Session(cache_root=tmp_path / "cache"))
