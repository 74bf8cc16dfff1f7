"""TFRecord files of `tf.train.Example`s, as TensorFlow Datasets keeps PatchCamelyon: read without TensorFlow.

A record is its length (8 bytes), a checksum of that (4), the example, and a checksum of it (4). An example is a
protocol buffer: a map of names to lists of bytes or whole numbers. Checksums are not verified; an image has its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from jaxtyping import Int, UInt8

from sentinode.data.images import decode_bytes
from sentinode.errors import DataError

IMAGE: Final = "image"
RECORDS: Final = ".tfrecord-"
"""In the names of their files."""
_HEADER: Final = struct.Struct("<QI")
_FOOTER: Final = 4
_LARGEST_RECORD: Final = 10_000_000  # bytes; one of PatchCamelyon has 20,000
_REMEDY: Final = "Prepare the dataset again with tfds.load('patch_camelyon')."


@dataclass(frozen=True)
class Example:
    """Where a record lies in its file, and its label, if it has one."""

    offset: int
    label: int | None


def read_examples(file: Path) -> Iterator[Example]:
    """Every example of a file, in order; raises DataError where the file ends early or holds something else."""
    size = file.stat().st_size
    with file.open("rb") as records:
        offset = 0
        while offset < size:
            features = _features(_record(records, file, offset), file, offset)
            if IMAGE not in features:
                known = ", ".join(sorted(features)[:8]) or "nothing"
                raise DataError(f"has an example without an image (but {known})", where=file, remedy=_REMEDY)
            label = next((value for value in features.get("label", []) if isinstance(value, int)), None)
            yield Example(offset, label)
            offset = records.tell() + _FOOTER


class RecordImages:
    """The images of a file's examples as rows of an array: indexed by their records' offsets, which increase."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._records = file.open("rb")

    def at(self, offsets: Int[np.ndarray, " k"]) -> UInt8[np.ndarray, "k h w 3"]:
        """Raises DataError where one is not an image of 96 x 96 pixels."""
        images = []
        for offset in offsets.tolist():
            image = _features(_record(self._records, self._file, offset), self._file, offset)[IMAGE][0]
            if not isinstance(image, bytes):
                raise DataError("has an image that is not bytes", where=self._file, remedy=_REMEDY)
            images.append(decode_bytes(image, self._file))
        return np.stack(images)

    def close(self) -> None:
        self._records.close()


def _record(records: BinaryIO, file: Path, offset: int) -> memoryview:
    """The example that begins there; the file is then read up to its checksum."""
    records.seek(offset)
    header = records.read(_HEADER.size)
    length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else 0
    if not 0 < length <= _LARGEST_RECORD:
        raise DataError(f"holds no record at byte {offset:,}", where=file, remedy=_REMEDY)
    content = records.read(length)
    if len(content) < length:
        raise DataError("ends within a record", where=file, remedy=_REMEDY)
    return memoryview(content)


def _features(example: memoryview, file: Path, offset: int) -> dict[str, list[int | bytes]]:
    """Example.features.feature: each name's list, of bytes or whole numbers; lists of floats are left out."""
    found: dict[str, list[int | bytes]] = {}
    try:
        for features in _messages(example, 1):
            for entry in _messages(features, 1):
                (name,), (feature,) = _messages(entry, 1), _messages(entry, 2)
                of_bytes = [bytes(value) for values in _messages(feature, 1) for value in _messages(values, 1)]
                of_numbers = [number for values in _messages(feature, 3) for number in _numbers(values)]
                found[bytes(name).decode("utf-8")] = [*of_bytes, *of_numbers]
    except (ValueError, IndexError) as error:
        raise DataError(f"holds no example at byte {offset:,} ({error})", where=file, remedy=_REMEDY) from error
    return found


def _messages(message: memoryview, field: int) -> list[memoryview]:
    """The values of a field that are bytes, or messages of their own."""
    return [value for number, value in _fields(message) if number == field and isinstance(value, memoryview)]


def _numbers(values: memoryview) -> Iterator[int]:
    """Int64List.value: one by one, or packed together."""
    for field, value in _fields(values):
        if field == 1 and isinstance(value, int):
            yield value
        elif field == 1 and isinstance(value, memoryview):
            at = 0
            while at < len(value):
                number, at = _varint(value, at)
                yield number


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; raises ValueError for what is no protocol buffer of these kinds."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                value, at = _varint(message, at)
                yield key >> 3, value
            case 2:
                length, at = _varint(message, at)
                if at + length > len(message):
                    raise ValueError("a field is longer than its message")
                yield key >> 3, message[at : at + length]
                at += length
            case kind:
                raise ValueError(f"a field of the kind {kind}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number of 7 bits a byte, the lowest first, and where the next begins."""
    number = shift = 0
    while shift < 64:
        byte = message[at]
        number, at, shift = number | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return number, at
    raise ValueError("a number of more than 64 bits")
