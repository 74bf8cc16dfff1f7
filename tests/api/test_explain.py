"""What a run looks at, from folders to a page: every file, every refusal in one line, places on a slide."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.api.experiments import fit
from sentinode.api.explain import explain_model
from sentinode.config.presets import load_preset
from sentinode.errors import ConfigError, DataError, RunError
from sentinode.explain.exam import Exam, MethodExam
from sentinode.explain.explanation import EXPLANATION, Explanation
from sentinode.records import read_record, write_record
from sentinode.report.pages.page import write_report
from sentinode.runs.run import Run
from sentinode.session import Session
from sentinode.settings import override

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tmp_path_factory.mktemp("explain") / "cache", workers=1)


@pytest.fixture(scope="module")
def run(phantom_folder: Path, here: Session) -> Run:
    settings = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1}
    config = override(load_preset("fair").run_config(), settings)
    return fit(phantom_folder, config, here.cache_root.parent / "run", here)


@pytest.fixture(scope="module")
def explained(run: Run, phantom_folder: Path, here: Session) -> Path:
    """All labelled patches of the phantom, against the run itself."""
    out = here.cache_root.parent / "explained"
    truth = pd.read_csv(phantom_folder / "truth.csv", dtype={"id": str})
    labels = here.cache_root.parent / "labels.csv"
    truth[["id", "label"]].to_csv(labels, index=False)
    explain_model(run.folder, phantom_folder, out, here, labels=labels, patches=30, against=run.folder)
    return out


def test_every_file_is_there_and_the_record_is_what_was_returned(explained: Path) -> None:
    found = read_record(explained / EXPLANATION, Explanation)
    assert {path.name for path in explained.iterdir()} == {EXPLANATION, "patches.csv", "pictures", "report.html"}
    assert found.patches == 30
    assert found.found > 30
    assert len(found.exam.methods) == 5
    pictures = {path.name for path in (explained / "pictures").iterdir()}
    methods = found.exam.passed
    assert pictures == {
        f"{patch.id}{end}.png" for patch in found.shown for end in ("", *(f".{method}" for method in methods))
    }
    with (explained / "patches.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    logits = {row["id"]: float(row["logit"]) for row in rows}
    for patch in found.shown:
        assert logits[patch.id] == pytest.approx(patch.logit, rel=1e-5)
    assert "known from training" in found.notices[0]
    assert found.concepts is not None
    assert found.concepts.patches == 30


def test_a_run_looks_where_it_looks_itself(explained: Path) -> None:
    found = read_record(explained / EXPLANATION, Explanation)
    assert found.rival is not None
    assert found.rival.look.centre_blurred == found.look.centre_blurred
    assert all(verdict.difference == 0 for verdict in found.rival.verdicts)


def test_the_page_is_drawn_again_from_the_record_alone(explained: Path) -> None:
    before = (explained / "report.html").read_text()
    (explained / "report.html").unlink()
    assert write_report(explained) == [explained / "report.html"]
    assert (explained / "report.html").read_text() == before
    for section in ("exam", "look", "concepts", "maps"):
        assert f'id="{section}"' in before


def passing(found: Explanation, *methods: str) -> Explanation:
    """The same where other methods passed."""

    def judged(exam: MethodExam) -> MethodExam:
        return replace(exam, failed=() if exam.method in methods else ("stability",), refused=None)

    return replace(found, exam=replace(found.exam, methods=tuple(map(judged, found.exam.methods))))


def test_a_few_patches_are_explained_by_an_earlier_exam_and_only_what_passed_it_is_shown(
    run: Run, phantom_folder: Path, explained: Path, here: Session, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    write_record(earlier / EXPLANATION, passing(read_record(explained / EXPLANATION, Explanation), "occlusion"))
    out = tmp_path / "few"
    found = explain_model(run.folder, phantom_folder / "test", out, here, patches=3, examined=earlier)
    assert found.examined_on == "earlier"
    assert found.concepts is None
    assert all(patch.label is None for patch in found.shown)
    assert {path.name.split(".")[1] for path in (out / "pictures").iterdir()} == {"occlusion", "png"}
    page = (out / "report.html").read_text()
    assert "earlier" in page
    assert page.count("data:image/png") == 6
    assert "No pictures by integrated gradients: it failed in stability." in page


def test_an_exam_of_another_model_does_not_count(
    run: Run, phantom_folder: Path, explained: Path, here: Session, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    write_record(other / EXPLANATION, replace(read_record(explained / EXPLANATION, Explanation), model_sha256="0"))
    with pytest.raises(ConfigError, match="another model"):
        explain_model(run.folder, phantom_folder / "test", tmp_path / "out", here, examined=other)
    with pytest.raises(ConfigError, match="another model"):  # nor does that of another mean of views
        explain_model(run.folder, phantom_folder / "test", tmp_path / "out", here, examined=explained, views=8)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_explained_leaves_nothing_behind(
    run: Run, phantom_folder: Path, here: Session, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        explain_model(run.folder, tmp_path / "empty", tmp_path / "out", here)
    with pytest.raises(RunError):
        explain_model(phantom_folder, phantom_folder, tmp_path / "out", here)
    with pytest.raises(ConfigError, match="cannot explain 5 views"):
        explain_model(run.folder, phantom_folder, tmp_path / "out", here, views=5)
    assert not (tmp_path / "out").exists()


def test_places_on_a_slide_are_explained(run: Run, explained: Path, here: Session, tmp_path: Path) -> None:
    from PIL import Image

    tissue = np.random.default_rng(0).integers(80, 220, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(tissue).save(tmp_path / "region.png")
    (tmp_path / "at.csv").write_text("x,y\n100,120\n200,240\n")
    found = explain_model(
        run.folder, tmp_path / "region.png", tmp_path / "out", here, at=tmp_path / "at.csv", spacing=0.972,
        examined=explained,
    )  # fmt: skip
    assert {patch.id for patch in found.shown} == {"region-100-120", "region-200-240"}
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures" / "region-100-120.png"))
    assert np.array_equal(picture, tissue[72:168, 52:148])


def test_an_exam_that_a_control_passes_is_warned_of(explained: Path, tmp_path: Path) -> None:
    found = passing(read_record(explained / EXPLANATION, Explanation), "constant")
    assert not found.exam.sound
    write_record(tmp_path / EXPLANATION, found)
    assert "A control passed the exam" in write_report(tmp_path)[0].read_text()


def test_an_exam_says_who_passed() -> None:
    def of(method: str, *failed: str) -> MethodExam:
        return MethodExam(method, None, 1.0, (), None, None, 1.0, failed)

    exam = Exam(4, 2, "slides", (of("cam"), of("occlusion", "stability"), of("constant")))
    assert exam.passed == ("cam",)
    assert not exam.sound
