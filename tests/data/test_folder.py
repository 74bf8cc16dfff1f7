"""Data folders: what is listed, joined, refused, and left out by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from sentinode.config.run import DataConfig
from sentinode.data.folder import open_folder, pack_folder, read_folder, read_images, read_labels, require_readable
from sentinode.data.images import encode_tiff, read_patch
from sentinode.errors import DataError
from sentinode.session import Session


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A competition folder of 12 training and 4 test patches."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for part, count in (("train", 12), ("test", 4)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            patch = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
            (root / part / f"{part}{number:02d}.tif").write_bytes(encode_tiff(patch))
    rows = "".join(f"train{n:02d},{n % 2}\n" for n in reversed(range(12)))
    (root / "train_labels.csv").write_text("id,label\n" + rows)
    (root / "sample_submission.csv").write_text("id,label\n" + "".join(f"test{n:02d},0\n" for n in (3, 1, 0, 2)))
    return root


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_labels_follow_ids_not_rows(folder: Path) -> None:
    listing = open_folder(folder, DataConfig())[0].training
    assert dict(zip(listing.ids, listing.labels, strict=True)) == {f"train{n:02d}": n % 2 for n in range(12)}


def test_sample_ids_keep_their_order(folder: Path) -> None:
    assert open_folder(folder, DataConfig())[0].sample_ids.tolist() == ["test03", "test01", "test00", "test02"]


@pytest.mark.parametrize("header", ["id,slide", "patch,wsi"])
def test_slides_join_by_id(folder: Path, header: str) -> None:
    (folder / "slides.csv").write_text(
        header + "\n" + "".join(f"train{n:02d}.tif,s{n // 4}\n" for n in range(11, -1, -1))
    )
    data, _ = open_folder(folder, DataConfig())
    assert dict(zip(data.training.ids, data.training.slides, strict=True))["train05"] == "s1"
    assert data.training.slides_known
    assert data.test is not None
    assert not data.test.slides_known


def test_a_column_of_another_table_can_give_the_groups(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("id,label,overlap_group\n" + "".join(f"train{n:02d},0,{n if n < 2 else ''}\n" for n in range(12)))
    for given in (table, Path(f"{table}:overlap_group")):
        training = open_folder(folder, DataConfig(groups=given))[0].training
        assert sorted(training.groups[training.groups != ""]) == ["0", "1"]


def test_a_slide_table_of_other_patches_is_refused(folder: Path) -> None:
    (folder / "slides.csv").write_text("id,slide\nother,s1\n")
    with pytest.raises(DataError, match="none of a training patch"):
        open_folder(folder, DataConfig())


def test_two_slides_for_one_patch_are_refused(folder: Path) -> None:
    (folder / "slides.csv").write_text("id,slide\ntrain00,a\ntrain00,b\n")
    with pytest.raises(DataError, match="two different values"):
        open_folder(folder, DataConfig())


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda f: shutil.rmtree(f / "train"), "no train/ folder"),
        (lambda f: (f / "train_labels.csv").unlink(), "missing"),
        (lambda f: (f / "train_labels.csv").write_text(""), "empty"),
        (lambda f: (f / "train_labels.csv").write_text("id,label\n"), "no rows"),
        (lambda f: (f / "train_labels.csv").write_text("name,truth\na,1\n"), "columns name, truth"),
        (lambda f: rewrite(f / "train_labels.csv", "train05,1", "train05,yes"), "'yes'"),
        (lambda f: rewrite(f / "train_labels.csv", "train05,1", "train05,"), "not 0 or 1"),
        (lambda f: rewrite(f / "train_labels.csv", "train05,1", "train05,1\ntrain05,1"), "that repeat an id: 1"),
        (lambda f: rewrite(f / "train_labels.csv", "train05,1", "train05,1\ntrain05,0"), "two different labels|repeat"),
        (
            lambda f: (f / "train" / "train05.tif").unlink(),
            r"without an image in train/: 1 .*\['missing'\]",
        ),
        (lambda f: rewrite(f / "train_labels.csv", "train05,1\n", ""), "without a row in train_labels.csv: 1"),
        (lambda f: rewrite(f / "train_labels.csv", ",1", ",0"), "all 12 training patches have the label 0"),
    ],
)
def test_a_broken_folder_is_refused_in_one_line(folder: Path, break_it: Callable[[Path], object], said: str) -> None:
    break_it(folder)
    with pytest.raises(DataError, match=said) as caught:
        open_folder(folder, DataConfig())
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["missing", "unlabelled"])
def test_what_is_left_out_is_named_and_counted(folder: Path, option: str) -> None:
    if option == "missing":
        (folder / "train" / "train05.tif").unlink()
    else:
        rewrite(folder / "train_labels.csv", "train05,1\n", "")
    data, left_out = open_folder(folder, DataConfig(leave_out=(option,)))
    assert left_out == {option: 1}
    assert "train05" not in data.training.ids


def test_unreadable_images_are_counted_and_refused_or_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "train03.tif").write_bytes(b"broken")
    data, _ = open_folder(folder, DataConfig())
    packed = pack_folder(data, Session(tmp_path / "cache"))
    assert [entry.id for entry in packed.unreadable] == ["train03"]
    assert len(packed.training) == 11
    assert packed.test is not None
    for part, name in ((packed.training, "train"), (packed.test, "test")):
        for i, pixels in zip(part.ids, part.pixels, strict=True):
            assert np.array_equal(pixels, read_patch(folder / name / f"{i}.tif"))
    with pytest.raises(DataError, match=r"1 of 16 .*train03.*\['unreadable'\]"):
        require_readable(packed, DataConfig())
    assert require_readable(packed, DataConfig(leave_out=("unreadable",))) == {"unreadable": 1}


def test_a_plain_folder_of_patches_can_be_predicted(folder: Path) -> None:
    found = read_images(folder / "test", part="test")
    assert found.listing.ids.tolist() == [f"test{n:02d}" for n in range(4)]
    assert len(found.sample_ids) == 0
    assert read_images(folder, part="test").sample_ids.tolist()[0] == "test03"
    assert len(read_images(folder, part="all").listing) == 16


@pytest.mark.parametrize("gone", [["train_labels.csv"], ["train", "train_labels.csv"], ["sample_submission.csv"]])
def test_the_test_part_is_listed_without_what_training_needs(folder: Path, gone: list[str]) -> None:
    for name in gone:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    (folder / "slides.csv").write_text("id,slide\ntest01,w1\n")
    found = read_images(folder, part="test")
    assert found.listing.ids.tolist() == [f"test{n:02d}" for n in range(4)]
    assert found.listing.slides.tolist() == ["", "w1", "", ""]
    assert len(found.sample_ids) == (0 if "sample_submission.csv" in gone else 4)
    assert len(read_images(folder, part="all").listing) == (4 if "train" in gone else 16)


def test_patches_beside_their_sample_submission_are_answered(folder: Path) -> None:
    shutil.copy(folder / "sample_submission.csv", folder / "test")
    assert read_images(folder / "test", part="test").sample_ids.tolist()[0] == "test03"


def test_a_training_part_alone_is_not_held_to_the_sample_submission(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    found = read_images(folder, part="test")
    assert len(found.listing) == 12
    assert len(found.sample_ids) == 0


def test_labels_for_evaluation_join_by_id(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "solution.csv"
    table.write_text("id,label\nb,1\na,0\n")
    assert read_labels(table, np.array(["a", "b", "c"])).tolist() == [0, 1, -1]
    with pytest.raises(DataError, match="without an image"):
        read_labels(table, np.array(["a"]))


@pytest.mark.parametrize("content", ["", "hello"])
def test_a_folder_of_neither_kind_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "file.txt").write_text(content)
    with pytest.raises(DataError, match="not a competition folder"):
        read_folder(tmp_path)


def write_pcam(root: Path, part: str, count: int, slides: list[str]) -> np.ndarray:
    rng = np.random.default_rng(len(part))
    pixels = rng.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
    stem = root / f"camelyonpatch_level_2_split_{part}"
    with h5py.File(f"{stem}_x.h5", "w") as h5:
        h5.create_dataset("x", data=pixels, chunks=(4, 96, 96, 3), compression="gzip")
    with h5py.File(f"{stem}_y.h5", "w") as h5:
        h5["y"] = (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
    pd.DataFrame({"coord_y": 0, "wsi": [slides[n % len(slides)] for n in range(count)]}).to_csv(f"{stem}_meta.csv")
    return pixels


def test_patchcamelyon_gives_the_same_listing(tmp_path: Path) -> None:
    train = write_pcam(tmp_path, "train", 9, ["w1", "w2"])
    valid = write_pcam(tmp_path, "valid", 5, ["w3"])
    test = write_pcam(tmp_path, "test", 6, ["w4"])
    data, _ = open_folder(tmp_path, DataConfig())
    assert data.kind == "PatchCamelyon"
    assert data.training.slides_known
    assert data.training.slides[:2].tolist() == ["w1", "w2"]
    assert data.training.labels.tolist() == [n % 2 for n in range(9)] + [n % 2 for n in range(5)]
    packed = pack_folder(data, Session(tmp_path / "cache"))
    assert np.array_equal(packed.training.pixels, np.concatenate([train, valid]))
    assert packed.test is not None
    assert np.array_equal(packed.test.pixels, test)


@pytest.mark.parametrize("part", ["train", "valid", "test"])
@pytest.mark.parametrize("labelled", [True, False])
def test_one_part_of_patchcamelyon_alone_is_listed(tmp_path: Path, part: str, labelled: bool) -> None:
    write_pcam(tmp_path, part, 6, ["w1", "w2"])
    if not labelled:
        (tmp_path / f"camelyonpatch_level_2_split_{part}_y.h5").unlink()
    for asked in ("test", "all"):
        listing = read_images(tmp_path, part=asked).listing
        assert listing.ids.tolist() == [f"{part}-{n:06d}" for n in range(6)]
        assert listing.labels.tolist() == [n % 2 if labelled else -1 for n in range(6)]
        assert set(listing.slides) == {"w1", "w2"}


def test_patchcamelyons_test_part_alone_is_not_trained_on(tmp_path: Path) -> None:
    write_pcam(tmp_path, "test", 6, ["w1"])
    with pytest.raises(DataError, match="test part alone"):
        open_folder(tmp_path, DataConfig())
    write_pcam(tmp_path, "valid", 6, ["w2"])
    (tmp_path / "camelyonpatch_level_2_split_test_y.h5").unlink()
    folder, _ = open_folder(tmp_path, DataConfig())
    assert folder.test is not None
    assert folder.test.labels.tolist() == [-1] * 6


def test_a_damaged_patchcamelyon_file_is_refused(tmp_path: Path) -> None:
    write_pcam(tmp_path, "train", 4, ["w1"])
    (tmp_path / "camelyonpatch_level_2_split_train_x.h5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="HDF5"):
        open_folder(tmp_path, DataConfig())


def test_a_phantom_is_marked_even_if_its_mark_is_damaged(folder: Path) -> None:
    assert open_folder(folder, DataConfig())[0].note == ""
    (folder / "phantom.json").write_text(json.dumps({"note": "phantom: synthetic tissue"}))
    assert open_folder(folder, DataConfig())[0].note == "phantom: synthetic tissue"
    (folder / "phantom.json").write_text("{")
    assert open_folder(folder, DataConfig())[0].note == "phantom: synthetic tissue"
