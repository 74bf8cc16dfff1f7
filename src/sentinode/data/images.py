"""One image file -> one patch: the competition's TIFF by a direct path, everything else by Pillow."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import logging
import os
import struct
import warnings
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError, _imaging

from sentinode.errors import DataError

PATCH_SIZE_PX: Final = 96
CENTRE_SIZE_PX: Final = 32
SPACING_UM_PER_PX: Final = 0.972
"""Of the competition's patches and PatchCamelyon's: level 2 of slides at 0.243 um/px."""
PATCH_BYTES: Final = PATCH_SIZE_PX * PATCH_SIZE_PX * 3
HEADER_BYTES: Final = 287
TIFF_BYTES: Final = HEADER_BYTES + PATCH_BYTES
SUFFIXES: Final = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".webp", ".bmp")
_LARGEST_PX: Final = 4096  # a side of an image of which the centre is taken
_SAME: Final = 1.01  # a spacing of 0.98 um is 0.972
_FORMATS: Final = ("TIFF", "PNG", "JPEG", "WEBP", "BMP")
_REFUSES_LINKS: Final = hasattr(os, "O_NOFOLLOW")
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

Patch = UInt8[np.ndarray, "96 96 3"]
Parts = tuple[bytearray, memoryview, bytearray]

# The tags that make a file's pixels one plain block of 96 x 96 RGB bytes at offset 287.
_PLAIN_TAGS: Final = {
    256: PATCH_SIZE_PX,  # width
    257: PATCH_SIZE_PX,  # height
    259: 1,  # no compression
    262: 2,  # RGB
    273: HEADER_BYTES,  # offset of the one strip
    277: 3,  # samples per pixel
    278: PATCH_SIZE_PX,  # rows per strip: all
    279: PATCH_BYTES,  # bytes of the one strip
    284: 1,  # samples interleaved
}


def patch_id(patch: Patch) -> str:
    """The competition's id of a patch: the SHA-1 of its raw RGB bytes, in hexadecimal."""
    return hashlib.sha1(np.ascontiguousarray(patch).tobytes(), usedforsecurity=False).hexdigest()


def encode_tiff(patch: Patch) -> bytes:
    """Write a patch in the competition's layout: uncompressed, one strip, pixels at offset 287."""
    if patch.shape != (PATCH_SIZE_PX, PATCH_SIZE_PX, 3) or patch.dtype != np.uint8:
        raise ValueError(f"a patch is 96 x 96 x 3 uint8, not {patch.shape} {patch.dtype}")
    return _HEADER + np.ascontiguousarray(patch).tobytes()


def read_patch(path: Path) -> Patch:
    """Read one 96 x 96 RGB patch; raises DataError where the file is anything else."""
    patch = np.empty((PATCH_SIZE_PX, PATCH_SIZE_PX, 3), np.uint8)
    return patch if read_plain_into(path, plain_parts(patch), set()) else decode_with_pillow(path)


def plain_parts(out: Patch) -> Parts:
    """Where a plain TIFF is read to: its header, its pixels (the memory of `out`), a byte that no such file has."""
    return bytearray(HEADER_BYTES), out.reshape(-1).data, bytearray(1)


def read_plain_into(path: Path | str, parts: Parts, known_headers: set[bytes]) -> bool:
    """Whether the file is the competition's plain TIFF, whose pixels then lie in `parts`.

    One open, one read, one close: the length of what was read tells the size. A header once checked is
    remembered in `known_headers`. Where the answer is no, `parts` may hold anything. Raises DataError
    where the file cannot be read at all, or is a link.
    """
    try:
        filled = _fill(path, parts)
    except OSError as error:
        raise _unopened(path, error) from error
    if filled != TIFF_BYTES:
        return False
    header = bytes(parts[0])
    if header in known_headers:
        return True
    if _is_plain(header):
        known_headers.add(header)
        return True
    return False


def _open(path: Path | str) -> int:
    """A descriptor of an image file, which is not followed where it is a link.

    A link can bring any file of this machine into a page or a prediction. Folders of patches may be links: they are
    the user's own arrangement, and what lies in them are still patches. A pipe is opened without waiting for a writer.
    """
    if not _REFUSES_LINKS and os.path.islink(path):  # noqa: PTH114  (a Path for each file takes longer than reading it)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return os.open(path, _FLAGS)


def _unopened(path: Path | str, error: OSError) -> DataError:
    if error.errno in (errno.ELOOP, errno.EMLINK):  # what Linux and macOS, and what FreeBSD says
        return DataError(
            "is a link to another file, and links are not followed",
            where=path,
            remedy="Copy the image here, or give the folder that it lies in; folders may be links.",
        )
    return DataError(f"cannot be read ({error.strerror})", where=path, remedy="Restore the file or its permissions.")


def _fill_one_by_one(path: Path | str, parts: Parts) -> int:
    with os.fdopen(_open(path), "rb", buffering=0) as file:
        return sum(file.readinto(part) for part in parts)


def _fill_at_once(path: Path | str, parts: Parts) -> int:
    descriptor = _open(path)
    try:
        return os.readv(descriptor, parts)
    finally:
        os.close(descriptor)


# Windows reads into one buffer at a time.
_fill: Final = _fill_at_once if hasattr(os, "readv") else _fill_one_by_one


def _is_plain(header: bytes) -> bool:
    """Whether a TIFF header of 287 bytes promises plain 8-bit RGB pixels right behind it."""
    if header[:8] != b"II*\0\x08\0\0\0":
        return False
    (count,) = struct.unpack_from("<H", header, 8)
    if 10 + 12 * count > HEADER_BYTES:
        return False
    tags: dict[int, tuple[int, int, int]] = {}
    for entry in range(count):
        tag, kind, length, value = struct.unpack_from("<HHII", header, 10 + 12 * entry)
        tags[tag] = (kind, length, value & 0xFFFF if kind == 3 else value)
    if any(tag not in tags or tags[tag][1:] != (1, value) for tag, value in _PLAIN_TAGS.items()):
        return False
    kind, length, offset = tags.get(258, (0, 0, 0))  # bits per sample: three shorts elsewhere in the header
    if (kind, length) != (3, 3) or offset + 6 > HEADER_BYTES:
        return False
    return struct.unpack_from("<HHH", header, offset) == (8, 8, 8) and 338 not in tags


def silence_decoders() -> None:
    """Keep Pillow and libtiff from writing to the terminal, for a process whose errors are told in one line.

    Pillow warns of odd tags, and libtiff writes to the descriptor of stderr itself. What is wrong with a file is in the
    exception all the same. A build of Pillow that does not name libtiff's functions is left as it is.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    set_error_handler = getattr(ctypes.CDLL(_imaging.__file__), "TIFFSetErrorHandler", None)
    if set_error_handler is not None:
        set_error_handler(None)


def decode_with_pillow(path: Path, spacing: float | None = None) -> Patch:
    """Read a patch of any format but the competition's, or the centre of a larger image of that spacing, in um/px.

    Raises DataError where it is none.
    """
    try:
        descriptor = _open(path)
    except OSError as error:
        raise _unopened(path, error) from error
    with os.fdopen(descriptor, "rb") as file:
        return _decoded(file, path, spacing)


def decode_bytes(content: bytes, where: Path, spacing: float | None = None) -> Patch:
    """The same of a file's content, the competition's TIFF too."""
    if len(content) == TIFF_BYTES and spacing is None and _is_plain(content[:HEADER_BYTES]):
        return np.frombuffer(content, np.uint8, offset=HEADER_BYTES).reshape(PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
    return _decoded(io.BytesIO(content), where, spacing)


def _decoded(file: io.BufferedReader | io.BytesIO, where: Path, spacing: float | None) -> Patch:
    remedy = "Every patch must be a 96 x 96 image with 8-bit RGB; convert or remove it."
    try:
        with Image.open(file, formats=_FORMATS) as image:
            # Size and mode are known before a pixel is decoded, so a huge image costs nothing.
            require_size(image.size, where, spacing)
            if image.mode != "RGB":
                raise DataError(f"has the mode {image.mode}, not 8-bit RGB", where=where, remedy=remedy)
            if any(";16" in str(tile) for tile in getattr(image, "tile", ())):
                raise DataError("has 16 bits per channel, not 8", where=where, remedy=remedy)
            return np.asarray(image) if spacing is None else centre_of(image, spacing)
    except UnidentifiedImageError as error:
        raise DataError("is not an image that can be read", where=where, remedy=remedy) from error
    except (DataError, MemoryError):
        raise
    except Exception as error:  # decoders meet bytes that nobody planned for: TypeError, KeyError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"is damaged or truncated ({reason})", where=where, remedy="Restore the file.") from error


def require_size(size: tuple[int, int], where: Path, spacing: float | None) -> None:
    """Raise DataError unless an image of that width and height is a patch or, with a spacing, contains one."""
    if spacing is None:
        if size != (PATCH_SIZE_PX, PATCH_SIZE_PX):
            raise DataError(
                f"is {size[0]} x {size[1]} pixels, not 96 x 96",
                where=where,
                remedy="Give the spacing of its pixels in um, as --spacing 0.5, to take its centre; or convert it.",
            )
        return
    if max(size) > _LARGEST_PX:
        raise DataError(
            f"is {size[0]} x {size[1]} pixels, more than the {_LARGEST_PX:,} that an image of a patch may have",
            where=where,
            remedy="Whole slides are for `sentinode slides`.",
        )
    if min(size) < _side_px(spacing) / _SAME:
        raise DataError(
            f"covers {min(size) * spacing:.0f} um at {spacing:g} um/px, less than the "
            f"{PATCH_SIZE_PX * SPACING_UM_PER_PX:.0f} um of a patch",
            where=where,
            remedy="Give larger images, or the right spacing.",
        )


def centre_of(image: Image.Image, spacing: float) -> Patch:
    """The patch in the centre of an image whose pixels measure `spacing` um: cropped, and resampled to 0.972 um/px.

    A pixel of the patch is the mean of those under it; of an image that is coarser, it is interpolated.
    """
    side = min(_side_px(spacing), *image.size)
    left, top = ((length - side) / 2 if side % 1 else (length - int(side)) // 2 for length in image.size)
    if side == PATCH_SIZE_PX:
        return np.asarray(image.crop((int(left), int(top), int(left) + PATCH_SIZE_PX, int(top) + PATCH_SIZE_PX)))
    way = Image.Resampling.BOX if side > PATCH_SIZE_PX else Image.Resampling.BICUBIC
    return np.asarray(image.resize((PATCH_SIZE_PX, PATCH_SIZE_PX), way, (left, top, left + side, top + side)))


def _side_px(spacing: float) -> float:
    """The side of a patch in pixels of that spacing: a whole number where it is within 1 % of a multiple of 96."""
    side = PATCH_SIZE_PX * SPACING_UM_PER_PX / spacing
    times = max(1, round(side / PATCH_SIZE_PX)) * PATCH_SIZE_PX
    return float(times) if 1 / _SAME <= side / times <= _SAME else side


def _competition_header() -> bytes:
    """The 287 bytes before the pixels: 15 tags as the competition's own writer laid them out."""
    description, software, date = b'{"shape": [96, 96, 3]}\0', b"sentinode\0\0\0", b"2018:11:15 17:21:17\0"
    short, long, text = 3, 4, 2
    bits_at = 8 + 2 + 15 * 12 + 4
    description_at = bits_at + 6
    software_at = HEADER_BYTES - len(date) - len(software)
    date_at = HEADER_BYTES - len(date)
    tags = [
        (254, long, 1, 0),
        (256, long, 1, PATCH_SIZE_PX),
        (257, long, 1, PATCH_SIZE_PX),
        (258, short, 3, bits_at),
        (259, short, 1, 1),
        (262, short, 1, 2),
        (270, text, len(description), description_at),
        (273, long, 1, HEADER_BYTES),
        (277, short, 1, 3),
        (278, long, 1, PATCH_SIZE_PX),
        (279, long, 1, PATCH_BYTES),
        (284, short, 1, 1),
        (305, text, len(software), software_at),
        (306, text, len(date), date_at),
        (339, short, 1, 1),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = b"II*\0\x08\0\0\0" + directory + b"\0\0\0\0" + struct.pack("<HHH", 8, 8, 8) + description
    return start.ljust(software_at, b"\0") + software + date


_HEADER: Final = _competition_header()
