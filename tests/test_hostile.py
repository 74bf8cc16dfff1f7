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

import numpy as np
import pytest
from PIL import Image

from sentinode.data.competition import list_images
from sentinode.data.images import encode_tiff, read_patch
from sentinode.data.ingest import read_folder
from sentinode.data.tables import SLIDE_COLUMNS, read_column_by_id, read_table
from sentinode.errors import DataError, SentinodeError, one_line

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


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files on POSIX only")
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
    (tmp_path / "t.csv").write_text(PLAIN)
    with pytest.raises(DataError, match="more than the 5 cells"):
        read_table(tmp_path / "t.csv", purpose="id,slide")


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files on POSIX only")
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


@pytest.mark.skipif(os.name != "posix", reason="making links wants rights of an administrator elsewhere")
@pytest.mark.parametrize("kind", ["competition", "PNG"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_link_to_another_file_is_not_followed(kind: str, inside: bool, competition: Path, tmp_path: Path) -> None:
    """A stranger's data folder must not bring a file of this machine into a page or a prediction."""
    secret = (competition if inside else tmp_path) / "secret.tif"
    secret.write_bytes(encoded(kind))
    (competition / "train" / "train0.tif").unlink()
    (competition / "train" / "train0.tif").symlink_to(secret)
    path = competition / read_folder(competition).training.pixels.names[0]  # type: ignore[union-attr]
    with pytest.raises(DataError, match="is a link to another file, and links are not followed") as caught:
        read_patch(path)
    assert_one_line(caught.value, path)


@pytest.mark.skipif(os.name != "posix", reason="making links wants rights of an administrator elsewhere")
def test_a_folder_of_patches_may_be_a_link(competition: Path, tmp_path: Path) -> None:
    (competition / "train").rename(tmp_path / "elsewhere")
    (competition / "train").symlink_to(tmp_path / "elsewhere")
    listing = read_folder(competition).training
    assert len(listing) == 4
    assert np.array_equal(read_patch(competition / "train" / "train0.tif"), noise(0))


@pytest.mark.skipif(os.name != "posix", reason="pipes are files on POSIX only")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_no_patch(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.tif")
    with pytest.raises(DataError) as caught:
        read_patch(tmp_path / "a.tif")
    assert_one_line(caught.value, tmp_path / "a.tif")


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
    (folder / name).touch()
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
