"""Input as people have it, damaged or meant to harm: read rightly, or refused in one line that says what is wrong.

Each test is of a kind of input: what it is told, and that it costs little. Whatever is raised is a SentinodeError.
"""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sentinode.audit.explore import Explored
from sentinode.data import cache, hdf5
from sentinode.data.competition import list_images
from sentinode.data.folder import pack_folder, read_folder
from sentinode.data.images import encode_tiff, read_patch
from sentinode.data.tables import SLIDE_COLUMNS, read_column_by_id, read_table
from sentinode.errors import DataError, RunError, SentinodeError, one_line
from sentinode.inference.predictions import Predictions
from sentinode.records import read_record
from sentinode.report.pages.page import write_check_page
from sentinode.runs.decision import open_decision
from sentinode.runs.environment import read_environment
from sentinode.runs.history import read_history
from sentinode.runs.run import Blend, Scores, sealed
from sentinode.runs.run_record import RunRecord
from sentinode.runs.study_record import StudyIdentity, StudyRecord
from sentinode.session import Session
from sentinode.studies.review_record import Review
from sentinode.studies.study import EvidenceRecord

needs_pipes = pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files on POSIX only")
needs_links = pytest.mark.skipif(os.name != "posix", reason="making links wants rights of an administrator elsewhere")

# --- tables -----------------------------------------------------------------------------------------

PLAIN = "id,slide\naé1,s1\nb2,s2\nc3,\n"
MEANT = {"aé1": "s1", "b2": "s2", "c3": ""}
UNKNOWN = ["", "NA", "N/A", "#N/A", "NaN", "nan", "-nan", "None", "null", "NULL", "<NA>", "unknown", "?", " na "]

SAME_TABLE: dict[str, bytes] = {
    "as it is": PLAIN.encode(),
    "byte-order mark": PLAIN.encode("utf-8-sig"),
    "UTF-16, little-endian": b"\xff\xfe" + PLAIN.encode("utf-16-le"),
    "UTF-16, big-endian": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-16 with tabs, as Excel saves Unicode text": b"\xff\xfe" + PLAIN.replace(",", "\t").encode("utf-16-le"),
    "decomposed letters": PLAIN.replace("é", "e\u0301").encode(),
    "Windows line ends": PLAIN.replace("\n", "\r\n").encode(),
    "line ends of an old Macintosh": PLAIN.replace("\n", "\r").encode(),
    "no last line end": PLAIN.rstrip().encode(),
    "empty lines": PLAIN.replace("\n", "\n\n").encode(),
    "semicolons": PLAIN.replace(",", ";").encode(),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "Excel's hint of the separator": b"sep=;\n" + PLAIN.replace(",", ";").encode(),
    "spaces": PLAIN.replace(",", " ,  ").encode(),
    "quoted": b'"id","slide"\n"a\xc3\xa91","s1"\n"b2","s2"\n"c3",""\n',
    "quoted behind a space": b'"id", "slide"\n"a\xc3\xa91", "s1"\n"b2", "s2"\n"c3", ""\n',
    "trailing separators": PLAIN.replace("\n", ",\n").encode(),
    "trailing separators in the rows": PLAIN.replace("1\n", "1,,\n").encode(),
    "trailing separators dropped": PLAIN.replace("c3,", "c3").encode(),
    "empty rows": PLAIN.replace("b2", ",\nb2").encode() + b",,\n",
    "row numbers, as R and pandas write them": b",id,slide\n1,a\xc3\xa91,s1\n2,b2,s2\n3,c3,\n",
    "upper-case header": PLAIN.replace("id,slide", "ID,Slide").encode(),
    "other names": PLAIN.replace("id,slide", "filename,wsi").encode(),
    "other columns": b"x,slide,y,id\n1,s1,,a\xc3\xa91\n2,s2,;,b2\n3,,,c3\n",
    "file names": PLAIN.replace("1,", "1.tif,").replace("2,", "2.PNG,").encode(),
    "upper-case endings": PLAIN.replace("1,", "1.TIF,").replace("2,", "2.Jpeg,").encode(),
    "paths": PLAIN.replace("aé", "../train/aé").replace("b2", "/data/b2.tif").encode(),
    "paths of Windows": PLAIN.replace("aé1", "C:\\data\\train\\aé1.tif").replace("b2", "train\\b2").encode(),
    "both kinds of paths": PLAIN.replace("b2", "x/y\\b2.tif").encode(),
    "the same row twice": PLAIN.encode() + b"b2.tif,s2\n",
    "gzipped": gzip.compress(PLAIN.encode()),
} | {f"unknown as {word!r}": PLAIN.replace("c3,", f"c3,{word}").encode() for word in UNKNOWN}


@pytest.mark.parametrize("content", SAME_TABLE.values(), ids=SAME_TABLE)
def test_a_table_of_slides_says_the_same_however_it_was_saved(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "slides.csv"
    path.write_bytes(content)
    assert read_column_by_id(path, SLIDE_COLUMNS) == MEANT


NO_TABLE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty"),
    "only a mark": (b"\xef\xbb\xbf", "is empty"),
    "only line ends": (b"\n\r\n\n", "is empty"),
    "a header alone": (b"id,slide\n", "has a header but no rows"),
    "a header and empty rows": (b"id,slide\n,\n;\n"[:-2], "has a header but no rows"),
    "other columns": (b"a,b\n1,2\n", "has the columns a, b. It must have the columns id and slide"),
    "no column": (b"hello\nworld\n", "has the columns hello"),
    "latin-1": ("id,slide\na,Köln\n".encode("latin-1"), "not written in UTF-8 (line 2)"),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), "UTF-16 without its mark|not written in UTF-8"),
    "half a letter": (b"id,slide\na,\xe2\x82", "not written in UTF-8"),
    "NUL": (b"id,slide\na\0b,s1\n", "holds NUL characters"),
    "a workbook": (b"PK\x03\x04" + bytes(60), "is a zip file or a workbook, not CSV"),
    "an old workbook": (b"\xd0\xcf\x11\xe0" + bytes(60), "is a workbook, not CSV"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "is an HDF5 file, not CSV"),
    "an image": (encode_tiff(np.zeros((96, 96, 3), np.uint8)), "holds NUL|not written in UTF-8"),
    "two separators in the header": (b"id,slide;x\na,b;c\n", "commas and semicolons in its header"),
    "an open quote": (b'id,slide\n"a,s1\nb,s2\n', "cannot be read as CSV"),
    "a quote in a quoted cell": (b'id,slide\n"a"b,s1\n', "cannot be read as CSV"),
    "more cells than names": (b"id,slide\na,s1,x\n", "3 cells in row 2, and 2 names"),
    "R's row names": (b'"id","slide"\n"1","a","s1"\n', "3 cells in row 2, and 2 names"),
    "decimal commas": (b"id,slide\na,1,5\n", "3 cells in row 2"),
    "two columns of one name": (b"id,slide,slide\na,1,2\n", "two columns 'slide'"),
    "two values of one id": (b"id,slide\na,1\na.tif,2\n", "1 ids have two different values of slide (first: a)"),
    "a slide and none": (b"id,slide\na,1\na,NA\n", "1 ids have two different values"),
    "a row without an id": (b"id,slide\na,1\n,2\n", "1 of 2 rows have no id"),
    "an id that is a folder": (b"id,slide\ntrain/,2\n", "1 of 1 rows have no id"),
    "a damaged gzip": (gzip.compress(PLAIN.encode())[:-9], "is a damaged gzip file"),
    "a gzip of nothing else": (b"\x1f\x8b\x08\0garbage", "is a damaged gzip file"),
}


@pytest.mark.parametrize(("content", "said"), NO_TABLE.values(), ids=NO_TABLE)
def test_what_is_no_such_table_is_told_in_one_line_that_blames_nothing_else(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "slides.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_column_by_id(path, SLIDE_COLUMNS)
    assert any(words in str(caught.value) for words in said.split("|")), str(caught.value)
    assert_one_line(caught.value, path)


def assert_one_line(error: SentinodeError, place: Path | None = None) -> None:
    assert str(error).isprintable()
    assert len(str(error)) < 2500
    if place is not None:
        assert str(error).startswith(f"{place}: ")


def _bomb(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"id,slide\n")
        for _ in range(140):
            file.write(b"a" * 1_000_000)


LIMITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "100,000 columns": (
        lambda p: p.write_text(",".join(f"c{n}" for n in range(100_000)) + "\n" + "1," * 99_999 + "1\n"),
        "has 100,000 columns",
    ),
    "a line of 10 MB": (lambda p: p.write_text("id,slide\na," + "x" * 10_000_000 + "\n"), "a line of 10,000,003"),
    "a line of ten million cells": (lambda p: p.write_text("id,slide\n" + "a," * 5_000_000 + "\n"), "a line of"),
    "a header of 10 MB": (lambda p: p.write_text("x" * 10_000_000 + "\n1\n"), "a line of 10,000,001"),
    "a name of 900,000 letters": (lambda p: p.write_text("id,slide\n" + "n" * 900_000 + ",s\n"), "field larger"),
    "a column's name of 900,000 letters": (lambda p: p.write_text("n" * 900_000 + ",id\na,b\n"), "field larger"),
    "a long name that is read": (lambda p: p.write_text("n" * 100_000 + "\na\n"), "has the columns nnnn"),
    "a gzip that grows": (_bomb, "more than the 128 MB"),
    "300 GB of holes": (lambda p: (p.touch(), os.truncate(p, 300_000_000_000)), "has 300,000 MB"),
    "a directory": (lambda p: p.mkdir(), "is a directory, not a file"),
    "a link to nothing": (lambda p: p.symlink_to("nowhere"), "is missing"),
    "a device without an end": (lambda p: p.symlink_to("/dev/zero"), "is a device, not a file"),
    "a pipe nobody writes to": (lambda p: os.mkfifo(p), "is a pipe, not a file"),
}


@needs_pipes
@pytest.mark.parametrize(("make", "said"), LIMITS.values(), ids=LIMITS)
def test_limits_are_told_before_they_cost_time_or_memory(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "slides.csv"
    make(path)
    with pytest.raises(DataError) as caught:
        read_column_by_id(path, SLIDE_COLUMNS)
    assert said in str(caught.value), str(caught.value)
    assert_one_line(caught.value, path)


def test_a_table_of_more_cells_than_are_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinode.data.tables._MOST_CELLS", 5)
    (tmp_path / "t.csv").write_text(PLAIN, encoding="utf-8")
    with pytest.raises(DataError, match="more than the 5 cells"):
        read_table(tmp_path / "t.csv", purpose="id,slide")


@needs_pipes
@pytest.mark.parametrize("name", ["slides.csv", "groups.csv", "train_labels.csv", "sample_submission.csv"])
@pytest.mark.parametrize(
    "make", [os.mkdir, os.mkfifo, lambda p: p.symlink_to("nowhere")], ids=["directory", "pipe", "link"]
)
def test_a_table_of_the_data_folder_that_is_no_file_is_not_passed_over(
    name: str, make: Callable[[Path], None], competition: Path
) -> None:
    (competition / name).unlink(missing_ok=True)
    make(competition / name)
    with pytest.raises(DataError) as caught:
        read_folder(competition)
    assert_one_line(caught.value, competition / name)


# --- images -----------------------------------------------------------------------------------------


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    """A competition folder of 4 training and 2 test patches."""
    root = tmp_path / "data"
    for part, count in (("train", 4), ("test", 2)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            (root / part / f"{part}{number}.tif").write_bytes(encode_tiff(noise(number)))
    (root / "train_labels.csv").write_text("id,label\n" + "".join(f"train{n},{n % 2}\n" for n in range(4)))
    (root / "sample_submission.csv").write_text("id,label\ntest0,0\ntest1,0\n")
    return root


def encoded(kind: str) -> bytes:
    """A patch in one of the formats that are opened: the competition's TIFF, or what Pillow writes."""
    if kind == "competition":
        return encode_tiff(noise())
    form, _, compression = kind.partition(" ")
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, form, **({"compression": compression} if compression else {}))
    return file.getvalue()


def damaged(content: bytes, how: int) -> bytes:
    """Cut off, or a few bytes changed: in the header, at the end, or anywhere."""
    draw = random.Random(how)
    if how % 4 == 0:
        return content[: draw.randrange(len(content))]
    start, stop = [(0, len(content)), (0, 400), (len(content) - 400, len(content))][how % 4 - 1]
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 6)):
        changed[draw.randrange(max(start, 0), min(stop, len(content)))] = draw.randrange(256)
    return bytes(changed)


FORMATS = [
    "competition", "TIFF", "TIFF tiff_lzw", "TIFF tiff_adobe_deflate", "TIFF jpeg", "TIFF packbits", "PNG", "JPEG",
    "WEBP", "BMP",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("kind", "how"), list(itertools.product(FORMATS, range(16))))
def test_a_damaged_image_is_read_or_refused_in_one_line(kind: str, how: int, tmp_path: Path) -> None:
    path = tmp_path / f"image.{kind.split()[0].lower()}"
    path.write_bytes(damaged(encoded(kind), how))
    try:
        patch = read_patch(path)
    except DataError as error:
        assert_one_line(error, path)
    else:
        assert patch.shape == (96, 96, 3)


def test_decoders_write_nothing_beside_the_one_line(tmp_path: Path) -> None:
    """In a process of its own, because libtiff writes to the descriptor and not to Python's stderr."""
    for (number, kind), how in itertools.product(enumerate(FORMATS), range(12)):
        (tmp_path / f"{number}-{how}.tif").write_bytes(damaged(encoded(kind), how))
    script = (
        "import os, sys; from pathlib import Path\n"
        "from sentinode.data.images import read_patch, silence_decoders; from sentinode.errors import DataError\n"
        "for before in (lambda: None, silence_decoders):\n"
        "    before(); os.write(2, b'----')\n"
        "    for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "        try: read_patch(path)\n"
        "        except DataError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, check=True)
    _, as_they_are, silent = done.stderr.split(b"----")
    assert as_they_are != b""  # else this would test nothing
    assert (silent, done.stdout) == (b"", b"")


@needs_links
@pytest.mark.parametrize("kind", ["competition", "PNG"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_link_to_another_file_is_not_followed(kind: str, inside: bool, competition: Path, tmp_path: Path) -> None:
    """A stranger's data folder must not bring a file of this machine into a page or a prediction."""
    secret = (competition if inside else tmp_path) / "secret.tif"
    secret.write_bytes(encoded(kind))
    (competition / "train" / "train0.tif").unlink()
    (competition / "train" / "train0.tif").symlink_to(secret)
    path = competition / read_folder(competition).training.pixels.names[0]
    with pytest.raises(DataError, match="is a link to another file, and links are not followed") as caught:
        read_patch(path)
    assert_one_line(caught.value, path)


@needs_links
def test_a_folder_of_patches_may_be_a_link(competition: Path, tmp_path: Path) -> None:
    (competition / "train").rename(tmp_path / "elsewhere")
    (competition / "train").symlink_to(tmp_path / "elsewhere")
    listing = read_folder(competition).training
    assert len(listing) == 4
    assert np.array_equal(read_patch(competition / "train" / "train0.tif"), noise(0))


@needs_pipes
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_no_patch(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.tif")
    with pytest.raises(DataError) as caught:
        read_patch(tmp_path / "a.tif")
    assert_one_line(caught.value, tmp_path / "a.tif")


# --- HDF5 -------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(1).integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
STEM = "camelyonpatch_level_2_split"


def write_pcam(root: Path, part: str = "train", **how: object) -> Path:
    """One part of PatchCamelyon's, 12 patches; returns the file of its pixels."""
    root.mkdir(exist_ok=True)
    with h5py.File(root / f"{STEM}_{part}_x.h5", "w") as h5:
        h5.create_dataset("x", data=PIXELS, **how)
    with h5py.File(root / f"{STEM}_{part}_y.h5", "w") as h5:
        h5["y"] = (np.arange(12) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
    return root / f"{STEM}_{part}_x.h5"


def _replace_x(h5: h5py.File, make: Callable[[h5py.File], object]) -> None:
    del h5["x"]
    make(h5)


def _elsewhere(h5: h5py.File) -> Path:
    """A file with the secret: as raw bytes, and as HDF5."""
    path = Path(h5.filename).parent.parent / "secret"
    path.write_bytes(PIXELS.tobytes())
    with h5py.File(path.with_suffix(".h5"), "w") as other:
        other["x"] = PIXELS
    return path


def _virtual(h5: h5py.File, source: str) -> None:
    layout = h5py.VirtualLayout(PIXELS.shape, np.uint8)
    layout[:] = h5py.VirtualSource(source, "x", PIXELS.shape)
    h5.create_virtual_dataset("x", layout, fillvalue=7)


def _external(h5: h5py.File) -> None:
    h5.create_dataset("x", PIXELS.shape, np.uint8, external=[(str(_elsewhere(h5)), 0, PIXELS.nbytes)])


def _claim(h5: h5py.File, rows: int, **how: object) -> None:
    h5.create_dataset("x", (rows, 96, 96, 3), np.uint8, **how)


NO_PIXELS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "external storage": (_external, "is stored in other files"),
    "virtual": (lambda h5: _virtual(h5, f"{_elsewhere(h5)}.h5"), "is stored in other files"),
    "virtual without its source": (lambda h5: _virtual(h5, "nowhere.h5"), "is stored in other files"),
    "an external link": (
        lambda h5: h5.__setitem__("x", h5py.ExternalLink(f"{_elsewhere(h5)}.h5", "x")),
        "links are not followed",
    ),
    "an external link to nothing": (lambda h5: h5.__setitem__("x", h5py.ExternalLink("no.h5", "x")), "is a link"),
    "a soft link": (
        lambda h5: (h5.create_dataset("z", data=PIXELS), h5.__setitem__("x", h5py.SoftLink("/z"))),
        "is a link",
    ),
    "a soft link to itself": (lambda h5: h5.__setitem__("x", h5py.SoftLink("/x")), "is a link"),
    "a group": (lambda h5: h5.create_group("x"), "is not a dataset"),
    "a type": (lambda h5: h5.__setitem__("x", np.dtype("u1")), "is not a dataset"),
    "nothing": (lambda h5: None, "has no dataset 'x'"),
    "2^40 rows": (lambda h5: _claim(h5, 2**40, chunks=(1, 96, 96, 3)), "claims 1,099,511,627,776 rows"),
    "rows never written": (lambda h5: _claim(h5, 12), "is incomplete"),
    "chunks never written": (lambda h5: _claim(h5, 12, chunks=(4, 96, 96, 3), fillvalue=7), "is incomplete"),
    "some chunks never written": (
        lambda h5: (_claim(h5, 12, chunks=(4, 96, 96, 3)), h5["x"].__setitem__(slice(0, 4), PIXELS[:4])),
        "is incomplete",
    ),
    "no rows": (lambda h5: _claim(h5, 0), "of 0 rows none"),
    "huge chunks": (lambda h5: _claim(h5, 100_000, chunks=(10_000, 96, 96, 3)), "has chunks of 276 MB"),
    "other sizes": (lambda h5: h5.__setitem__("x", np.zeros((4, 32, 32, 3), np.uint8)), "not N x 96 x 96 x 3"),
    "other type": (lambda h5: h5.__setitem__("x", np.zeros((4, 96, 96, 3), np.float32)), "float32, not N x 96"),
    "a number": (lambda h5: h5.__setitem__("x", 5), "() int64, not N x 96"),
    "a text": (lambda h5: h5.__setitem__("x", "hello"), "not N x 96"),
    "an empty dataset": (lambda h5: h5.__setitem__("x", h5py.Empty("u1")), "not N x 96"),
}


@pytest.mark.parametrize(("make", "said"), NO_PIXELS.values(), ids=NO_PIXELS)
def test_pixels_that_are_not_in_the_file_are_refused(
    make: Callable[[h5py.File], object], said: str, tmp_path: Path
) -> None:
    path = write_pcam(tmp_path / "pcam")
    with h5py.File(path, "r+") as h5:
        _replace_x(h5, make)
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path / "pcam")
    assert said in str(caught.value), str(caught.value)
    assert_one_line(caught.value, path)


NO_LABELS: dict[str, object] = {
    "too few": np.zeros(3, np.uint8),
    "too many": np.zeros(2**20, np.uint8),
    "another number": np.full(12, 2),
    "fractions": np.full(12, 0.5),
    "words": ["0"] * 12,
    "a number": 1,
}


@pytest.mark.parametrize("labels", NO_LABELS.values(), ids=NO_LABELS)
def test_labels_of_other_patches_are_refused(labels: object, tmp_path: Path) -> None:
    write_pcam(tmp_path / "pcam")
    path = tmp_path / "pcam" / f"{STEM}_train_y.h5"
    with h5py.File(path, "w") as h5:
        h5["y"] = labels
    with pytest.raises(DataError, match="'y' must hold 12 labels, each 0 or 1") as caught:
        read_folder(tmp_path / "pcam")
    assert_one_line(caught.value, path)


@pytest.mark.parametrize("how", range(24))
@pytest.mark.parametrize("chunks", [None, (4, 96, 96, 3)], ids=["contiguous", "gzipped"])
def test_a_damaged_hdf5_file_is_read_in_part_or_refused_by_its_own_name(
    chunks: tuple[int, ...] | None, how: int, tmp_path: Path
) -> None:
    path = write_pcam(tmp_path / "pcam", chunks=chunks, compression="gzip" if chunks else None)
    path.write_bytes(damaged(path.read_bytes(), how))
    try:
        folder = read_folder(tmp_path / "pcam")
        packed = pack_folder(folder, Session(tmp_path / "cache"))
    except DataError as error:
        assert_one_line(error, None if "none of the 12" in str(error) else path)
    else:
        assert len(packed.training) + len(packed.unreadable) == 12
        assert all(entry.reason.startswith(f"{path}: row ") for entry in packed.unreadable)


def test_a_damaged_chunk_costs_its_own_rows_only(tmp_path: Path) -> None:
    path = write_pcam(tmp_path / "pcam", chunks=(4, 96, 96, 3), compression="gzip")
    with h5py.File(path) as h5:
        at = h5["x"].id.get_chunk_info(1).byte_offset
    content = bytearray(path.read_bytes())
    content[at + 10 : at + 50] = bytes(40)
    path.write_bytes(content)
    packed = pack_folder(read_folder(tmp_path / "pcam"), Session(tmp_path / "cache"))
    assert [entry.id for entry in packed.unreadable] == [f"train-{row:06d}" for row in range(4, 8)]
    assert np.array_equal(packed.training.pixels, np.delete(PIXELS, range(4, 8), axis=0))


@pytest.mark.parametrize("rows", [1, 5, 12], ids="chunks of {}".format)
def test_every_chunk_is_unpacked_once(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large: what HDF5 reads from the disk is the file, and not the file many times over."""
    monkeypatch.setattr(cache, "_CHUNK", 2)
    path = write_pcam(tmp_path / "pcam", chunks=(rows, 96, 96, 3), compression="gzip")
    opened = []
    monkeypatch.setattr(hdf5, "open_h5", lambda *a, was=hdf5.open_h5, **k: (opened.append(k), was(*a, **k))[1])
    packed = pack_folder(read_folder(tmp_path / "pcam"), Session(tmp_path / "cache"))
    assert np.array_equal(packed.training.pixels, PIXELS)
    assert opened == [{"cache_bytes": hdf5._LARGEST_CHUNK_BYTES}]  # once, with room for the largest chunk
    with h5py.File(path) as h5:
        assert np.prod(h5["x"].chunks) <= hdf5._LARGEST_CHUNK_BYTES


@pytest.mark.skipif(os.name != "posix", reason="Windows locks what is open itself")
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_file_that_is_open_elsewhere_is_read_or_said_to_be_open(version: str, tmp_path: Path) -> None:
    path = write_pcam(tmp_path / "pcam")
    if version == "latest":  # such a file is marked while it is open for writing
        with h5py.File(path, "w", libver="latest") as h5:
            h5["x"] = PIXELS
    holder = subprocess.Popen(
        [sys.executable, "-c", "import h5py, sys; h5 = h5py.File(sys.argv[1], 'r+'); print(flush=True); input()", path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        if version == "earliest":
            assert len(read_folder(tmp_path / "pcam").training) == 12
        else:
            with pytest.raises(DataError, match="is open for writing elsewhere") as caught:
                read_folder(tmp_path / "pcam")
            assert "Download" not in str(caught.value)
            assert_one_line(caught.value, path)
    finally:
        holder.communicate(b"\n")


# --- layouts ----------------------------------------------------------------------------------------


def put(root: Path, *folders: str) -> None:
    """An image in each of these folders."""
    for number, name in enumerate(folders):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / f"{number}.tif").write_bytes(encode_tiff(noise(number)))


LAYOUTS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "DATA in DATA": (("data/train", "data/test"), "contains one: data/", "Give {}/data"),
    "train in train": (("train/train", "test/test"), "a folder deeper, in train/", "mv {}/train/train/* {}/train/"),
    "a folder for each slide": (("p1", "p2", "p3", "p4", "p5"), "5 folders of images (p1/, p2/, p3/, p4/, ...)", ""),
    "slides in train": (("train/s1", "train/s2"), "which of them is tumour cannot be told", "path,label,slide"),
    "three classes": (("normal", "tumour", "fat"), "3 folders of images (fat/, normal/, tumour/)", "path,label,slide"),
    "images alone": ((".",), "holds 1 images itself", "`predict` takes them"),
    "no images": ((), "is not a competition folder", "Give the folder"),
    "no table": (("train",), "is missing", "id,label"),
}  # fmt: skip


@pytest.mark.parametrize(("folders", "said", "remedy"), LAYOUTS.values(), ids=LAYOUTS)
def test_other_layouts_are_told_by_what_was_found(
    folders: tuple[str, ...], said: str, remedy: str, tmp_path: Path
) -> None:
    root = tmp_path / "hcd"
    root.mkdir()
    put(root, *folders)
    with pytest.raises(DataError) as caught:
        read_folder(root)
    assert said in str(caught.value), str(caught.value)
    assert remedy.replace("{}", str(root)) in str(caught.value), str(caught.value)
    assert_one_line(caught.value)


def test_tiles_of_another_size_are_told_by_their_size(competition: Path, tmp_path: Path) -> None:
    for path in competition.glob("t*/*.tif"):
        Image.new("RGB", (256, 256)).save(path)
    with pytest.raises(DataError, match="is 256 x 256 pixels, not 96 x 96"):
        pack_folder(read_folder(competition), Session(tmp_path / "cache"))


MIRRORS: dict[str, Callable[[str], str]] = {
    "its authors'": lambda name: name,
    "torchvision's": lambda name: f"pcam/{name}",
    "a mirror's": lambda name: {
        f"{STEM}_train_x.h5": "pcam/training_split.h5",
        f"{STEM}_valid_x.h5": "pcam/validation_split.h5",
        f"{STEM}_test_x.h5": "pcam/test_split.h5",
    }.get(name, f"Labels/Labels/{name}"),
}


@pytest.mark.parametrize("parts", [("train",), ("valid",), ("train", "test"), ("train", "valid", "test")], ids="+".join)
@pytest.mark.parametrize("place", MIRRORS.values(), ids=MIRRORS)
def test_patchcamelyon_is_read_as_mirrors_leave_it(
    place: Callable[[str], str], parts: tuple[str, ...], tmp_path: Path
) -> None:
    for part in parts:
        write_pcam(tmp_path / "made", part)
    for path in (tmp_path / "made").iterdir():
        there = tmp_path / "data" / place(path.name)
        there.parent.mkdir(parents=True, exist_ok=True)
        path.rename(there)
    folder = read_folder(tmp_path / "data")
    assert len(folder.training) == 12 * len(set(parts) - {"test"})
    assert (folder.test is not None) == ("test" in parts)
    assert folder.training.labels[:4].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("deeper", ["", "pcam"])
def test_zipped_files_of_patchcamelyon_are_said_to_be_zipped(deeper: str, tmp_path: Path) -> None:
    root = tmp_path / "data" / deeper
    root.mkdir(parents=True)
    path = write_pcam(root)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    assert len(read_folder(tmp_path / "data").training) == 12  # as torchvision leaves them: both forms
    path.unlink()
    with pytest.raises(DataError, match=r"is still zipped\. Unzip all of them: gunzip --keep") as caught:
        read_folder(tmp_path / "data")
    assert_one_line(caught.value, path.with_name(f"{path.name}.gz"))


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are any bytes on Linux only")
def test_a_file_name_that_is_not_utf8_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "ok.tif").touch()
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/K\xf6ln.tif"))).touch()
    with pytest.raises(DataError, match=r"K\\udcf6ln\.tif: has a name that is not UTF-8") as caught:
        list_images(tmp_path, [])
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.tif", "a"),
        ("A.TIF", "A"),
        ("a.b.tiff", "a.b"),
        ("e\u0301.tif", "é"),
        ("é.tif", "é"),
        ("train\\a.tif", "a"),
        ("a b.png", "a b"),
        ("..tif", "."),
        ("a\nb.tif", "a\nb"),
        ("\u202eb.tif", "\u202eb"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="names are freer on POSIX")
def test_a_file_name_gives_the_id_that_a_table_gives(name: str, expected: str, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    try:
        (folder / name).touch()
    except UnicodeEncodeError:
        pytest.skip("this locale cannot spell the name")
    (folder / "other.tif").touch()
    assert set(list_images(folder, [])) == {"other"} | ({expected} if not name.startswith(".") else set())


# --- what reaches the terminal ----------------------------------------------------------------------

NASTY = [
    "a\nb",
    "a\rb",
    "\x1b[2Jgone",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\x00b",
    "\u202egnp.exe",
    "\u2028",
    "a\tb",
    "\x7f",
    "\udcff",
]


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_control_characters_reach_no_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from sentinode.apps import console

    error = DataError(f"has {text}", where=text, remedy=f"Mend {text}.")
    assert_one_line(error)
    console.notice(text)
    console.say(text)
    console.show_table(text, [text], [[text]])
    assert console.exit_code_of(lambda: (_ for _ in ()).throw(error), debug=False) == 2
    assert console.exit_code_of(lambda: (_ for _ in ()).throw(ValueError(text)), debug=False) == 1
    shown = capsys.readouterr()
    assert len((shown.out + shown.err).splitlines()) == 6
    assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())


def test_a_line_of_a_million_letters_is_cut() -> None:
    assert len(one_line("x" * 1_000_000 + " end")) < 2500
    assert one_line("x" * 1_000_000 + " end").endswith(" end")


# --- records of strangers ---------------------------------------------------------------------------

CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "null": b"null",
    "a list": b"[]",
    "a number": b"17",
    "nothing in it": b"{}",
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "no text": b"\xff\xfe\x00",
    "fields of other types": b'{"version": 1, "clusters": 5, "weights": 5, "sha256": 1, "auc": "x"}',
    "a version in words": b'{"version": "1"}',
    "other words": b'{"clusters": 5, "weights": 5, "calibrations": [], "a": "b"}',
    "numbers of 10,000 digits": b'{"patches": ' + b"9" * 10_000 + b"}",
}
READERS: dict[str, Callable[[Path], object]] = {
    "environment.json": lambda folder: read_environment(folder / "environment.json"),
    "manifest.json": sealed,
    "scores.json": lambda folder: read_record(folder / "scores.json", Scores),
    "identity.json": lambda folder: read_record(folder / "identity.json", StudyIdentity),
    "check.json": write_check_page,
    "explore.json": lambda folder: read_record(folder / "explore.json", Explored),
    "evidence.json": lambda folder: read_record(folder / "evidence.json", EvidenceRecord),
    "errors.json": lambda folder: read_record(folder / "errors.json", Review),
    "decision.json": open_decision,
    "blend.json": lambda folder: read_record(folder / "blend.json", Blend),
    "run.json": RunRecord.read,
    "history.csv": lambda folder: read_history(folder / "history.csv"),
    "predictions.csv": lambda folder: Predictions.read(folder / "predictions.csv"),
    "study.json": StudyRecord.read,
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("name", READERS)
def test_a_record_that_does_not_fit_is_one_line_with_its_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((RunError, DataError)) as caught:
        READERS[name](tmp_path)
    assert_one_line(caught.value)
    assert name in str(caught.value) or str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".json")])
def test_a_record_of_another_version_says_so(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"version": 2, "sentinode_run": 1, "note": "", "data_kind": []}')
    with pytest.raises(RunError, match=rf"{name}: is a record of version 2, where version 1 is read\. Read it with"):
        READERS[name](tmp_path)


@pytest.mark.parametrize("row", ["a,2,0.5", "a,1,1.5", "a,1,-0.1", "a,1,nan", "a,x,0.5", "a,1,", "a,1e9,0.5"])
def test_predictions_that_are_none_are_refused(row: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"id,label,probability\n{row}\n")
    with pytest.raises(RunError, match="is not a table of predictions") as caught:
        Predictions.read(tmp_path / "p.csv")
    assert_one_line(caught.value, tmp_path / "p.csv")
