"""Every slide is attempted, what was interrupted ends in the same bytes, and nothing of another request is used."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from sentinode import Classifier, Session
from sentinode.errors import ConfigError, DataError, FailureError, RunError
from sentinode.inference import runtimes as ways
from sentinode.inference.runtimes import Fastest, RuntimeCache
from sentinode.records import read_record
from sentinode.report.pages.page import write_report
from sentinode.slides import heatmap, judging
from sentinode.slides.cohort import COHORT_RECORD, CohortRecord, cohort_of, judge_cohort
from sentinode.slides.heatmap import Grid
from sentinode.slides.judging import Model, SlideEntry, SlideSettings
from sentinode.slides.outputs import Journal, open_heat_map, open_slide_record
from sentinode.slides.reader import read_slide
from sentinode.slides.tissue import Reason
from slides.conftest import GLASS, classifier_of, destroy_tile, write_pyramid

SETTINGS = SlideSettings(0.5, "as given")
FILES = {
    "cells.csv",
    "heatmap.ome.tif",
    "lesions.geojson",
    "manifest.json",
    "overlay.png",
    "slide.json",
    "thumbnail.png",
}


def model_of(classifier: Classifier, digest: str = "of the model") -> Model:
    return Model(classifier, digest, "phantom: synthetic tissue")


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmap, "BLOCK_CELLS", 5)


@pytest.fixture
def judged(slide: Path, tmp_path: Path, session: Session) -> Path:
    judge_cohort([SlideEntry(slide, "section")], model_of(classifier_of(1, 2)), SETTINGS, tmp_path / "out", session)
    return tmp_path / "out"


def test_a_slide_has_all_its_files_and_they_agree(judged: Path, slide: Path) -> None:
    folder = judged / "section"
    assert {path.name for path in folder.iterdir()} == FILES
    record = open_slide_record(folder)
    assert record.request.spacing_from == "file"
    assert record.judged_share == record.judged_cells / record.tissue_cells > 0.95
    cells = pd.read_csv(folder / "cells.csv", keep_default_na=False, na_values={"probability": "", "disagreement": ""})
    assert len(cells) == record.rows * record.columns == 19 * 25
    assert (cells["probability"].notna() == (cells["reason"] == "")).all()
    assert cells["probability"].notna().sum() == record.judged_cells
    assert set(cells["reason"]) <= {reason.word for reason in Reason}
    assert (cells["x_px"].iloc[26], cells["y_px"].iloc[26]) == (32, 32)
    with tifffile.TiffFile(folder / "heatmap.ome.tif") as file:
        assert file.is_ome
        seen, numbers = (series.asarray() for series in file.series)
        assert 'PhysicalSizeX="31.104' in file.ome_metadata
    assert seen.dtype == np.uint8
    assert seen.shape == numbers.shape == (2, 19, 25)
    probability = cells["probability"].to_numpy().reshape(19, 25)
    assert np.allclose(numbers[0], probability, atol=5e-4, equal_nan=True)
    assert np.array_equal(seen[0] == 0, np.isnan(probability))
    assert np.nanmax(np.abs((seen[0] - 1.0) / 254 - probability)[seen[0] > 0]) <= 0.5 / 254 + 1e-6
    assert len(json.loads((folder / "lesions.geojson").read_text())["features"]) == len(record.lesions)
    assert Image.open(folder / "overlay.png").size == Image.open(folder / "thumbnail.png").size


@pytest.mark.usefixtures("in_onnxruntime", "undrawn")
def test_all_slides_are_computed_by_what_was_the_fastest_for_the_first_also_after_a_resume(
    tmp_path: Path, slide: Path, tissue_rgb: np.ndarray, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [SlideEntry(slide, "one"), SlideEntry(write_pyramid(tmp_path / "two.tif", tissue_rgb[::-1]), "two")]

    def judge(name: str, cache: str, judging: Session = session) -> Path:
        model = model_of(classifier_of(1, runtimes=RuntimeCache(lambda: tmp_path / cache)))
        judge_cohort(entries, model, SETTINGS, tmp_path / name, judging)
        return tmp_path / name

    def ends(step: str, done: int, total: int, _note: str = "", /) -> None:
        if step == "judge cells" and done > total / 2:
            raise KeyboardInterrupt

    whole = judge("whole", "cache")
    record = open_slide_record(whole / "two")
    assert [way.split()[0] for way in record.computed_by] == ["onnxruntime"]
    assert record.parity is not None
    assert record.parity.largest <= np.finfo(np.float32).eps  # patches that are judged anew are judged likewise
    with pytest.raises(KeyboardInterrupt):
        judge("ended", "cache", replace(session, progress=ends))
    monkeypatch.setattr(Fastest, "tried", None)  # no trial any more, wherever it is gone on with
    monkeypatch.setattr(ways, "_measured", None)
    assert files_in(judge("ended", "another cache")) == files_in(whole)

    def missing(*_: object) -> None:
        raise FailureError("onnxruntime is not installed", remedy="Install it.")

    (tmp_path / "whole" / "two" / "manifest.json").unlink()
    monkeypatch.setattr(Fastest, "_made", missing)
    with pytest.raises(ConfigError, match="was begun with what cannot be had here: onnxruntime is not installed"):
        judge("whole", "a third cache")


def test_every_slide_is_attempted_and_a_bad_one_has_its_reason(
    tmp_path: Path, slide: Path, tissue_rgb: np.ndarray, classifier: Classifier, session: Session
) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    write_pyramid(folder / "good.tif", tissue_rgb)
    write_pyramid(folder / "nothing.tif", np.full_like(tissue_rgb, GLASS))
    write_pyramid(folder / "unknown.tif", tissue_rgb, spacing=None)
    (folder / "torn.svs").write_bytes(b"II*\0" + b"0" * 100)
    entries = [*cohort_of([folder]), SlideEntry(folder / "absent.svs", "absent")]
    out = tmp_path / "out"
    record = judge_cohort(entries, model_of(classifier), SETTINGS, out, session)
    reasons = {row.folder: row.reason for row in record.rows}
    assert reasons["good"] == ""
    assert "no tissue" in reasons["nothing"]
    assert "no spacing" in reasons["unknown"]
    assert "torn.svs" in reasons["torn"]
    assert "is missing" in reasons["absent"]
    assert (out / "nothing" / "thumbnail.png").is_file()
    assert (out / "unknown" / "thumbnail.png").is_file()
    assert not (out / "nothing" / "manifest.json").exists()
    with (out / "slides.csv").open(newline="") as file:
        table = {row["folder"]: row for row in csv.DictReader(file)}
    assert {name: row["state"] for name, row in table.items()} == {
        "good": "done", "nothing": "failed", "unknown": "failed", "torn": "failed", "absent": "failed",
    }  # fmt: skip
    assert read_record(out / COHORT_RECORD, CohortRecord).failed == record.failed
    (page,) = write_report(out)
    text = page.read_text(encoding="utf-8")
    assert "4 slides could not be judged" in text
    assert text.index("shows no tissue") < text.index("<h4>good</h4>")


def test_a_bug_on_one_slide_does_not_stop_the_others(
    tmp_path: Path, slide: Path, classifier: Classifier, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(judging, "find_tissue", broken)
    record = judge_cohort([SlideEntry(slide, "a")], model_of(classifier), SETTINGS, tmp_path / "out", session)
    assert "ZeroDivisionError: oh. This is a bug" in record.rows[0].reason


@pytest.mark.parametrize("kept", [0, 1, 7], ids=["before the first block", "after one", "after seven"])
@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_slide_ends_in_the_same_bytes(
    tmp_path: Path, slide: Path, classifier: Classifier, session: Session, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    entries, model = [SlideEntry(slide, "section")], model_of(classifier)
    judge_cohort(entries, model, SETTINGS, tmp_path / "whole", session)

    def interrupted(*arguments: Any, **options: Any) -> Iterator[heatmap.Block]:
        for number, block in enumerate(heatmap.judge_blocks(*arguments, **options)):
            if number == kept:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(judging, "judge_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge_cohort(entries, model, SETTINGS, tmp_path / "torn", session)
    journal = tmp_path / "torn" / "section" / "journal.bin"
    if kept == 7:
        journal.write_bytes(journal.read_bytes()[:-11])  # killed in the middle of a write
    judged_again: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Iterator[heatmap.Block]:
        for block in heatmap.judge_blocks(*arguments, **options):
            judged_again.append(block.number)
            yield block

    monkeypatch.setattr(judging, "judge_blocks", counted)
    judge_cohort(entries, model, SETTINGS, tmp_path / "torn", session)
    assert files_in(tmp_path / "torn") == files_in(tmp_path / "whole")
    whole = 15  # blocks with tissue
    assert len(judged_again) == {0: whole, 1: whole - 1, 7: whole - 6}[kept]


def test_what_is_finished_is_not_judged_again(
    judged: Path, slide: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(judged)
    monkeypatch.setattr(judging, "judge_blocks", None)
    judge_cohort([SlideEntry(slide, "section")], model_of(classifier_of(1, 2)), SETTINGS, judged, session)
    assert files_in(judged) == before


def test_a_dense_heat_map_says_how_far_off_it_is(tmp_path: Path, slide: Path, session: Session) -> None:
    p4m = {"model.architecture": "p4m", "preprocess.size_px": 48, "preprocess.resize": "area"}
    for settings, dense in (({}, False), (p4m, True)):
        model, asked = model_of(classifier_of(1, settings=settings)), replace(SETTINGS, dense=dense)
        out = tmp_path / str(dense)
        (row,) = judge_cohort([SlideEntry(slide, "section")], model, asked, out, session).rows
        parity = open_slide_record(out / "section").parity
        assert parity is not None
        if dense:
            assert 1e-4 < parity.mean < parity.largest < 0.2
            assert f"by {parity.mean:.3f} in the mean" in row.warnings[0]
        else:
            assert parity.largest < 1e-6
            assert parity.moved == 0
            assert not any("judged dense" in text for text in row.warnings)


def test_finer_cells_are_in_every_record(tmp_path: Path, slide: Path, classifier: Classifier, session: Session) -> None:
    """On the same slide: more of them, and lesions of about the same size."""
    areas = []
    for stride in (32, 16):
        out = tmp_path / str(stride)
        record = judge_cohort(
            [SlideEntry(slide, "section")], model_of(classifier), replace(SETTINGS, stride=stride), out, session
        )
        found = open_slide_record(out / "section")
        shape = -(-600 // stride), 800 // stride
        assert (found.rows, found.columns) == shape
        assert (record.stride, found.request.stride, found.step) == (stride, stride, (stride, stride))
        assert found.step_um == pytest.approx((stride * 0.972,) * 2)
        assert found.parity is not None
        assert found.parity.largest < 1e-6
        cells = pd.read_csv(out / "section" / "cells.csv")
        assert cells[["x_px", "y_px"]].iloc[[1, -1]].to_numpy().tolist() == [
            [stride, 0],
            [800 - stride, stride * (shape[0] - 1)],
        ]
        with tifffile.TiffFile(out / "section" / "heatmap.ome.tif") as file:
            assert file.series[0].shape == shape
        again = open_heat_map(out / "section", found)
        assert again.grid == Grid.of(read_slide(slide).plane(0.972), stride)
        areas.append(sum(lesion.area_mm2 for lesion in found.lesions))
    assert areas[1] == pytest.approx(areas[0], rel=0.3)


@pytest.mark.parametrize("changed", ["model", "threshold", "spacing", "dense", "stride"])
def test_results_of_two_kinds_are_never_mixed(judged: Path, slide: Path, session: Session, changed: str) -> None:
    model, settings = model_of(classifier_of(1, 2)), SETTINGS
    match changed:
        case "model":
            model = replace(model, digest="another")
        case "threshold":
            settings = replace(settings, threshold=0.25)
        case "dense":
            settings = replace(settings, dense=True)
        case "spacing":
            settings = replace(settings, spacing=0.5)
        case "stride":
            settings = replace(settings, stride=8)
    with pytest.raises(ConfigError, match=f"begun with another {changed}"):
        judge_cohort([SlideEntry(slide, "section")], model, settings, judged, session)


def test_a_changed_file_never_gets_the_old_results(
    judged: Path, slide: Path, tissue_rgb: np.ndarray, session: Session
) -> None:
    write_pyramid(slide, tissue_rgb[::-1].copy())
    record = judge_cohort([SlideEntry(slide, "section")], model_of(classifier_of(1, 2)), SETTINGS, judged, session)
    assert "of another file" in record.rows[0].reason


def test_a_result_that_was_changed_is_an_error(judged: Path) -> None:
    (judged / "section" / "cells.csv").write_text("x_px,y_px\n")
    with pytest.raises(RunError, match="has changed since"):
        open_slide_record(judged / "section")


def test_spacings_come_from_the_file_then_the_command_then_the_table(
    tmp_path: Path, tissue_rgb: np.ndarray, classifier: Classifier, session: Session
) -> None:
    write_pyramid(tmp_path / "known.tif", tissue_rgb)
    write_pyramid(tmp_path / "unknown.tif", tissue_rgb, spacing=None)
    (tmp_path / "cohort.csv").write_text("slide,spacing\nknown.tif,0.5\nunknown.tif,0.9\n")
    entries = cohort_of([tmp_path / "cohort.csv"])

    def judged(name: str, spacing: float | None) -> list[tuple[float, float]]:
        out = tmp_path / name
        judge_cohort(entries, model_of(classifier), replace(SETTINGS, spacing=spacing), out, session)
        return [open_slide_record(out / entry.name).request.spacing for entry in entries]

    assert judged("table", None) == [pytest.approx((0.972, 0.972)), (0.9, 0.9)]
    assert judged("command", 0.8)[1] == (0.8, 0.8)
    assert any("is not used" in text for text in open_slide_record(tmp_path / "table" / "known").warnings)


def test_places_alone(tmp_path: Path, slide: Path, classifier: Classifier, session: Session) -> None:
    table = tmp_path / "places.csv"
    table.write_text("slide,x,y\nsection.tif,300,300\nother,1,1\nsection,10,20\n")
    settings = replace(SETTINGS, places=table)
    judge_cohort([SlideEntry(slide, "section")], model_of(classifier), settings, tmp_path / "out", session)
    cells = pd.read_csv(tmp_path / "out" / "section" / "cells.csv")
    assert cells[["x_px", "y_px"]].to_numpy().tolist() == [[284, 284], [-6, 4]]
    assert cells["probability"].notna().all()
    assert open_slide_record(tmp_path / "out" / "section").lesions == ()


def test_slides_of_one_name_get_folders_of_their_own(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        for name in ("same.tif", "same.svs", "other.tif", ".hidden.tif", "notes.txt"):
            (tmp_path / place / name).touch()
    entries = cohort_of([tmp_path / "a", tmp_path / "b", tmp_path / "a" / "same.tif"])
    assert [entry.name for entry in entries] == [
        "other.tif", "same.svs", "same.tif", "other.tif-2", "same.svs-2", "same.tif-2",
    ]  # fmt: skip
    (tmp_path / "b" / "same.svs").write_bytes(b"larger, as slides are than masks")
    with pytest.raises(DataError, match=f"holds no slides. Give {re.escape(str(tmp_path / 'b'))}, which does"):
        cohort_of([tmp_path])
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match=r"holds no slides\. Known are \.svs"):
        cohort_of([tmp_path / "c"])


def test_dicom_files_of_one_series_are_one_slide(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    for name, number in (("a", "072"), ("b", "072"), ("c", "102")):
        shutil.copy(shared(f"camelyon16_tumor_{number}_overview.dcm"), tmp_path / f"{name}.dcm")
    (tmp_path / "d.dcm").write_bytes(b"no DICOM")
    assert [entry.name for entry in cohort_of(str(tmp_path).split())] == ["a", "c", "d"]


def test_a_damaged_tile_is_counted(
    tmp_path: Path, tissue_rgb: np.ndarray, classifier: Classifier, session: Session
) -> None:
    path = write_pyramid(tmp_path / "damaged.tif", tissue_rgb)
    destroy_tile(path, 2 * 7 + 3)
    record = judge_cohort([SlideEntry(path, "damaged")], model_of(classifier), SETTINGS, tmp_path / "out", session)
    assert open_slide_record(tmp_path / "out" / "damaged").left_out["unreadable"] == 36
    assert "36 of" in record.rows[0].warnings[0]


def test_the_journal_gives_blocks_back_and_cuts_off_what_is_torn(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.bin")
    rng = np.random.default_rng(0)
    numbers = rng.random((2, 3, 4)).astype(np.float32)
    block = heatmap.Block(7, slice(5, 8), slice(1, 5), numbers[0], numbers[1], *rng.integers(0, 7, (2, 3, 4), np.uint8))
    journal.append(block)
    journal.append(replace(block, number=8))
    size = (tmp_path / "journal.bin").stat().st_size
    with (tmp_path / "journal.bin").open("ab") as file:
        file.write(b"snbl and then nothing")
    first, second = journal.blocks()
    assert (first.number, second.number, first.rows, first.columns) == (7, 8, slice(5, 8), slice(1, 5))
    assert np.array_equal(first.probability, numbers[0])
    assert np.array_equal(second.reason, block.reason)
    assert np.array_equal(second.unlike, block.unlike)
    assert (tmp_path / "journal.bin").stat().st_size == size
