"""The study as a library: from a folder to pages and a submission, resumed without doing anything twice."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import sentinode
from in_turn import InTurn
from sentinode.config.presets import load_preset
from sentinode.config.study import StudyConfig
from sentinode.errors import DataError, RunError, SubmissionError
from sentinode.explain import explanation
from sentinode.explain.explanation import Explanation
from sentinode.phantom.phantom import write_phantom
from sentinode.records import read_record
from sentinode.report.pages.page import write_report
from sentinode.runs import run as run_module
from sentinode.runs import train
from sentinode.runs.run import verify
from sentinode.runs.study_record import STUDY_EXPLANATION, StudyRecord
from sentinode.session import Session
from sentinode.settings import override

TINY = {
    "fit.epochs": 1,
    "predict.views": 1,
    "tune.search": {"model.bn_momentum": [0.99, 0.5]},
    "compare.replicates": 200,
}


@pytest.fixture
def config() -> StudyConfig:
    return override(load_preset("quick"), TINY)


pytestmark = pytest.mark.usefixtures("undrawn")


class KilledError(Exception):
    pass


def test_killed_in_the_middle_and_resumed_equals_uninterrupted(
    phantom_folder: Path, config: StudyConfig, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "verify", lambda folder: (checked.append(folder), verify(folder)))
        whole = sentinode.study(phantom_folder, config, tmp_path / "whole", session, preset="quick")
    assert sorted(checked) == sorted((tmp_path / "whole" / "runs").iterdir())  # each run once
    with monkeypatch.context() as patch:
        finish, finished = train._Training._finish, []

        def die_in_the_third(*args: Any) -> object:
            finished.append(1)
            if len(finished) == 3:
                raise KilledError
            return finish(*args)

        patch.setattr(train._Training, "_finish", die_in_the_third)
        with pytest.raises(KilledError):
            sentinode.study(phantom_folder, config, tmp_path / "broken", session, preset="quick")
    with pytest.raises(RunError, match="unfinished study"):
        sentinode.write_report(tmp_path / "broken")
    resumed = sentinode.study(phantom_folder, config, tmp_path / "broken", session, preset="quick", resume=True)
    assert (tmp_path / "broken" / "submission.csv").read_bytes() == (tmp_path / "whole" / "submission.csv").read_bytes()
    # Digests differ, for environment.json tells the threads and the commit, and history.csv the seconds.
    found, expected = (replace(study.record, sha256={}, record_sha256="") for study in (resumed, whole))
    assert found == expected


def test_the_study_is_what_it_says_whoever_does_its_tasks(
    phantom_folder: Path, config: StudyConfig, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentinode.runs.tasks.BLOCK_PATCHES", 16)
    engine = InTurn()
    study = sentinode.study(phantom_folder, config, tmp_path / "study", replace(session, engine=engine))
    assert {task.kind for task in engine.sent} == {"run", "block"}
    assert study.record.split_basis == "slide"
    assert study.record.note == "phantom: synthetic tissue"
    assert study.comparison is not None
    assert study.tuning is not None
    assert [v.name for v in study.tuning.variants] == ["bn_momentum 0.99", "bn_momentum 0.5"]
    best = max((*study.comparison.variants, *study.tuning.variants), key=lambda v: v.mean("auc"))
    assert study.chosen.mean("auc") == best.mean("auc")
    submission = pd.read_csv(tmp_path / "study" / "submission.csv")
    members = [sentinode.predict(run.folder, phantom_folder, tmp_path / "p.csv", session) for run in study.chosen.runs]
    mean = np.mean([member["label"].to_numpy() for member in members], axis=0)
    np.testing.assert_allclose(submission["label"], mean, atol=1e-6)
    slides = pd.read_csv(phantom_folder / "slides.csv").set_index("id")["slide"]
    sides = pd.read_csv(tmp_path / "study" / "split.csv")
    assert sides.assign(slide=sides["id"].map(slides)).groupby("slide")["side"].nunique().eq(1).all()
    side_of = sides.set_index("id")["side"]
    assert [of.id for of in study.errors.neighbours] == study.errors.ids_of_mistakes()
    alike = [one.id for of in study.errors.neighbours for neighbours in of.of_class for one in neighbours]
    assert set(side_of[alike]) <= {"training"}
    small = {path.name.removesuffix(".small.jpg") for path in (study.folder / "pictures").glob("*.small.jpg")}
    assert small == {*alike, *study.errors.ids_of_mistakes()}
    chosen = sentinode.load(study.folder, device="cpu")
    shown = [
        Image.open(path) for path in sorted((study.folder / "pictures").glob("*.png")) if path.stem.count(".") == 0
    ]
    alone = [sentinode.load(run.folder, device="cpu")(shown) for run in study.chosen.runs]
    assert chosen(shown).tolist() == np.mean(alone, axis=0).tolist()
    assert chosen.operating_points == study.decision.points
    card = chosen.card()
    assert (card.kind, card.networks) == ("study", len(study.chosen.runs))
    assert (card.cluster_kind, card.clusters) == ("slide", sides[sides["side"] == "validation"]["cluster"].nunique())
    assert card.scores["auc"].reason or card.scores["auc"].low < card.scores["auc"].estimate < card.scores["auc"].high


def test_what_the_options_leave_out_is_counted(
    phantom_folder: Path, config: StudyConfig, session: Session, tmp_path: Path
) -> None:
    leaving = override(config, {"data.leave_out": ["blank", "duplicate"], "seeds": [25]})
    study = sentinode.compare(phantom_folder, leaving, tmp_path / "study", session)
    assert study.tuning is None
    assert study.record.left_out["blank"] > 0
    assert study.record.left_out["duplicate"] > 0
    blank = {i for ids in study.check.audit.blanks.values() for i in ids}
    assert not blank & set(pd.read_csv(tmp_path / "study" / "split.csv")["id"])


def test_bad_data_leaves_no_folder_behind(config: StudyConfig, session: Session, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError):
        sentinode.study(tmp_path / "data", config, tmp_path / "study", session)
    assert not (tmp_path / "study").exists()


def test_images_that_the_submission_lacks_are_told_before_anything_is_trained(
    phantom_folder: Path, config: StudyConfig, session: Session, tmp_path: Path
) -> None:
    shutil.copytree(phantom_folder, tmp_path / "data")
    lost = min((tmp_path / "data" / "test").iterdir())
    lost.unlink()
    with pytest.raises(SubmissionError, match=rf"1 of .* have no image in the test part .*first: {lost.stem}"):
        sentinode.study(tmp_path / "data", config, tmp_path / "study", session)
    assert not (tmp_path / "study").exists()
    told: list[str] = []
    without = override(config, {"data.leave_out": ["missing"], "fit.epochs": 1})
    asking = replace(session, notify=told.append)
    study = sentinode.compare(tmp_path / "data", override(without, {"seeds": [25]}), tmp_path / "study", asking)
    assert study.record.submission_rows == 0
    assert "so there will be no submission" in told[0]


def test_a_folder_of_something_else_is_not_touched(
    phantom_folder: Path, config: StudyConfig, session: Session, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match=r"is not empty and contains no study\.toml"):
        sentinode.study(phantom_folder, config, tmp_path, session)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_study_is_not_resumed_with_other_data_or_another_question(
    phantom_folder: Path, config: StudyConfig, session: Session, tmp_path: Path
) -> None:
    one_seed = override(config, {"seeds": [25]})
    sentinode.compare(phantom_folder, one_seed, tmp_path / "study", session)
    before = {path: path.read_bytes() for path in (tmp_path / "study").rglob("*") if path.is_file()}
    write_phantom(tmp_path / "other", patches=80, slides=8, seed=8, workers=1)
    with pytest.raises(RunError, match="was started with other patches"):
        sentinode.compare(tmp_path / "other", one_seed, tmp_path / "study", session, resume=True)
    with pytest.raises(RunError, match="contains a study of other questions"):
        sentinode.tune(phantom_folder, one_seed, tmp_path / "study", session, resume=True)
    assert {path: path.read_bytes() for path in before} == before


def test_a_study_of_enough_validation_patches_says_what_its_choice_looks_at(
    phantom_folder: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sealed with the study, and its mistakes stand beside their maps."""
    monkeypatch.setattr(explanation, "EXAMINED", 48)
    out = tmp_path / "study"
    settings = {"fit.epochs": 1, "predict.views": 1, "split.validation_fraction": 0.3, "seeds": [25]}
    config = override(load_preset("fair"), settings)
    sentinode.compare(phantom_folder, config, out, session)
    found = read_record(out / STUDY_EXPLANATION, Explanation)
    assert STUDY_EXPLANATION.as_posix() in StudyRecord.read(out).sha256
    assert [exam.method for exam in found.exam.methods] == ["cam", "occlusion", "constant", "edges"]
    page = (out / "report.html").read_text()
    assert "What it looks at" in page
    assert ("its map by" in page) == bool(found.exam.passed)
    (out / STUDY_EXPLANATION).write_text("{}")
    with pytest.raises(RunError, match="has changed since the study was finished"):
        write_report(out)
