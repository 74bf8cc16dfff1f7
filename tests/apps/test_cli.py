"""The command line as a user meets it: results on standard output, one line for an error, right exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.main import get_command

from sentinode.api.export import FORMATS
from sentinode.apps.cli import app
from sentinode.config.presets import PRESETS
from sentinode.config.run import DrawnSplit, Weighting
from sentinode.data.cache import pack
from sentinode.data.competition import listing_of_files
from sentinode.data.images import encode_tiff
from sentinode.evaluation.calibration import Method
from sentinode.exports.patches import LAYOUTS
from sentinode.phantom.whole_slides import paint_slide, write_pyramid
from sentinode.runs.load import digest_of_model
from sentinode.runs.run import Run, write_manifest
from sentinode.slides.outputs import open_slide_record

pytestmark = pytest.mark.usefixtures("undrawn")  # `tests/report` draws pages

TINY = [
    "--set", "fit.epochs=1", "--set", "seeds=[25]", "--set", "tune.search={'model.bn_momentum'=[0.75, 0.5]}",
    "--set", "predict.views=1", "--set", "compare.replicates=200",
]  # fmt: skip
FOR_FITTING = ("scipy", "sklearn", "optuna")
FOR_PAGES = ("matplotlib", "jinja2")
COMMANDS = [
    "phantom", "check", "split", "study", "train", "distill", "compare", "tune", "ensemble", "predict", "evaluate",
    "export", "slides", "score-slides", "serve", "report", "cache", "doctor",
]  # fmt: skip


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


def sentinode(*arguments: str | Path, cache: Path | None = None) -> Result:
    """Run a command in this process, as `main` does."""
    from sentinode.apps.cli import run

    words = [str(argument) for argument in arguments]
    if cache and words[0] not in ("phantom", "report", "ensemble", "score-slides") and "--cache" not in words:
        words += ["--cache", str(cache)]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    return Result(code, out.getvalue(), err.getvalue())


def start(*arguments: str | Path, cache: Path) -> subprocess.Popen[str]:
    """Start a command as a process of its own, to be interrupted."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SENTINODE_CACHE": str(cache)}
    command = [sys.executable, "-m", "sentinode.apps.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def loaded_by(*commands: list[str | Path]) -> list[set[str]]:
    """The modules that a process of its own has imported by the end of each command, one after another."""
    code = (
        "import json, sys; from sentinode.apps.cli import run\n"
        "for command in json.loads(sys.argv[1]): assert not run(command); print('loaded', *sys.modules)"
    )
    words = json.dumps([[str(word) for word in command] for command in commands])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(
        [sys.executable, "-c", code, words], capture_output=True, text=True, check=True, env=environment
    ).stdout
    return [set(line.split()[1:]) for line in said.splitlines() if line.startswith("loaded ")]


def refused(result: Result, said: str, code: int = 2) -> None:
    """One line that says what, where and what next; no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert said in lines[0]
    assert result.stderr.rstrip().endswith(lines[0])
    assert "Traceback" not in result.stderr
    assert result.returncode == code


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(phantom_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of the small phantom."""
    out = tmp_path_factory.mktemp("study") / "out"
    result = sentinode("study", phantom_folder, "--preset", "quick", "--out", out, *TINY, cache=cache)
    assert result.returncode == 0, result.stderr
    *told, report, submission = result.stdout.splitlines()
    assert [report, submission] == [str(out / "report.html"), str(out / "submission.csv")]
    assert any("too few to tell" in line.lower() for line in told)  # the verdicts
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A competition folder of 8 patches, to be broken."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "train").mkdir(parents=True)
    for number in range(8):
        patch = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        (tmp_path / "data" / "train" / f"p{number}.tif").write_bytes(encode_tiff(patch))
    rows = "".join(f"p{n},{n % 2}\n" for n in range(8))
    (tmp_path / "data" / "train_labels.csv").write_text("id,label\n" + rows)
    return tmp_path / "data"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(command: str) -> None:
    result = sentinode(command, "--help")
    assert result.returncode == 0
    assert f"Example: sentinode {command}" in result.stdout


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [
        ("study", "preset", PRESETS),
        ("split", "group_by", (*get_args(DrawnSplit.model_fields["by"].annotation), "file")),
        ("convert", "to", LAYOUTS),
        ("export", "to", (*FORMATS, "all")),
        ("ensemble", "weights", get_args(Weighting)),
        ("predict", "calibrate", get_args(Method)),
        ("slides", "calibrate", get_args(Method)),
    ],
)
def test_a_help_names_every_choice_and_no_other(command: str, option: str, choices: tuple[str, ...]) -> None:
    told = {parameter.name: parameter.help for parameter in get_command(app).commands[command].params}[option]
    listed = re.sub(r"\(.*?\)|[,;] with.*", "", told.partition(": ")[2])
    assert set(re.findall(r"[a-z0-9-]+", listed)) - {"or"} == set(choices)


def test_no_paragraph_of_a_help_is_broken_where_its_source_is() -> None:
    for command in app.registered_commands:
        assert command.help
        assert all("\n" not in paragraph for paragraph in command.help.split("\n\n")), command.help


def test_a_study_leaves_a_checked_submission_and_pages(finished: Path, phantom_folder: Path) -> None:
    submission = pd.read_csv(finished / "submission.csv")
    sample = pd.read_csv(phantom_folder / "sample_submission.csv")
    assert submission["id"].tolist() == sample["id"].tolist()
    assert submission["label"].between(0, 1).all()
    for page in ("report.html", "check.html"):
        assert "phantom: synthetic tissue" in (finished / page).read_text(encoding="utf-8")


def test_a_finished_study_is_refused_then_resumed_without_training(
    finished: Path, phantom_folder: Path, cache: Path
) -> None:
    again = ["study", phantom_folder, "--preset", "quick", "--out", finished, *TINY]
    refused(sentinode(*again, cache=cache), "already contains a study")
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("model.safetensors")}
    assert sentinode(*again, "--resume", cache=cache).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    refused(sentinode(*again, "--resume", "--set", "fit.epochs=2", cache=cache), "other settings")


def test_one_line_a_step_where_there_is_no_terminal(phantom_folder: Path, cache: Path, tmp_path: Path) -> None:
    result = sentinode("check", phantom_folder, "--out", tmp_path / "check", cache=tmp_path / "fresh")
    assert result.returncode == 0
    steps = [line.split(":")[0] for line in result.stderr.splitlines()]
    assert steps == ["pack", "read", "compare", "explore"]
    assert "\r" not in result.stderr
    table = [line.split("\t") for line in result.stdout.splitlines()]
    assert ["patches", "240"] in [row[:2] for row in table]
    assert (tmp_path / "check" / "check.json").is_file()
    assert (tmp_path / "check" / "check.html").is_file()


def test_predict_and_evaluate_agree_with_the_study(
    finished: Path, phantom_folder: Path, cache: Path, tmp_path: Path
) -> None:
    like = phantom_folder / "sample_submission.csv"
    result = sentinode(
        "predict", finished, phantom_folder / "test", "--out", tmp_path / "s.csv", "--like", like, cache=cache
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "s.csv").read_bytes() == (finished / "submission.csv").read_bytes()
    truth = pd.read_csv(phantom_folder / "truth.csv")
    truth.loc[truth["part"] == "test", ["id", "label"]].to_csv(tmp_path / "solution.csv", index=False)
    result = sentinode(
        "evaluate",
        finished,
        phantom_folder,
        "--labels",
        tmp_path / "solution.csv",
        "--out",
        tmp_path / "e",
        cache=cache,
    )
    assert result.returncode == 0, result.stderr
    table = [line.split("\t") for line in result.stdout.splitlines()]
    assert table[0] == ["score", "value", "low", "high"]
    assert table[1][0] == "auc"
    assert ["slide", "patches", "positive", "mean probability", "auc", "accuracy"] in table
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [
        "pictures", "predictions.csv", "report.html", "scores.json",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(finished: Path) -> Path:
    """One of the study's runs."""
    return next(iter(sorted((finished / "runs").iterdir())))


def test_predict_with_an_engine_is_predict(trained: Path, phantom_folder: Path, cache: Path, tmp_path: Path) -> None:
    ask = ["predict", trained, phantom_folder / "test", "--threads", "1"]
    assert sentinode(*ask, "--out", tmp_path / "one.csv", cache=cache).returncode == 0
    many = ["--out", tmp_path / "many.csv", "--engine", "local", "--processes", "2", "--set", "running.cpus=1"]
    result = sentinode(*ask, *many, cache=cache)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    lone = sentinode(*ask, "--out", tmp_path / "lone.csv", "--set", "running.cpus=1", cache=cache)
    refused(lone, "--set: belongs to --engine. Add that, or leave it out.")


def test_predict_at_an_operating_point(trained: Path, phantom_folder: Path, cache: Path, tmp_path: Path) -> None:
    point = json.loads((trained / "decision.json").read_text())["points"]["youden"]
    plain, called, mended = (tmp_path / name for name in ("plain.csv", "called.csv", "mended.csv"))
    ask = ["predict", trained, phantom_folder / "test", "--like", phantom_folder / "sample_submission.csv", "--out"]
    assert sentinode(*ask, plain, cache=cache).returncode == 0
    result = sentinode(*ask, called, "--threshold", "youden", cache=cache)
    assert result.returncode == 0, result.stderr
    assert f"above {point['threshold']:.6g} ({point['rule']}; chosen on the validation set)" in result.stdout
    assert f"sensitivity {point['sensitivity']:.3f}, specificity {point['specificity']:.3f}" in result.stdout
    raw, table = pd.read_csv(plain), pd.read_csv(called)
    assert table.columns.tolist() == ["id", "probability", "positive"]
    assert table["id"].tolist() == pd.read_csv(phantom_folder / "sample_submission.csv")["id"].tolist()
    assert table["probability"].tolist() == raw["label"].tolist()
    far = (raw["label"] - point["threshold"]).abs() > 1e-5  # six digits are written
    assert (table["positive"] == (raw["label"] > point["threshold"]))[far].all()
    # Isotonic maps tie what the threshold parts: the decisions stay those of the raw probabilities.
    assert sentinode(*ask, mended, "--threshold", "youden", "--calibrate", "isotonic", cache=cache).returncode == 0
    assert pd.read_csv(mended)["positive"].tolist() == table["positive"].tolist()


def test_predict_at_a_number_counts_on_the_validation_side(
    trained: Path, phantom_folder: Path, cache: Path, tmp_path: Path
) -> None:
    out, images = tmp_path / "p.csv", phantom_folder / "test"
    result = sentinode("predict", trained, images, "--out", out, "--threshold", "0.4", cache=cache)
    assert result.returncode == 0, result.stderr
    seen = pd.read_csv(trained / "predictions.csv")
    called = seen["probability"] > 0.4
    sensitivity, specificity = called[seen["label"] == 1].mean(), 1 - called[seen["label"] == 0].mean()
    assert f"sensitivity {sensitivity:.3f}, specificity {specificity:.3f}" in result.stdout
    assert "above 0.4 (as given)" in result.stdout
    assert "chosen" not in result.stdout
    table = pd.read_csv(out)
    assert (table["positive"] == (table["probability"] > 0.4)).all()


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_predict_with_a_calibration_is_still_a_submission(
    trained: Path, phantom_folder: Path, cache: Path, tmp_path: Path, method: str
) -> None:
    ask = ["predict", trained, phantom_folder / "test", "--out"]
    assert sentinode(*ask, tmp_path / "raw.csv", cache=cache).returncode == 0
    result = sentinode(*ask, tmp_path / "mended.csv", "--calibrate", method, cache=cache)
    assert result.returncode == 0, result.stderr
    raw, mended = pd.read_csv(tmp_path / "raw.csv"), pd.read_csv(tmp_path / "mended.csv")
    assert mended.columns.tolist() == ["id", "label"]
    assert mended["id"].tolist() == raw["id"].tolist()
    fitted = json.loads((trained / "decision.json").read_text())["calibrations"][method]
    p = raw["label"].to_numpy()
    expected = (
        1 / (1 + ((1 - p) / p) ** (1 / fitted["temperature"]))
        if method == "temperature"
        else np.interp(p, fitted["probabilities"], fitted["calibrated"])
    )
    near = np.abs(mended["label"] - expected) < 1e-3  # a jump of the isotonic map may lie within the last digit
    assert near.mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threshold", "yuden"], "unknown operating point 'yuden'. Give youden, sensitivity or cost"),
        (["--threshold", "1.5"], "threshold: 1.5 is not a probability"),
        (["--threshold", "nan"], "threshold: nan is not a probability"),
        (["--calibrate", "platt"], "unknown calibration 'platt'. Give temperature or isotonic"),
    ],
)
def test_predict_refuses_other_points_and_calibrations(
    trained: Path, phantom_folder: Path, cache: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    out = tmp_path / "p.csv"
    refused(sentinode("predict", trained, phantom_folder / "test", "--out", out, *arguments, cache=cache), said)
    assert not out.exists()


def test_predict_says_why_a_run_lacks_a_point(trained: Path, phantom_folder: Path, cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    record = json.loads((run / "decision.json").read_text())
    (run / "decision.json").write_text(json.dumps(record | {"points": {}, "not_fitted": "of one class only"}))
    write_manifest(run)
    ask = ["predict", run, phantom_folder / "test", "--out", tmp_path / "p.csv", "--threshold", "cost"]
    refused(sentinode(*ask, cache=cache), "decision.json: holds no operating point 'cost': of one class only")


def test_train_with_pseudo_labels(finished: Path, phantom_folder: Path, cache: Path, tmp_path: Path) -> None:
    ask = ["train", phantom_folder, "--preset", "quick", "--set", "model.bn_momentum=0.5", "--set", "fit.epochs=4"]
    ask += ["--set", "predict.views=1"]
    unsure = sentinode(*ask, "--pseudo-labels", finished, "--out", tmp_path / "none", cache=cache)
    refused(unsure, "teacher.confidence: the teacher is confident (0.95) of no patch of")
    assert not (tmp_path / "none").exists()
    assert sentinode(*ask, "--out", tmp_path / "teacher", cache=cache).returncode == 0
    ask += ["--pseudo-labels", tmp_path / "teacher", "--set", "teacher.confidence=0.6", "--set", "fit.epochs=1"]
    result = sentinode(*ask, "--out", tmp_path / "run", cache=cache)
    assert result.returncode == 0, result.stderr
    joined = pd.read_csv(tmp_path / "run" / "teacher.csv")
    assert set(joined["id"]) <= set(pd.read_csv(phantom_folder / "sample_submission.csv")["id"])
    assert f"training saw the pixels of {len(joined)} unlabelled test patches" in result.stderr
    again = sentinode(*ask, "--out", tmp_path / "run", "--resume", cache=cache)
    assert again.returncode == 0, again.stderr
    assert "predict" not in again.stderr


def test_distill_trains_a_student_on_the_teachers_probabilities(
    two_runs: list[Path], phantom_folder: Path, cache: Path, tmp_path: Path
) -> None:
    teacher, student = two_runs[0], tmp_path / "student.toml"
    student.write_text("predict = { views = 1 }\nfit = { epochs = 1 }\n")
    ask = ["distill", teacher, phantom_folder, "--student", student]
    result = sentinode(*ask, "--out", tmp_path / "run", "--set", "model.norm=after", cache=cache)
    assert result.returncode == 0, result.stderr
    run, taught = Run.open(tmp_path / "run"), Run.open(teacher)
    assert f"the network learned probabilities that “{teacher.name}” predicted" in result.stderr
    assert run.config.model.norm == "after"
    assert run.predictions.ids.tolist() == taught.predictions.ids.tolist()
    said = pd.read_csv(run.folder / "teacher.csv")
    assert set(said["id"]) == taught.training_ids | set(pd.read_csv(phantom_folder / "sample_submission.csv")["id"])
    asked = ["--set", "teacher.share=0.5", "--set", "teacher.unlabelled=false"]
    assert sentinode(*ask, *asked, "--out", tmp_path / "half", cache=cache).returncode == 0
    half = Run.open(tmp_path / "half")
    assert half.teacher is not None
    assert (half.teacher.share, half.teacher.joined, half.taught_ids) == (0.5, 0, half.training_ids)
    for wrong, told in (
        (["--set", "split.seed=3"], "setting 'split.seed' is the teacher's"),
        (["--student", "swiftly"], "unknown preset 'swiftly'. Choose one of"),
        (["--set", "teacher.share=2"], "setting 'teacher.share': Input should be less than or equal to 1"),
        (["--set", "teacher.confidence=0.9"], "belongs to teacher.labels = 'hard', not 'soft'"),
    ):
        refused(sentinode(*ask, *wrong, "--out", tmp_path / "no", cache=cache), told)
    refused(sentinode("distill", tmp_path, phantom_folder, "--out", tmp_path / "no", cache=cache), "is not a run")

    write_pyramid(tmp_path / "slide.tif", paint_slide("micro", np.random.default_rng(0), side_px=300)[0])
    beside = shutil.copytree(teacher, tmp_path / "teacher")
    judge = ["slides", beside, tmp_path / "slide.tif", "--fast", "--out", tmp_path / "heatmaps"]
    refused(sentinode(*judge, cache=cache), "teacher: has the students half, run. Give one of them")
    shutil.rmtree(half.folder)
    judged = sentinode(*judge, cache=cache)
    assert judged.returncode == 0, judged.stderr
    assert "run judges, a student of the model that was given" in judged.stderr
    assert open_slide_record(tmp_path / "heatmaps" / "slide").request.model == digest_of_model(run.folder)
    shutil.rmtree(run.folder)
    refused(sentinode(*judge, "--resume", cache=cache), "has no student beside it. Train one: sentinode distill")


@pytest.fixture(scope="module")
def two_runs(phantom_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Quick runs of two seeds and two input sizes that share a split."""
    root = tmp_path_factory.mktemp("two")
    for name, size in (("25", 32), ("26", 48)):
        asked = ["--preset", "quick", "--set", "fit.epochs=2", "--set", f"fit.seed={name}", "--set", "predict.views=1"]
        size_px = f"preprocess.size_px={size}"
        result = sentinode("train", phantom_folder, "--out", root / name, *asked, "--set", size_px, cache=cache)
        assert result.returncode == 0, result.stderr
    return [root / "25", root / "26"]


def test_an_ensemble_predicts_like_a_run(
    two_runs: list[Path], phantom_folder: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = sentinode("ensemble", *two_runs, "--out", out)
    assert result.returncode == 0, result.stderr
    rows = {row[0]: row[1:] for row in (line.split("\t") for line in result.stdout.splitlines())}
    weights = json.loads((out / "blend.json").read_text())["weights"]
    assert {name: f"{weight:.3f}" for name, weight in weights.items()} == {name: rows[name][0] for name in ("25", "26")}
    assert rows["ensemble"][0] == "1.000"
    assert float(rows["auc"][0]) == pytest.approx(json.loads((out / "scores.json").read_text())["auc"], abs=1e-4)
    assert result.stdout.splitlines()[-1] == str(out / "report.html")
    tables = []
    for run in (*two_runs, out):
        table = tmp_path / f"{run.name}.csv"
        assert sentinode("predict", run, phantom_folder, "--out", table, cache=cache).returncode == 0
        tables.append(pd.read_csv(table)["label"].to_numpy())
    logits = sum(w * np.log(p / (1 - p)) for w, p in zip(weights.values(), tables[:2], strict=True))
    assert tables[2] == pytest.approx(1 / (1 + np.exp(-logits)), abs=2e-6)  # six digits are written
    options = ["--threshold", "youden", "--calibrate", "temperature"]
    called = sentinode("predict", out, phantom_folder, "--out", tmp_path / "called.csv", *options, cache=cache)
    assert called.returncode == 0, called.stderr
    labels = phantom_folder / "train_labels.csv"
    assert sentinode("evaluate", out, phantom_folder, "--labels", labels, cache=cache).returncode == 0
    assert sentinode("report", out).returncode == 0
    compared = sentinode("compare", two_runs[0], out, "--out", tmp_path / "compared", cache=cache)
    assert compared.returncode == 0, compared.stderr
    page = (tmp_path / "compared" / "report.html").read_text(encoding="utf-8")
    assert "ensemble of 2: 25, 26" in page


def test_a_command_imports_only_what_it_needs(
    finished: Path, two_runs: list[Path], phantom_folder: Path, tmp_path: Path
) -> None:
    """In one process, those that need least first: a command's modules are at most those that are loaded by its end."""
    ensemble, images, run = tmp_path / "ensemble", tmp_path / "images", min((finished / "runs").iterdir())
    assert sentinode("ensemble", *two_runs, "--out", ensemble, "--weights", "equal").returncode == 0
    images.mkdir()
    for path in sorted((phantom_folder / "test").iterdir())[:10]:
        shutil.copy(path, images)
    in_cache = ["--cache", tmp_path / "cache"]
    options = ["--calibrate", "temperature", "--threshold", "youden", *in_cache]
    of_check, of_study, of_run, of_ensemble, of_evaluate = loaded_by(
        ["check", phantom_folder, *in_cache],
        ["predict", finished, images, "--out", tmp_path / "study.csv", *options],
        ["predict", run, images, "--out", tmp_path / "run.csv", *options],
        ["predict", ensemble, images, "--out", tmp_path / "ensemble.csv", *options],
        ["evaluate", run, phantom_folder, "--labels", phantom_folder / "train_labels.csv", *in_cache],
    )
    needless = {*FOR_FITTING, *FOR_PAGES, "h5py", "numba", "torch._dynamo", "torch._inductor", "sympy"}
    for name, loaded in (("study", of_study), ("run", of_run), ("ensemble", of_ensemble)):
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) == 10
        assert "torch" in loaded
        assert not loaded & needless
    assert not of_check & {*FOR_FITTING, *FOR_PAGES}
    assert not of_evaluate & {"sklearn", "optuna", *FOR_PAGES}, "an interval takes SciPy, and nothing else"


def test_an_ensemble_of_a_study_and_what_is_refused(
    finished: Path, two_runs: list[Path], cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refused(sentinode("ensemble", finished, "--out", out), "an ensemble needs two runs or more")
    refused(sentinode("ensemble", *two_runs, two_runs[0], "--out", out), "is the same network as")
    refused(sentinode("ensemble", *two_runs, "--out", out, "--weights", "best"), "unknown weighting 'best'")
    refused(sentinode("ensemble", *two_runs, "--out", finished), "is not empty")
    refused(sentinode("ensemble", *two_runs, tmp_path, "--out", out), "is not a run")
    assert not out.exists()
    assert sentinode("ensemble", finished, *two_runs, "--out", out).returncode == 0
    names = [path.name for path in (out / "members").iterdir()]
    assert len(names) == 3
    assert {"25", "26"} < set(names)
    assert any((out / "pictures").iterdir())


def test_an_ensemble_trained_from_settings(phantom_folder: Path, cache: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", tmp_path / "mine.toml"
    settings.write_text(
        "[fit]\nepochs = 1\n[predict]\nviews = 1\n[ensemble]\nweights = 'equal'\n"
        "[ensemble.members.one]\n'fit.seed' = 1\n[ensemble.members.two]\n'model.norm' = 'after'\n"
    )
    asked = ["train", phantom_folder, "--out", out, "--config", settings]
    result = sentinode(*asked, cache=cache)
    assert result.returncode == 0, result.stderr
    assert "ensemble\t1.000" in result.stdout
    assert (out / "report.html").is_file()
    refused(sentinode(*asked, cache=cache), "already contains a run")
    assert sentinode(*asked, "--resume", cache=cache).returncode == 0


def test_split_train_and_report(phantom_folder: Path, cache: Path, tmp_path: Path) -> None:
    result = sentinode("split", phantom_folder, "--out", tmp_path / "split.csv", cache=cache)
    assert result.returncode == 0, result.stderr
    assert "by slide" in result.stdout
    table, slides = pd.read_csv(tmp_path / "split.csv"), pd.read_csv(phantom_folder / "slides.csv")
    sides = table.merge(slides, on="id").groupby("slide")["side"].nunique()
    assert (sides == 1).all()
    given = ["--set", "split.by=file", "--set", f"split.file={tmp_path / 'split.csv'}", "--set", "fit.epochs=1"]
    given += ["--set", "predict.views=1"]
    result = sentinode("train", phantom_folder, "--out", tmp_path / "run", *given, cache=cache)
    assert result.returncode == 0, result.stderr
    (tmp_path / "run" / "report.html").unlink()
    result = sentinode("report", tmp_path / "run")
    assert result.stdout.strip() == str(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").is_file()


def test_doctor_says_what_is_here(tmp_path: Path) -> None:
    result = sentinode("doctor", cache=tmp_path)
    assert result.returncode == 0
    for word in ("torch", "device", "threads", "GB free", "0 sets, 0.00 GB", "extra zoo"):
        assert word in result.stdout


def test_the_cache_is_listed_checked_limited_and_cleared(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.tif").write_bytes(encode_tiff(np.zeros((96, 96, 3), np.uint8)))
    pack(listing_of_files(tmp_path / "images", {"a": "a.tif"}), tmp_path / "cache")
    assert f"1 patches of {tmp_path / 'images'}" in sentinode("cache", cache=tmp_path / "cache").stdout
    assert "1 sets, 0.00 GB, all intact" in sentinode("doctor", cache=tmp_path / "cache").stdout
    (pixels,) = (tmp_path / "cache").glob("*/pixels.u8")
    pixels.write_bytes(b"\1" + pixels.read_bytes()[1:])
    assert f"damaged: {pixels.parent}" in sentinode("doctor", cache=tmp_path / "cache").stdout
    assert "0.00 of 20 GB" in sentinode("cache", "--limit", "20", cache=tmp_path / "cache").stdout
    assert pixels.exists()
    assert "removed: 1" in sentinode("cache", "--clear", cache=tmp_path / "cache").stdout
    assert not pixels.exists()
    refused(sentinode("cache", "--limit", "many", cache=tmp_path / "cache"), "'--limit'")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_one_line(command: str) -> None:
    refused(sentinode(command, "--nonsense"), f"sentinode {command}: no such option: --nonsense")


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"study", "compare", "cache", "doctor"}))
def test_a_missing_argument_is_one_line(command: str) -> None:
    refused(sentinode(command), f"sentinode {command}: missing argument")


@pytest.mark.parametrize("command", ["phantom", "check", "study", "evaluate", "report", "cache", "doctor"])
def test_an_argument_too_many_is_one_line(command: str) -> None:
    refused(sentinode(command, "one", "two", "three"), f"sentinode {command}: got unexpected extra argument")


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("phantom", "--patches", "many"),
        ("phantom", "--workers", "0"),
        ("check", "--workers", "two"),
        ("split", "--workers", "1.5"),
        ("study", "--threads", "0"),
        ("train", "--threads", "-1"),
        ("train", "--threads", "1\n2"),
        ("compare", "--folds", "five"),
        ("tune", "--threads", "nan"),
        ("ensemble", "--threads", "x"),
        ("predict", "--workers", "\x1b[31m"),
        ("evaluate", "--workers", ""),
        ("cache", "--limit", "-1"),
    ],
)
def test_a_wrong_value_of_an_option_is_one_line(command: str, option: str, value: str) -> None:
    refused(sentinode(command, option, value), f"'{option}'")


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("pred", "predict"), ("evalute", "evaluate")])
def test_a_mistyped_command_is_one_line_with_a_suggestion(typed: str, meant: str) -> None:
    refused(sentinode(typed, "DATA"), f"no such command '{typed}'. Did you mean '{meant}'?")


def test_without_a_command_there_is_help() -> None:
    said = sentinode()
    assert said.returncode == 0
    assert "sentinode study --preset quick" in said.stdout


def break_label(folder: Path) -> None:
    path = folder / "train_labels.csv"
    path.write_text(path.read_text().replace("p3,1", "p3,yes"))


def put_all_on_one_slide(folder: Path) -> None:
    (folder / "slides.csv").write_text("id,slide\n" + "".join(f"p{n},one\n" for n in range(8)))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (break_label, "p3 has 'yes'"),
        (lambda f: (f / "train_labels.csv").write_text(""), "is empty"),
        (lambda f: (f / "train" / "p3.tif").write_bytes((f / "train" / "p3.tif").read_bytes()[:999]), "p3.tif"),
        (lambda f: Image.new("RGB", (50, 50)).save(f / "train" / "p3.tif"), "50 x 50"),
        (lambda f: Image.new("I;16", (96, 96)).save(f / "train" / "p3.tif"), "I;16"),
        (lambda f: Image.new("RGBA", (96, 96)).save(f / "train" / "p3.tif"), "RGBA"),
        (lambda f: (f / "train" / "p3.tif").write_text("hello"), "not an image"),
        (
            lambda f: (f / "slides.csv").write_text("id,slide\n" + "".join(f"p{n},one\n" for n in range(8))),
            "at least 2",
        ),
    ],
)
def test_bad_data_is_one_line_and_exit_code_2(
    folder: Path, tmp_path: Path, break_it: Callable[[Path], object], said: str
) -> None:
    break_it(folder)
    refused(sentinode("train", folder, "--out", tmp_path / "run", cache=tmp_path / "cache"), said)
    assert not (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "nowhere"], "nowhere: is missing"),
        (["check", "tests"], "not a competition folder"),
        (["study", "--set", "fit.epoch=3"], "Did you mean 'epochs'"),
        (["study", "--preset", "fast"], "quick, seed, fair"),
        (["study", "--device", "tpu"], "unknown device"),
        (["report", "tests"], "tests"),
        (["predict", "tests", "tests", "--out", "x.csv"], "is not a run"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments: list[str], said: str, cache: Path) -> None:
    refused(sentinode(*arguments, cache=cache), said)


def test_debug_shows_the_traceback_before_the_line() -> None:
    result = sentinode("check", "nowhere", "--debug")
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: nowhere")


def test_a_folder_that_cannot_be_written_is_exit_code_1(folder: Path, tmp_path: Path) -> None:
    """A file stands where the cache folder should be: the same refusal as a read-only place, for root too."""
    (tmp_path / "cache").write_text("in the way")
    refused(sentinode("check", folder, cache=tmp_path / "cache"), "cannot write", code=1)


def test_a_read_only_folder_is_exit_code_1(folder: Path, tmp_path: Path) -> None:
    """Root may write to a read-only folder, but nobody makes a folder in /sys."""
    locked = Path("/sys") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid():
        locked.mkdir()
        locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    refused(sentinode("train", folder, "--out", locked / "run", cache=tmp_path / "cache"), "cannot write", code=1)


EIGHT_EPOCHS = ["--set", "fit.epochs=8", "--set", "fit.batch_size=4", "--set", "predict.views=1"]


@pytest.fixture(scope="module")
def uninterrupted(phantom_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    result = sentinode("train", phantom_folder, "--out", out, *EIGHT_EPOCHS, cache=cache)
    assert result.returncode == 0, result.stderr
    return out


def test_interrupted_in_training_and_resumed(
    uninterrupted: Path, phantom_folder: Path, cache: Path, tmp_path: Path
) -> None:
    """By Ctrl-C in the first epochs, killed in the next ones, and resumed: the weights are the uninterrupted run's."""
    run = tmp_path / "run"
    arguments, history = ["train", phantom_folder, "--out", run, *EIGHT_EPOCHS], run / "history.csv"
    for how, resume, epochs in ((signal.SIGINT, [], 1), (signal.SIGKILL, ["--resume"], 3)):
        process = start(*arguments, *resume, cache=cache)
        while not history.is_file() or len(history.read_text().splitlines()) <= epochs:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
        if how == signal.SIGINT:
            assert process.returncode == 1
            assert said.splitlines()[-1].startswith("error: interrupted. Finished work is kept")
        assert not (run / "manifest.json").exists()
    resumed = sentinode(*arguments, "--resume", cache=cache)
    assert resumed.returncode == 0, resumed.stderr
    whole, again = ((folder / "model.safetensors").read_bytes() for folder in (uninterrupted, run))
    assert whole == again


def test_compare_names_no_winner(phantom_folder: Path, cache: Path, tmp_path: Path) -> None:
    result = sentinode(
        "compare", phantom_folder, "--out", tmp_path / "out", "--variants", "before", "after", "--seeds", "2",
        "--set", "fit.epochs=1", "--set", "predict.views=1", "--set", "compare.replicates=200", cache=cache,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "after minus before" in result.stdout
    assert "better" not in result.stdout
    assert {path.name for path in (tmp_path / "out" / "runs").iterdir()} == {
        "before-seed25", "before-seed26", "after-seed25", "after-seed26",
    }  # fmt: skip


def test_compare_over_folds_and_audit_the_leak(phantom_folder: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = sentinode(
        "compare", phantom_folder, "--out", out, "--seeds", "1", "--folds", "2", "--leak",
        "--set", "fit.epochs=1", "--set", "predict.views=1", "--set", "compare.replicates=100", cache=cache,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "The random split changes the score by" in result.stdout
    assert {path.name for path in (out / "runs").iterdir()} == {
        f"leak-{split}-seed25-fold{fold}" for split in ("grouped", "random") for fold in (1, 2)
    }
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "split by slide" in page  # the trusted one, whose networks are chosen
    assert "the notebook&#39;s own split" not in page  # nobody's notebook saw this phantom
    for told in ("Leak audit", "TRIPOD+AI", "Operating points", "Scores by subgroup"):
        assert told in page


def test_finished_runs_are_compared_as_folders(trained: Path, cache: Path, tmp_path: Path) -> None:
    runs = trained.parent
    pair = [runs / "before-seed25", runs / "after-seed25"]
    result = sentinode("compare", *pair, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "norm after minus norm before" in result.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    refused(sentinode("compare", *pair, "--out", tmp_path / "new", "--folds", "3"), "--folds is for runs")
    refused(sentinode("compare", pair[0], "--out", tmp_path / "new"), "nothing to compare")


def test_a_leak_audit_that_cannot_be_is_refused_before_anything_is_done(
    phantom_folder: Path, cache: Path, tmp_path: Path
) -> None:
    ask = ["compare", phantom_folder, "before", "after", "--leak", "--group-by", "random", "--out", tmp_path / "out"]
    refused(sentinode(*ask, cache=cache), "not with split.by 'random'")
    assert not (tmp_path / "out").exists()


def test_slides_are_judged_and_a_bad_one_stops_no_other(tmp_path: Path, finished: Path, cache: Path) -> None:
    rgb, _ = paint_slide("micro", np.random.default_rng(0), side_px=300)
    (tmp_path / "slides").mkdir()
    write_pyramid(tmp_path / "slides" / "good.tif", rgb)
    write_pyramid(tmp_path / "slides" / "unknown.tif", rgb, spacing=None)
    command = ["slides", finished, tmp_path / "slides", "--out", tmp_path / "out", "--threshold", "0.5"]
    first = sentinode(*command, cache=cache)
    assert first.returncode == 1
    assert "the file has no spacing" in first.stdout
    assert "1 of 2 slides failed" in first.stderr
    assert (tmp_path / "out" / "good" / "manifest.json").is_file()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "phantom: synthetic tissue" in page
    before = (tmp_path / "out" / "slides.csv").read_bytes()
    refused(sentinode(*command, cache=cache), "Add --resume")
    assert sentinode(*command, "--resume", cache=cache).returncode == 1
    assert (tmp_path / "out" / "slides.csv").read_bytes() == before
    refused(sentinode(*command, "--resume", "--threshold", "0.6", cache=cache), "begun with another threshold")
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "good.geojson").write_text(
        '{"type":"Polygon","coordinates":[[[300,300],[500,300],[500,500],[300,500]]]}'.join(['[{"geometry":', "}]"])
    )
    scored = sentinode("score-slides", tmp_path / "out", tmp_path / "truth", "--official")
    assert scored.returncode == 0
    assert "AUC of cells" in scored.stdout
    refused(sentinode("slides", finished, tmp_path / "absent.svs", "--out", tmp_path / "new"), "absent.svs: is missing")
