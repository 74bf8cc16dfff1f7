"""The body of a request -> patches. Everything is bounded before it is decoded, and nothing touches the disk."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from sentinode.data.images import PATCH_BYTES, PATCH_SIZE_PX, Patch, decode_bytes
from sentinode.errors import DataError, one_line
from sentinode.inference.classifier import Pixels

NPY: Final = "application/x-npy"
RAW: Final = "application/octet-stream"
MULTIPART: Final = "multipart/form-data"
_LONGEST_NPY_HEADER: Final = 1024
_LONGEST_NAME: Final = 120
_REMEDY: Final = (
    "Send images of 96 x 96 pixels in 8-bit RGB (TIFF, PNG, JPEG, WebP); or give `spacing`, the um of a pixel, "
    "and the patch in the centre is taken."
)


@dataclass(frozen=True)
class Limits:
    """What one request may take of this machine."""

    body_bytes: int = 16 * 2**20
    files: int = 256
    headers_s: float = 10.0
    """For the headers of a request to arrive in."""
    unread_s: float = 30.0
    """For a client to read what waits for it."""
    body_s: float = 20.0
    """For a body to arrive in, and for each MiB of a slide."""
    answer_s: float = 30.0
    """For an answer, from then on."""
    posts: int = 128
    held_bytes: int = 256 * 2**20
    """Requests with a body that are held at once, and the bytes of all their bodies."""
    patches_waiting: int = 2048
    streams: int = 64
    """Clients that hear of jobs at once."""
    slide_bytes: int = 4 * 2**30
    slides: int = 8
    """That clients sent, at once."""
    slide_s: float = 3600.0
    """For a slide to arrive in, and for one that was sent to be asked for again."""


class RefusedError(Exception):
    """A request that cannot be answered; `str()` says why in one line."""

    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, one_line(detail)
        super().__init__(self.detail)


class _InMemory(MultiPartParser):
    """Bodies are bounded, so a file need not go to the disk, as Starlette's parser has it from 1 MB on."""

    spool_max_size = Limits.body_bytes


async def files_of(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Names and contents of the files of a multipart body, in their order; raises RefusedError."""
    parser = _InMemory(request.headers, request.stream(), max_files=limits.files, max_fields=8, max_part_size=4096)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        told = error.message.rstrip(".")
        raise RefusedError(400, f"the body: {told}. Send {MULTIPART} with at most {limits.files} files.") from error
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    try:
        found = [(_name(part.filename, number), await part.read()) for number, part in enumerate(files)]
    finally:
        await form.close()
    if not found:
        raise RefusedError(422, "the body: holds no file. Send one image or more as parts with a filename.")
    return found


def decoded(files: list[tuple[str, bytes]], spacing: float | None) -> Pixels:
    """The patches, (N, 96, 96, 3); raises RefusedError, which names the first that is none, and how many are none."""
    patches: list[Patch] = []
    wrong: list[str] = []
    for name, content in files:
        try:
            patches.append(decode_bytes(content, Path("image"), spacing))
        except DataError as error:
            wrong.append(f"{name}: {error.what}")
    if wrong:
        more = f" ({len(wrong) - 1} more files cannot be read)" if len(wrong) > 1 else ""
        raise RefusedError(422, f"{wrong[0]}{more}. {_REMEDY}")
    return np.stack(patches)


def patches_of_npy(content: bytes, limits: Limits) -> Pixels:
    """The array of an .npy file, (N, 96, 96, 3) of bytes; raises RefusedError for any other.

    The header is read alone: to read all, NumPy would first make room for whatever that promises.
    """
    remedy = f"Send a C-ordered array (N, 96, 96, 3) of uint8 with N from 1 to {limits.files}, as numpy.save writes it."
    file = io.BytesIO(content)
    try:
        first = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, turned, kind = read(file, max_header_size=_LONGEST_NPY_HEADER)
    except Exception as error:  # whatever its parser of literals makes of these bytes
        raise RefusedError(422, f"the body: has no header of an .npy file. {remedy}") from error
    size = (PATCH_SIZE_PX, PATCH_SIZE_PX, 3)
    if kind != np.uint8 or turned or shape[1:] != size or not 1 <= shape[0] <= limits.files:
        raise RefusedError(422, f"the body: is an array {shape} of {kind}. {remedy}")
    if len(content) - file.tell() != shape[0] * PATCH_BYTES:
        raise RefusedError(422, f"the body: does not hold what its header promises, {shape}. {remedy}")
    return np.frombuffer(content, np.uint8, offset=file.tell()).reshape(shape)


def _name(given: str | None, number: int) -> str:
    """The last part of a client's name for a file, fit for one line."""
    name = one_line((given or "").replace("\\", "/").rsplit("/", 1)[-1])[:_LONGEST_NAME]
    return name or f"image {number}"
