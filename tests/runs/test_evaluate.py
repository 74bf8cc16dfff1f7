"""Finished runs on labelled patches: what they know from training, intervals, slides, one class, where results go."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from in_turn import InTurn
from sentinode.api import runs as api
from sentinode.api.experiments import compare_runs_on, fit
from sentinode.config.presets import load_preset
from sentinode.data.images import encode_tiff, read_patch
from sentinode.errors import DataError, RunError, SentinodeError, StorageError
from sentinode.evaluation.metrics import scores
from sentinode.fitting.checkpoint import save_weights
from sentinode.inference.classifier import Classifier
from sentinode.inference.predictions import Predictions
from sentinode.report.pages.page import write_report
from sentinode.report.sections.tables import between
from sentinode.runs.evaluate import SeenBefore, validation_intervals
from sentinode.runs.run import Run, write_manifest
from sentinode.session import Session
from sentinode.settings import override, to_toml
from sentinode.studies.given import on_other_patches

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")
SETTINGS = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tmp_path_factory.mktemp("evaluate") / "cache", workers=1)


@pytest.fixture(scope="module")
def run(phantom_folder: Path, here: Session) -> Run:
    return fit(
        phantom_folder, override(load_preset("fair").run_config(), SETTINGS), here.cache_root.parent / "run", here
    )


@pytest.fixture(scope="module")
def truth(phantom_folder: Path) -> pd.DataFrame:
    """The phantom's patches, indexed by id: part, label, slide."""
    return pd.read_csv(phantom_folder / "truth.csv", dtype={"id": str}).set_index("id")


@pytest.fixture
def table(tmp_path: Path, truth: pd.DataFrame) -> Callable[[Sequence[str]], Path]:
    """Writes the labels of some patches."""

    def write(ids: Sequence[str]) -> Path:
        path = tmp_path / "labels.csv"
        truth.loc[list(ids), ["label"]].reset_index().to_csv(path, index=False)
        return path

    return write


def of_test(truth: pd.DataFrame, label: int | None = None) -> list[str]:
    test = truth[truth["part"] == "test"]
    return (test if label is None else test[test["label"] == label]).index.tolist()


def test_patches_that_were_trained_on_are_counted_and_said(run: Run, phantom_folder: Path, here: Session) -> None:
    split = pd.read_csv(run.folder / "split.csv")
    trained, validated = ((split["side"] == side).sum() for side in ("training", "validation"))
    found = api.evaluate(run.folder, phantom_folder, phantom_folder / "train_labels.csv", here)
    assert found.seen == SeenBefore(trained, 0, 0, validated)
    told = f"{trained} of {trained + validated} patches were in the training set: this score is too good."
    assert found.notices[0] == told
    assert "validation set" in found.notices[1]


def test_unseen_patches_are_told_nothing_of(
    run: Run, phantom_folder: Path, here: Session, truth: pd.DataFrame, table: Callable[[Sequence[str]], Path]
) -> None:
    found = api.evaluate(run.folder, phantom_folder, table(of_test(truth)), here)
    assert found.seen == SeenBefore(0, 0, 0, 0)
    assert found.notices == found.unknown  # two slides of each class


def test_the_same_patches_in_another_folder_are_known_by_their_ids(
    run: Run, phantom_folder: Path, here: Session, table: Callable[[Sequence[str]], Path], tmp_path: Path
) -> None:
    known, other = sorted(run.training_ids)[:6], tmp_path / "other"
    other.mkdir()
    for i in known:
        shutil.copy(phantom_folder / "train" / f"{i}.tif", other)
    assert api.evaluate(run.folder, other, table(known), here).seen.trained == 6


def test_a_slide_that_was_trained_on_is_known(
    run: Run,
    phantom_folder: Path,
    here: Session,
    truth: pd.DataFrame,
    table: Callable[[Sequence[str]], Path],
    tmp_path: Path,
) -> None:
    taught = truth.loc[sorted(run.training_ids)[0], "slide"]
    ids = of_test(truth)
    pd.DataFrame({"id": ids, "slide": [taught] * 5 + ["elsewhere"] * (len(ids) - 5)}).to_csv(
        tmp_path / "slides.csv", index=False
    )
    found = api.evaluate(run.folder, phantom_folder, table(ids), here, slides=tmp_path / "slides.csv")
    assert found.seen == SeenBefore(0, 0, 5, 0)
    assert [(slide.slide, slide.patches) for slide in found.slides] == [("elsewhere", len(ids) - 5), (taught, 5)]


def test_tissue_that_was_trained_on_is_known_under_another_name(
    run: Run, phantom_folder: Path, here: Session, truth: pd.DataFrame, tmp_path: Path
) -> None:
    """One scored patch is a trained one mirrored, one is another's neighbour, 40 pixels on."""
    data = tmp_path / "data"
    shutil.copytree(phantom_folder, data)
    first, second = sorted(run.training_ids)[:2]
    pixels = read_patch(data / "train" / f"{second}.tif")
    (data / "test" / "mirrored.tif").write_bytes(
        encode_tiff(read_patch(data / "train" / f"{first}.tif")[:, ::-1].copy())
    )
    (data / "test" / "shifted.tif").write_bytes(encode_tiff(np.roll(pixels, -40, axis=1)))
    ids = [*of_test(truth), "mirrored", "shifted"]
    labels = [*truth.loc[ids[:-2], "label"], 0, 1]
    pd.DataFrame({"id": ids, "label": labels}).to_csv(tmp_path / "labels.csv", index=False)
    found = api.evaluate(run.folder, data, tmp_path / "labels.csv", here)
    assert found.seen.tissue == 2
    assert found.notices[0].startswith(f"2 of {len(ids)} patches share tissue")


def test_pseudo_labelled_patches_were_trained_on(run: Run, truth: pd.DataFrame, tmp_path: Path) -> None:
    joined = of_test(truth)[:3]
    folder = tmp_path / "taught"
    shutil.copytree(run.folder, folder)
    Predictions(np.array(joined), np.array([0, 1, 1], np.int8), np.array([0.1, 0.9, 0.9])).write(folder / "teacher.csv")
    assert Run.open(folder).taught_ids == set(joined)
    assert run.taught_ids == set()


def without_drawings(page: str) -> str:
    return re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_every_score_has_an_interval_that_holds_it(
    run: Run, phantom_folder: Path, here: Session, tmp_path: Path
) -> None:
    found = api.evaluate(run.folder, phantom_folder, phantom_folder / "train_labels.csv", here, out=tmp_path / "out")
    written = Predictions.read(tmp_path / "out" / "predictions.csv")
    expected = scores(written.labels, written.probabilities)
    assert set(found.scores) == set(expected)
    for name, interval in found.scores.items():
        assert interval.estimate == pytest.approx(expected[name]), name
        assert interval.low <= interval.estimate <= interval.high, name
    assert found.intervals.cluster_kind == "slide"
    assert found.intervals.clusters == len(found.slides)
    assert found.runtimes == (f"pytorch {version('torch')}",)
    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert record["scores"]["auc"]["estimate"] == expected["auc"]
    assert record["scores"]["auc"]["low"] < expected["auc"] <= record["scores"]["auc"]["high"]
    assert [slide["slide"] for slide in record["slides"]] == sorted(slide["slide"] for slide in record["slides"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "were in the training set: this score is too good" in page
    assert "used neither for training nor for any choice" not in page
    assert "Slide by slide" in page
    # `report` draws the same page from what is in the folder, but for curves, which are kept to five digits; and from
    # nothing that was changed.
    (tmp_path / "out" / "report.html").unlink()
    assert write_report(tmp_path / "out") == [tmp_path / "out" / "report.html"]
    again = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert without_drawings(again) == without_drawings(page)
    Predictions(written.ids, written.labels, 1 - written.probabilities).write(tmp_path / "out" / "predictions.csv")
    with pytest.raises(RunError, match=r"predictions\.csv: is not the file that scores\.json was written with"):
        write_report(tmp_path / "out")


def test_a_runs_page_gives_each_score_its_interval(run: Run) -> None:
    found = validation_intervals([run])
    assert found.cluster_kind == "slide"
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for name, interval in found.scores.items():
        assert interval.estimate == pytest.approx(run.scores[name]), name
        assert between(interval) in page, name


def test_a_slides_line_is_of_its_patches_alone(run: Run, phantom_folder: Path, here: Session, tmp_path: Path) -> None:
    found = api.evaluate(run.folder, phantom_folder, phantom_folder / "train_labels.csv", here, out=tmp_path / "out")
    written = Predictions.read(tmp_path / "out" / "predictions.csv")
    slide_of = pd.read_csv(phantom_folder / "slides.csv", dtype=str).set_index("id")["slide"]
    own = np.array(slide_of.loc[written.ids]) == found.slides[0].slide
    labels, probabilities = written.labels[own], written.probabilities[own]
    expected = scores(labels, probabilities)
    line = found.slides[0]
    assert (line.patches, line.positive) == (len(labels), labels.sum())
    assert line.mean_probability == pytest.approx(probabilities.mean())
    assert line.accuracy == expected["accuracy"]
    np.testing.assert_equal(line.auc, expected["auc"])


def test_operating_points_are_applied_as_they_were_chosen(run: Run, phantom_folder: Path, here: Session) -> None:
    """On the validation set itself they give what the run's decision says of them."""
    validation = run.predictions
    table = phantom_folder / "train_labels.csv"
    found = api.evaluate(run.folder, phantom_folder, table, here)
    assert [point.name for point in found.points] == ["youden", "sensitivity", "cost"]
    for point in found.points:
        chosen = run.decision.points[point.name]
        assert point.threshold == chosen.threshold
        assert point.validation_sensitivity == pytest.approx(
            (validation.probabilities[validation.labels == 1] > chosen.threshold).mean()
        )
        assert 0 <= point.sensitivity.estimate <= 1


@pytest.mark.parametrize(
    ("label", "undefined", "said"),
    [
        (
            0,
            {"auc", "average_precision", "balanced_accuracy", "sensitivity_at_95_specificity", "sensitivity"},
            "negative",
        ),
        (1, {"auc", "balanced_accuracy", "sensitivity_at_95_specificity", "specificity"}, "positive"),
    ],
)
def test_of_one_class_what_is_defined_is_written(
    run: Run,
    phantom_folder: Path,
    here: Session,
    truth: pd.DataFrame,
    table: Callable[[Sequence[str]], Path],
    tmp_path: Path,
    label: int,
    undefined: set[str],
    said: str,
) -> None:
    ids = of_test(truth, label)
    found = api.evaluate(run.folder, phantom_folder, table(ids), here, out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert {name for name, score in record["scores"].items() if score["estimate"] is None} == undefined
    assert record["curves"] is None
    assert f"undefined: all {len(ids)} patches are {said}." in " ".join(found.notices)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"all {len(ids)} patches are {said}" in page
    assert not re.search(r"\bnan\b", page)


def test_a_single_patch_is_scored(
    run: Run, phantom_folder: Path, here: Session, truth: pd.DataFrame, table: Callable[[Sequence[str]], Path]
) -> None:
    found = api.evaluate(run.folder, phantom_folder, table(of_test(truth)[:1]), here)
    assert found.patches == 1
    assert np.isnan(found.scores["accuracy"].low)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("id,label\n", "no rows"),
        ("id,label\nnobody,1\n", "1 of 1"),
        ("id,label\nnobody,\n", "not 0 or 1"),
    ],
)
def test_tables_that_label_nothing_are_one_line(
    run: Run, phantom_folder: Path, here: Session, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        api.evaluate(run.folder, phantom_folder, tmp_path / "labels.csv", here)


def test_without_a_table_only_patchcamelyons_test_part_has_labels(
    run: Run, phantom_folder: Path, here: Session, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"no labels of its own.*--labels"):
        api.evaluate(run.folder, phantom_folder, None, here)
    stem = tmp_path / "camelyonpatch_level_2_split_test"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), dtype=np.uint8)
    with h5py.File(f"{stem}_x.h5", "w") as file:
        file["x"] = pixels
    with pytest.raises(DataError, match="no labels of its own"):
        api.evaluate(run.folder, tmp_path, None, here)
    assert len(api.predict(run.folder, tmp_path, tmp_path / "p.csv", here)) == 8
    with h5py.File(f"{stem}_y.h5", "w") as file:
        file["y"] = (np.arange(8) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
    found = api.evaluate(run.folder, tmp_path, None, here)
    assert (found.patches, found.positive) == (8, 4)


@pytest.fixture
def never_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(*_: object, **__: object) -> Predictions:
        raise AssertionError("a patch was predicted before the place for results was looked at")

    monkeypatch.setattr(Classifier, "__call__", predict)


@pytest.fixture
def places(run: Run, tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    return {
        "below a file": tmp_path / "file" / "out",
        "a folder with other things": tmp_path / "full",
        "a file": tmp_path / "file",
        "a sealed run": run.folder,
        "in a sealed run": run.folder / "new",
    }


@pytest.mark.parametrize(
    "place", ["below a file", "a folder with other things", "a file", "a sealed run", "in a sealed run"]
)
@pytest.mark.usefixtures("never_predicts")
def test_evaluate_looks_at_its_place_first(
    run: Run, phantom_folder: Path, here: Session, places: dict[str, Path], place: str
) -> None:
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(SentinodeError) as caught:
        api.evaluate(run.folder, phantom_folder, phantom_folder / "train_labels.csv", here, out=places[place])
    assert isinstance(caught.value, RunError | StorageError)
    assert str(places[place]) in str(caught.value)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("place", ["below a file", "a folder with other things", "a sealed run", "in a sealed run"])
@pytest.mark.usefixtures("never_predicts")
def test_predict_looks_at_its_place_first(
    run: Run, phantom_folder: Path, here: Session, places: dict[str, Path], place: str
) -> None:
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(SentinodeError) as caught:
        api.predict(run.folder, phantom_folder, places[place], here)
    assert isinstance(caught.value, RunError | StorageError)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("never_predicts")
def test_ids_that_do_not_answer_the_sample_are_told_first(
    run: Run, phantom_folder: Path, here: Session, tmp_path: Path
) -> None:
    (tmp_path / "like.csv").write_text("id,label\nnobody,0\n")
    with pytest.raises(SentinodeError, match=r"have no patch .first: nobody"):
        api.predict(run.folder, phantom_folder, tmp_path / "p.csv", here, like=tmp_path / "like.csv")


def relative(run: Run, folder: Path, *, seed: int, rate: float) -> Path:
    """A run of other settings, its weights a little off: as good as trained, and there at once."""
    shutil.copytree(run.folder, folder)
    config = override(run.config, {"fit.seed": seed, "fit.learning_rate": rate})
    (folder / "config.toml").write_text(to_toml(config))
    network, generator = run.network(CPU), torch.Generator().manual_seed(seed + round(1e6 * rate))
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.02 * torch.randn(weights.shape, generator=generator)
    save_weights(folder / "model.safetensors", network)
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def family(run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two variants of three seeds."""
    root = tmp_path_factory.mktemp("family")
    return [
        relative(run, root / f"{rate}-{seed}", seed=seed, rate=rate) for rate in (0.001, 0.002) for seed in (25, 26, 27)
    ]


def test_runs_are_compared_on_labelled_patches_by_the_same_rule(
    family: list[Path],
    phantom_folder: Path,
    here: Session,
    truth: pd.DataFrame,
    table: Callable[[Sequence[str]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sentinode.runs.tasks.BLOCK_PATCHES", 16)
    ids, engine = of_test(truth), InTurn()
    quick = override(load_preset("fair"), {"compare.replicates": 200})
    labels, out = table(ids), tmp_path / "out"
    asked = replace(here, engine=engine)
    comparison, evidence, seen = compare_runs_on(family, phantom_folder, labels, out, quick, asked)
    assert {tuple(task.given["model"]) for task in engine.sent} == {(str(folder),) for folder in family}
    assert seen == SeenBefore(0, 0, 0, 0)
    assert comparison.seeds == (25, 26, 27)
    assert sorted(comparison.ids) == sorted(ids)
    (verdict,) = evidence.verdicts
    for variant in comparison.variants:
        for one in variant.runs:
            alone = api.evaluate(one.folder, phantom_folder, labels, here)
            assert one.scores["auc"] == pytest.approx(alone.scores["auc"].estimate)
    first, second = (variant.scores("auc") for variant in comparison.variants)
    assert verdict.difference == pytest.approx((second - first).mean())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "on labels.csv" in page
    assert "which were used neither for training nor for any choice" in page
    assert "were in the training set" not in page
    (out / "report.html").unlink()
    assert write_report(out) == [out / "report.html"]
    assert (out / "report.html").read_text(encoding="utf-8") == page
    table = out / "predictions" / "1.csv"
    table.write_bytes(table.read_bytes().replace(b"0.", b"0.0", 1))
    with pytest.raises(RunError, match=r"1\.csv: is not what was compared"):
        write_report(out)


def test_what_any_of_the_runs_was_trained_on_is_said(
    run: Run, family: list[Path], phantom_folder: Path, here: Session, tmp_path: Path
) -> None:
    table, out = phantom_folder / "train_labels.csv", tmp_path / "out"
    quick = override(load_preset("fair"), {"compare.replicates": 200})
    *_, seen = compare_runs_on([family[0], family[3]], phantom_folder, table, out, quick, here)
    assert seen.trained == len(run.training_ids)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{seen.trained} of " in page
    assert "were in the training set of any of the runs: this score is too good" in page
    assert "nothing was fitted or chosen" not in page
    assert json.loads((out / "evidence.json").read_text())["seen"]["trained"] == seen.trained


def test_networks_of_a_seeds_folds_predict_together(run: Run, tmp_path: Path) -> None:
    ids, labels = np.array(["a", "b"]), np.array([0, 1], np.int8)
    folds = [override(run.config, {"split.folds": 2, "split.fold": fold}) for fold in (1, 2)]
    runs = [replace(run, config=config) for config in folds]
    said = [Predictions(ids, labels, np.array(values)) for values in ([0.2, 0.4], [0.4, 0.8])]
    (found,) = on_other_patches(runs, said)
    assert found.predictions.probabilities == pytest.approx([0.3, 0.6])
    assert found.scores["auc"] == 1
    with pytest.raises(RunError, match="the settings, the seed and the fold"):
        on_other_patches([runs[0], runs[0]], said)
