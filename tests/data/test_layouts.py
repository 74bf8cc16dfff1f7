"""Labelled patches as people keep them: each layout gives the same patches, and what cannot be told is asked."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sentinode.api.data import check, convert
from sentinode.config.run import DataConfig
from sentinode.data.folder import PackedFolder, open_folder, pack_folder, read_folder, read_images
from sentinode.data.images import encode_tiff
from sentinode.errors import ConfigError, DataError, MissingExtraError, SentinodeError
from sentinode.exports.patches import LAYOUTS
from sentinode.session import Session

COUNT = 12


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (COUNT, 96, 96, 3), np.uint8)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "cache", workers=1)


def saved(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def label(row: int) -> int:
    return row % 2


def slide(row: int) -> str:
    return f"s{row // 4}"


def patient(row: int) -> str:
    return f"p{row // 6}"


def class_folders(root: Path, patches: np.ndarray) -> Path:
    for row, pixels in enumerate(patches):
        saved(root / ("normal", "tumour")[label(row)] / patient(row) / slide(row) / f"{row:02d}.png", pixels)
    return root


def classes_within(root: Path, patches: np.ndarray) -> Path:
    for row, pixels in enumerate(patches):
        saved(root / "train" / patient(row) / slide(row) / str(label(row)) / f"{row:02d}.bmp", pixels)
    return root


def table(root: Path, patches: np.ndarray) -> Path:
    rows = []
    for row, pixels in enumerate(patches):
        saved(root / "images" / f"{row:02d}.png", pixels)
        rows.append((f"images\\{row:02d}.png", ("Normal", "Tumor")[label(row)], slide(row), patient(row)))
    pd.DataFrame(rows, columns=["Path", "class", "slide", "patient_id"]).to_csv(root / "patches.csv", index=False)
    return root / "patches.csv"


def archive(root: Path, patches: np.ndarray) -> Path:
    root.mkdir()
    with zipfile.ZipFile(root / "all.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for row, pixels in enumerate(patches):
            name = f"export/{('negative', 'positive')[label(row)]}/{patient(row)}/{slide(row)}/{row:02d}.tif"
            opened.writestr(name, encode_tiff(pixels))
        opened.writestr("export/__MACOSX/._x", b"no image")
    return root / "all.zip"


def npz(root: Path, patches: np.ndarray) -> Path:
    root.mkdir()
    rows = range(COUNT)
    known = {"slides": [slide(row) for row in rows], "patients": [patient(row) for row in rows]}
    ids = np.array([f"{row:02d}" for row in rows])
    np.savez(root / "patches.npz", x=patches, y=np.array([label(row) for row in rows]), ids=ids, **known)
    return root / "patches.npz"


WAYS: list[Callable[[Path, np.ndarray], Path]] = [class_folders, classes_within, table, archive, npz]


def by_id(packed: PackedFolder) -> dict[str, tuple[int, str, str, bytes]]:
    part = packed.training
    known = zip(part.ids, part.labels, part.slides, part.groups, part.pixels, strict=True)
    return {str(i): (int(label), str(s), str(g), pixels.tobytes()) for i, label, s, g, pixels in known}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_layout_gives_the_same_patches(
    way: Callable[[Path, np.ndarray], Path], patches: np.ndarray, tmp_path: Path, session: Session
) -> None:
    folder, left_out = open_folder(way(tmp_path / "data", patches), DataConfig())
    expected = {f"{row:02d}": (label(row), slide(row), patient(row), patches[row].tobytes()) for row in range(COUNT)}
    assert by_id(pack_folder(folder, session)) == expected
    assert not left_out
    assert folder.groups_are_patients
    assert "tumour: " in folder.layout
    assert "3 slides, 2 patients" in folder.layout


@pytest.mark.parametrize("to", LAYOUTS)
def test_what_is_converted_is_read_as_it_was(to: str, patches: np.ndarray, tmp_path: Path, session: Session) -> None:
    source, dest = table(tmp_path / "data", patches), tmp_path / "dest"
    before = by_id(pack_folder(read_folder(source), session))
    convert(source, dest, session=session, to=to)
    folder = read_folder(dest / "patches.csv" if to == "table" else dest)
    after = by_id(pack_folder(folder, session))
    if to == "h5":  # which knows neither ids nor patients
        assert [(a[0], a[1], a[3]) for a in after.values()] == [(b[0], b[1], b[3]) for b in before.values()]
    else:
        assert after == before
        assert folder.groups_are_patients
    with pytest.raises(SentinodeError, match="is not empty"):
        convert(source, dest, session=session, to=to)


def test_what_cannot_be_converted_leaves_nothing(patches: np.ndarray, tmp_path: Path, session: Session) -> None:
    source = npz(tmp_path / "data", patches)
    with pytest.raises(ConfigError, match="unknown layout 'zip'"):
        convert(source, tmp_path / "dest", session=session, to="zip")
    np.savez(source, x=patches, y=np.arange(COUNT) % 2, ids=np.array([f"../{row}" for row in range(COUNT)]))
    with pytest.raises(DataError, match=r"the id '\.\./0' cannot be a file's name"):
        convert(source, tmp_path / "dest", session=session)
    assert not (tmp_path / "dest").exists()


def test_a_test_part_and_a_prediction_of_each(patches: np.ndarray, tmp_path: Path) -> None:
    for part, rows in (("train", range(8)), ("test", range(8, COUNT))):
        for row in rows:
            saved(tmp_path / "data" / part / str(label(row)) / f"{row:02d}.png", patches[row])
    folder = read_folder(tmp_path / "data")
    assert folder.training.ids.tolist() == ["00", "02", "04", "06", "01", "03", "05", "07"]
    assert folder.test is not None
    found = read_images(tmp_path / "data", part="test")
    assert found.listing.ids.tolist() == folder.test.ids.tolist() == ["08", "10", "09", "11"]
    assert found.listing.labels.tolist() == [0, 0, 1, 1]
    assert len(read_images(tmp_path / "data", part="all").listing) == COUNT


def test_the_competitions_download_stays_a_zip_file(patches: np.ndarray, tmp_path: Path, session: Session) -> None:
    path = tmp_path / "histopathologic-cancer-detection.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("train_labels.csv", "id,label\n" + "".join(f"{row:02d},{label(row)}\n" for row in range(8)))
        opened.writestr("sample_submission.csv", "id,label\n" + "".join(f"{row:02d},0\n" for row in range(11, 7, -1)))
        for row, pixels in enumerate(patches):
            opened.writestr(f"{'train' if row < 8 else 'test'}/{row:02d}.tif", encode_tiff(pixels))
    folder, _ = open_folder(path, DataConfig())
    packed = pack_folder(folder, session)
    assert packed.training.ids.tolist() == [f"{row:02d}" for row in range(8)]
    assert np.array_equal(packed.everything.pixels, patches)
    assert folder.sample_ids.tolist() == ["11", "10", "09", "08"]
    assert check(path, session=session).folder.kind == "competition"
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("train/zz.tif", b"")
    with pytest.raises(DataError, match="without a row"):
        open_folder(path, DataConfig())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a/1.png", "b/2.png"], "which of them is tumour cannot be told"),
        (["normal/1.png", "tumour/2.png", "tumour/deeper/3.png"], "at several depths"),
        (["normal/1.png", "tumour/2.png", "benign/3.png"], "holds no image itself, but 3 folders"),
        (["a/x/0/s/1.png", "b/y/1/t/2.png"], "of which only a class, a patient and a slide are known"),
        (["0/a/1.png", "1/b/2.png", "0/b/3.png"], ""),
        (["0/yes/1.png", "1/no/2.png"], "which of them are two classes cannot be told"),
    ],
)
def test_what_folders_do_not_tell_is_asked(names: list[str], said: str, patches: np.ndarray, tmp_path: Path) -> None:
    for name in names:
        saved(tmp_path / name, patches[0])
    if not said:
        assert read_folder(tmp_path).training.slides.tolist() == ["a", "b", "b"]
        return
    with pytest.raises(DataError, match=said) as told:
        read_folder(tmp_path)
    assert str(told.value).count("\n") == 0


def test_the_setting_that_names_the_tumour_answers(patches: np.ndarray, tmp_path: Path) -> None:
    for row, name in enumerate(("adipose", "adeno", "adeno")):
        saved(tmp_path / name / f"{row}.png", patches[row])
    folder = read_folder(tmp_path, DataConfig(tumour="adeno"))
    assert dict(zip(folder.training.ids.tolist(), folder.training.labels.tolist(), strict=True)) == {
        "0": 0, "1": 1, "2": 1,
    }  # fmt: skip
    with pytest.raises(DataError, match="cannot be told"):
        read_folder(tmp_path, DataConfig(tumour="cancer"))
    assert len(read_images(tmp_path, part="test").listing) == 3, "a prediction needs no labels"


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("path,label\n../secret.png,1\n", "does not lie below the table's folder"),
        ("path,label\n/etc/passwd,1\n", "does not lie below the table's folder"),
        ("path,label\nimages/../../x.png,1\n", "does not lie below the table's folder"),
        ("path,label\n,1\n", "a row without a path"),
        ("path,label\na.png,0\na.png,1\n", "names 1 images twice"),
        ("path,label\na.png,0\nb.png,cat\n", "which of them is tumour cannot be told"),
        ("path,label,part\na.png,0,holdout\n", "names the part 'holdout'"),
        ("path,tumour\na.png,0\n", "has the columns path, tumour"),
        ("path,label\nb.png,1\n", "of which none is there"),
        ("path,label,id\na.png,0,x\nc.png,1,x\n", "duplicate ids"),
    ],
)
def test_a_table_that_is_wrong_says_how(cells: str, said: str, patches: np.ndarray, tmp_path: Path) -> None:
    saved(tmp_path / "data" / "a.png", patches[0])
    saved(tmp_path / "data" / "c.png", patches[0])
    (tmp_path / "data" / "t.csv").write_text(cells)
    with pytest.raises(DataError, match=said):
        open_folder(tmp_path / "data" / "t.csv", DataConfig())


def test_a_table_of_parquet(patches: np.ndarray, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    rows = pd.read_csv(table(tmp_path, patches))
    rows.to_parquet(tmp_path / "patches.parquet")
    assert pyarrow
    assert read_folder(tmp_path / "patches.parquet").training.ids.tolist() == [f"{row:02d}" for row in range(COUNT)]


def test_parquet_without_its_extra_says_so(
    patches: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(tmp_path, patches).rename(tmp_path / "patches.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="reading Parquet needs pyarrow"):
        read_folder(tmp_path / "patches.parquet")


def test_of_larger_images_the_centre_is_taken_at_their_spacing(
    patches: np.ndarray, tmp_path: Path, session: Session
) -> None:
    """A fine image of whole blocks gives back its patch; at the patch's own spacing it is cropped."""
    fine = np.pad(patches.repeat(4, axis=1).repeat(4, axis=2), ((0, 0), (8, 8), (12, 12), (0, 0)))
    wide = np.pad(patches, ((0, 0), (80, 80), (80, 80), (0, 0)))
    for name, images, spacing in (("fine", fine, 0.243), ("wide", wide, 0.972), ("about", fine, 0.2425)):
        for row, pixels in enumerate(images):
            saved(tmp_path / name / str(label(row)) / f"{row:02d}.png", pixels)
        folder = read_folder(tmp_path / name, DataConfig(spacing_um_per_px=spacing))
        found = pack_folder(folder, session).training
        order = np.argsort(found.ids)
        assert np.array_equal(found.pixels[order], patches), name
    np.savez(tmp_path / "x.npz", x=fine, y=np.arange(COUNT) % 2)
    arrays = read_folder(tmp_path / "x.npz", DataConfig(spacing_um_per_px=0.243))
    assert np.array_equal(pack_folder(arrays, session).training.pixels, patches)


def test_sizes_are_never_changed_unasked(patches: np.ndarray, tmp_path: Path, session: Session) -> None:
    for row in range(2):
        saved(tmp_path / "data" / str(label(row)) / f"{row}.png", patches[row].repeat(2, axis=0).repeat(2, axis=1))
    for spacing, said in ((None, "is 192 x 192 pixels, not 96 x 96"), (0.25, "covers 48 um at 0.25 um/px, less than")):
        with pytest.raises(DataError, match=said):
            pack_folder(read_folder(tmp_path / "data", DataConfig(spacing_um_per_px=spacing)), session)


def test_an_average_keeps_what_a_patch_measures(tmp_path: Path, session: Session) -> None:
    """Of a smooth image at 0.5 um/px the patch at 0.972 is what the same function gives there."""
    at = (np.arange(256) - 127.5) * 0.5
    smooth = np.rint(128 + 60 * np.sin(at / 15)[:, None] * np.cos(at / 20)[None, :]).astype(np.uint8)
    for row in range(2):
        saved(tmp_path / "data" / str(row) / f"{row}.png", np.dstack([smooth] * 3))
    folder = read_folder(tmp_path / "data", DataConfig(spacing_um_per_px=0.5))
    found = pack_folder(folder, session).training.pixels[0, :, :, 0]
    there = (np.arange(96) - 47.5) * 0.972
    expected = 128 + 60 * np.sin(there / 15)[:, None] * np.cos(there / 20)[None, :]
    steepest = 60 / 15 * 0.5  # a pixel's border falls on the nearest of the image's own: half of one away at most
    assert np.abs(found - expected).max() < steepest / 2 + 1.5


@pytest.mark.parametrize("spoil", ["not a zip", "cut", "huge", "pickle", "floats", "labels"])
def test_damaged_files_end_in_one_line(spoil: str, patches: np.ndarray, tmp_path: Path, session: Session) -> None:
    path = tmp_path / ("x.zip" if spoil in ("not a zip", "cut", "huge") else "x.npz")
    if spoil == "not a zip":
        path.write_bytes(b"PK" + bytes(100))
    elif spoil in ("cut", "huge"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for row in range(2):
                opened.writestr(f"{row}/{row}.png", bytes(200_000_000) if spoil == "huge" else b"\x89PNG\r\n\x1a\n")
    else:
        x = {"floats": patches / 255.0}.get(spoil, patches)
        y = {"labels": np.arange(5)}.get(spoil, np.arange(COUNT) % 2)
        objects = {"slides": np.array([{}] * COUNT, dtype=object)} if spoil == "pickle" else {}
        np.savez(path, x=x, y=y, **objects)
    with pytest.raises(DataError) as told:
        pack_folder(read_folder(path), session)
    assert "\n" not in str(told.value)


def test_a_picture_in_a_zip_file_is_one_of_the_formats(patches: np.ndarray, tmp_path: Path, session: Session) -> None:
    """Compressed TIFF, PNG, WebP and JPEG decode as from a folder."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        for row, (ending, options) in enumerate(
            (("tif", {"compression": "tiff_lzw"}), ("png", {}), ("webp", {"lossless": True}), ("bmp", {}))
        ):
            buffer = io.BytesIO()
            Image.fromarray(patches[row]).save(buffer, {"tif": "TIFF"}.get(ending, ending), **options)
            opened.writestr(f"{label(row)}/{row}.{ending}", buffer.getvalue())
    found = pack_folder(read_folder(tmp_path / "x.zip"), session).training
    assert np.array_equal(found.pixels[np.argsort(found.ids)], patches[:4])
