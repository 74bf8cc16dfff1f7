"""A wrong path or setting is told before the libraries load, with the same line and exit code as ever."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sentinode.apps import paths
from sentinode.apps.cli import run
from sentinode.apps.paths import what_to_compare

SCRIPT = """
import contextlib, io, json, sys
from sentinode.apps.cli import run
for words in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = run(words)
    loaded = [name for name in ("torch", "scipy", "matplotlib", "pandas") if name in sys.modules]
    print(json.dumps([code, said.getvalue(), loaded]))
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Command lines, each wrong in one thing, by what must be said of it."""
    folder = tmp_path_factory.mktemp("paths")
    data, none, empty, out = str(folder / "data"), str(folder / "none"), str(folder / "empty"), str(folder / "out")
    run, file, bad = str(folder / "run"), str(folder / "file"), str(folder / "bad.toml")
    (folder / "empty").mkdir()
    (folder / "data" / "train").mkdir(parents=True)
    (folder / "data" / "train_labels.csv").touch()
    (folder / "run").mkdir()
    (folder / "run" / "manifest.json").touch()
    (folder / "file").touch()
    (folder / "bad.toml").write_text("fit = 3")
    lines: dict[str, list[str]] = {}
    for name in ("study", "train", "compare", "tune", "check", "split"):
        for place, said in (
            (none, "is missing"),
            (file, "is not a directory"),
            (empty, "is not a competition folder"),
        ):
            lines[f"{name} {Path(place).name}: {said}"] = [name, place, "--out", out]
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").touch()
    for name in ("compare", "tune"):
        lines[f"{name} slides: none:slide: is missing"] = [name, data, "--out", out, "--slides", none + ":slide"]
        lines[f"{name} groups: none: is missing"] = [name, data, "--out", out, "--groups", none]
    (folder / "begun").mkdir()
    for name in ("config.toml", "study.toml"):
        (folder / "begun" / name).touch()
    for name in ("study", "train", "compare", "tune"):
        kind = "run" if name == "train" else "study"
        lines[f"{name} begun: already contains a {kind}"] = [name, data, "--out", str(folder / "begun")]
        lines[f"{name} out: cannot write"] = [name, data, "--out", file + "/out"]
        lines[f"{name} out: is a file"] = [name, data, "--out", file]
        lines[f"{name} out: is not empty"] = [name, data, "--out", str(folder / "full")]
    lines["compare variant: none.toml: is missing"] = ["compare", data, "--out", out, "--variants", none + ".toml"]
    lines["compare run: none: is not a directory"] = ["compare", run, none, "--out", out]
    lines["compare data: none: is missing"] = ["compare", run, run, "--data", none, "--out", out]
    lines["compare labels: none.csv: is missing"] = [
        "compare", run, run, "--data", data, "--labels", none + ".csv", "--out", out,
    ]  # fmt: skip
    for name in ("study", "train", "compare", "tune", "split"):
        lines[f"{name} misspelt: fit.epoch"] = [name, data, "--out", out, "--set", "fit.epoch=3"]
        lines[f"{name} preset: nonsense"] = [name, data, "--out", out, "--preset", "nonsense"]
        lines[f"{name} no config: none"] = [name, data, "--out", out, "--config", none]
        lines[f"{name} bad config: bad.toml"] = [name, data, "--out", out, "--config", bad]
    for place, said in ((none, "is not a directory"), (file, "is not a directory"), (empty, "is not a run")):
        model = "is not an exported model" if place == file else said  # which a file may be
        lines[f"predict {Path(place).name}: {model}"] = ["predict", place, data, "--out", out]
        lines[f"evaluate {Path(place).name}: {said}"] = ["evaluate", place, data, "--labels", file]
        lines[f"ensemble {Path(place).name}: {said}"] = ["ensemble", run, place, "--out", out]
    model = folder / "model.onnx"
    model.touch()
    for name, *others in (
        ["slides", data, "--out", out], ["evaluate", data, "--labels", file], ["ensemble", run, "--out", out],
        ["export", "--to", "onnx", "--out", out], ["compare", run, "--out", out], ["report"], ["score-slides", data],
    ):  # fmt: skip
        lines[f"{name} exported: model.onnx: is an exported model, and this needs the run"] = [
            name,
            str(model),
            *others,
        ]
    lines["report none: is not a directory"] = ["report", none]
    lines["report empty: contains no study, run or check"] = ["report", empty]
    lines["predict no images: is missing"] = ["predict", run, none, "--out", out]
    lines["predict like: is missing"] = ["predict", run, data, "--out", out, "--like", none]
    lines["evaluate no data: is missing"] = ["evaluate", run, none, "--labels", file]
    lines["evaluate no labels: is missing"] = ["evaluate", run, data, "--labels", none]
    return lines


def test_nothing_is_loaded_for_a_wrong_path_or_setting(commands: dict[str, list[str]]) -> None:
    asked = json.dumps(list(commands.values()))
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=asked, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(commands) > 40
    for (name, words), (code, said, loaded) in zip(commands.items(), answers, strict=True):
        assert code == (1 if "cannot write" in said else 2), (words, said)
        assert said.startswith("error: "), (words, said)
        assert said.count("\n") == 1, (words, said)
        assert name.partition(": ")[2] in said, (words, said)
        assert loaded in ([], ["pandas"]), words  # which reads what lies in a folder
    assert answers[0][2] == []


def test_what_compare_is_given_is_told_by_what_lies_there(tmp_path: Path) -> None:
    data, runs, table = tmp_path / "data", tmp_path / "runs", tmp_path / "a.csv"
    (data / "train").mkdir(parents=True)
    (data / "train_labels.csv").touch()
    for folder in (runs / "a", runs / "b", data / "run"):  # a run may lie in the data that it was trained on
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    assert what_to_compare(data, [data, Path("before"), Path("after")]) == "data"
    assert what_to_compare(runs, [runs]) == "runs"
    assert what_to_compare(runs / "a", [runs / "a", runs / "b"]) == "runs"
    assert what_to_compare(table, [table, tmp_path / "b.tsv"]) == "tables"


def test_every_record_that_a_page_is_drawn_from_is_known_to_the_command() -> None:
    from sentinode.audit.check import CHECK
    from sentinode.explain.explanation import EXPLANATION
    from sentinode.runs.evaluate import SCORES
    from sentinode.runs.study_record import STUDY_EVIDENCE
    from sentinode.slides.cohort import COHORT_RECORD

    assert set(paths.RECORDS) == {CHECK, EXPLANATION, SCORES, STUDY_EVIDENCE, COHORT_RECORD}


def test_slides_that_are_not_there_are_told_before_anything_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").touch()
    assert run(["serve", str(tmp_path), "--slides", str(tmp_path / "none")]) == 2
    assert "none: is not a directory. Give the folder of the slides" in capsys.readouterr().err
