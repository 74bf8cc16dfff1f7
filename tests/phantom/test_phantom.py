"""The phantom: its folder keeps the competition's layout and its truth is true, to the pixel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.data.images import HEADER_BYTES, TIFF_BYTES, encode_tiff, patch_id, read_patch
from sentinode.errors import DataError, StorageError
from sentinode.phantom.phantom import PhantomSummary, write_phantom
from sentinode.phantom.tissue import paint_section

SMALL = {"patches": 200, "slides": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phantom") / "made"


@pytest.fixture(scope="module")
def summary(folder: Path) -> PhantomSummary:
    return write_phantom(folder, **SMALL, workers=1)


@pytest.fixture(scope="module")
def truth(folder: Path, summary: PhantomSummary) -> pd.DataFrame:
    text = {"id": str, "of": str, "defect": str}
    return pd.read_csv(folder / "truth.csv", dtype=text, keep_default_na=False).set_index("id")


@pytest.fixture(scope="module")
def pixels(folder: Path, summary: PhantomSummary, truth: pd.DataFrame) -> dict[str, np.ndarray]:
    return {id_: read_patch(folder / part / f"{id_}.tif") for id_, part in truth["part"].items()}


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def symmetries(patch: np.ndarray) -> Iterator[np.ndarray]:
    for turned in (patch, patch[:, ::-1]):
        yield from (np.rot90(turned, quarter) for quarter in range(4))


def test_folder_is_a_competition_folder(folder: Path, summary: PhantomSummary, truth: pd.DataFrame) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "train", "test", "train_labels.csv", "sample_submission.csv", "truth.csv", "slides.csv", "attributes.csv",
        "phantom.json",
    }  # fmt: skip
    train, test = truth[truth["part"] == "train"], truth[truth["part"] == "test"]
    assert {path.stem for path in (folder / "train").iterdir()} == set(train.index)
    assert {path.stem for path in (folder / "test").iterdir()} == set(test.index)
    labels = pd.read_csv(folder / "train_labels.csv", dtype={"id": str}).set_index("id")
    assert labels["label"].to_dict() == train["label"].to_dict()
    sample = pd.read_csv(folder / "sample_submission.csv", dtype={"id": str})
    assert list(sample.columns) == ["id", "label"]
    assert set(sample["id"]) == set(test.index)
    assert (sample["label"] == 0).all()
    slides = pd.read_csv(folder / "slides.csv", dtype={"id": str}).set_index("id")
    assert slides["slide"].to_dict() == truth["slide"].to_dict()
    assert list(truth.reset_index().columns) == [
        "id", "part", "slide", "x", "y", "label", "tumour_fraction", "defect", "of",
    ]  # fmt: skip


def test_manifest_says_what_it_is(folder: Path, summary: PhantomSummary, truth: pd.DataFrame) -> None:
    manifest = json.loads((folder / "phantom.json").read_text())
    assert manifest["note"] == "phantom: synthetic tissue"
    assert (manifest["seed"], manifest["patches"], manifest["slides"]) == (25, 200, 6)
    assert summary.patches == len(truth) == 200
    assert summary.positive_patches == truth["label"].sum()
    assert summary.defects == truth.loc[truth["defect"] != "", "defect"].value_counts().to_dict()
    assert set(summary.defects) == {"black", "white", "duplicate", "overlap"}


def test_files_have_the_competition_layout(
    folder: Path, summary: PhantomSummary, pixels: dict[str, np.ndarray]
) -> None:
    for path in folder.glob("*/*.tif"):
        content = path.read_bytes()
        assert len(content) == TIFF_BYTES == 27_935
        assert content[HEADER_BYTES:] == pixels[path.stem].tobytes()
        assert content == encode_tiff(pixels[path.stem])


def test_ids_are_sha1_except_the_planted_copies(truth: pd.DataFrame, pixels: dict[str, np.ndarray]) -> None:
    mismatched = [id_ for id_, patch in pixels.items() if patch_id(patch) != id_]
    assert 1 <= len(mismatched) <= 3
    for id_ in mismatched:
        assert truth.loc[id_, "defect"] == "duplicate"
        assert patch_id(pixels[id_]) == truth.loc[id_, "of"]
        assert len(id_) == 40
        assert set(id_) <= set("0123456789abcdef")


def test_label_is_the_centre_rule(truth: pd.DataFrame) -> None:
    assert ((truth["tumour_fraction"] > 0) == (truth["label"] == 1)).all()
    assert truth["tumour_fraction"].between(0, 1).all()
    pixels_of_tumour = truth["tumour_fraction"] * 32 * 32
    assert np.allclose(pixels_of_tumour, pixels_of_tumour.round(), atol=1e-3)
    assert (truth.loc[truth["defect"].isin(["black", "white"]), "label"] == 0).all()


def test_about_40_percent_are_positive_in_each_part(truth: pd.DataFrame) -> None:
    assert truth["label"].mean() == pytest.approx(0.4, abs=0.05)
    for _, part in truth.groupby("part"):
        assert part["label"].mean() == pytest.approx(0.4, abs=0.1)


def test_no_slide_is_in_both_parts(truth: pd.DataFrame) -> None:
    assert truth[["slide", "part"]].drop_duplicates()["slide"].is_unique
    assert truth.groupby("part")["slide"].nunique().to_dict() == {"train": 5, "test": 1}


def test_planted_overlaps_show_the_same_pixels(truth: pd.DataFrame, pixels: dict[str, np.ndarray]) -> None:
    planted = truth[truth["defect"] == "overlap"]
    assert len(planted) == 6
    for id_, row in planted.iterrows():
        original = truth.loc[row["of"]]
        assert original["slide"] == row["slide"]
        dy, dx = row["y"] - original["y"], row["x"] - original["x"]
        assert 4 <= max(abs(dy), abs(dx)) <= 80
        ours = pixels[id_][max(0, -dy) : 96 - max(0, dy), max(0, -dx) : 96 - max(0, dx)]
        theirs = pixels[row["of"]][max(0, dy) : 96 + min(0, dy), max(0, dx) : 96 + min(0, dx)]
        assert np.array_equal(ours, theirs)


def test_nothing_overlaps_but_what_was_planted(truth: pd.DataFrame) -> None:
    def origin(id_: str) -> str:
        return origin(truth.loc[id_, "of"]) if truth.loc[id_, "of"] else id_

    for _, slide in truth.groupby("slide"):
        for one, other in combinations(slide.itertuples(), 2):
            if abs(one.x - other.x) < 96 and abs(one.y - other.y) < 96:
                assert origin(one.Index) == origin(other.Index)


def test_planted_duplicates_are_equal_under_a_symmetry(truth: pd.DataFrame, pixels: dict[str, np.ndarray]) -> None:
    planted = truth[truth["defect"] == "duplicate"]
    assert len(planted) >= 2
    for id_, of in planted["of"].items():
        assert any(np.array_equal(pixels[id_], view) for view in symmetries(pixels[of]))
        assert truth.loc[id_, ["slide", "x", "y", "label"]].equals(truth.loc[of, ["slide", "x", "y", "label"]])


def test_blank_patches_are_black_or_white(truth: pd.DataFrame, pixels: dict[str, np.ndarray]) -> None:
    for id_, defect in truth["defect"].items():
        if defect == "black":
            assert pixels[id_].max() < 12
        if defect == "white":
            assert pixels[id_].min() > 243


def test_same_seed_same_bytes_whatever_the_workers(folder: Path, summary: PhantomSummary, tmp_path: Path) -> None:
    assert write_phantom(tmp_path / "again", **SMALL, workers=2) == summary
    assert digest(tmp_path / "again") == digest(folder)


def test_another_seed_paints_other_patches(truth: pd.DataFrame, tmp_path: Path) -> None:
    write_phantom(tmp_path / "other", patches=60, slides=3, seed=26)
    assert not set(pd.read_csv(tmp_path / "other" / "slides.csv")["id"]) & set(truth.index)


def test_finished_phantom_is_kept(folder: Path, summary: PhantomSummary) -> None:
    before = (folder / "phantom.json").stat().st_mtime_ns
    assert write_phantom(folder, **SMALL) == summary
    assert (folder / "phantom.json").stat().st_mtime_ns == before


def test_progress_counts_patches(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    (tmp_path / "made").mkdir()  # an empty folder is as good as none
    write_phantom(tmp_path / "made", patches=60, slides=3, on_progress=lambda *step: seen.append(step))
    assert seen == [(20, 60), (40, 60), (60, 60)]


def test_other_folders_are_refused(folder: Path, summary: PhantomSummary, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains another phantom \\(seed 25\\)"):
        write_phantom(folder, **SMALL, seed=26)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty and is not a finished phantom"):
        write_phantom(tmp_path, **SMALL)
    with pytest.raises(DataError, match="is a file"):
        write_phantom(tmp_path / "notes.txt", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patches": 59, "slides": 3}, "59 patches do not fit 3 slides"),
        ({"patches": 90, "slides": 10}, "90 patches do not fit 10 slides"),
        ({"patches": 5000, "slides": 4}, "5000 patches do not fit 4 slides"),
        ({"slides": 2}, "2 slides cannot be split"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"workers": 0}, "0 workers"),
    ],
)
def test_impossible_numbers_are_refused(arguments: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        write_phantom(tmp_path / "none", **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_interruption_leaves_nothing(workers: int, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "made", patches=60, slides=3, workers=workers, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot write"):
        write_phantom(tmp_path / "file" / "made", **SMALL)


def test_section_holds_tumour_paler_than_its_surroundings() -> None:
    section = paint_section(np.random.default_rng(3), side_px=480, tumour_share=0.3)
    assert section.rgb.shape == (480, 480, 3)
    assert section.rgb.dtype == np.uint8
    assert 0.25 < section.tumour.mean() < 0.45
    # Packed lymphocytes are the darkest thing in a node; a tumour's nuclei are larger and paler.
    dark = section.rgb[..., 0] < np.quantile(section.rgb[..., 0], 0.2)
    assert dark[section.tumour].mean() < dark[~section.tumour].mean()
