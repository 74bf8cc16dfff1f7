"""Jobs that know only their numbers fill one folder between them, and what is collected is what one command leaves."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sentinode.api.study import planned_runs, study, train_shard, unfinished
from sentinode.apps.cli import run
from sentinode.artefacts import claim, hold
from sentinode.config.presets import load_preset
from sentinode.config.study import StudyConfig
from sentinode.engine.shard import Shard
from sentinode.errors import ConfigError, RunError, TasksError
from sentinode.runs.material import gather
from sentinode.runs.run import is_finished
from sentinode.session import Session
from sentinode.settings import override
from sentinode.studies.training import RunStore, compare_variants
from sentinode.studies.tune import search

BOTH = ("compare", "tune")


@pytest.fixture
def config() -> StudyConfig:
    settings = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1, "compare.replicates": 100, "seeds": [25, 26]}
    return override(load_preset("fair"), {**settings, "tune.search": {"model.bn_momentum": [0.99, 0.5]}})


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/", "-1/3", "1/3/5", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no shard"):
        Shard.parse(text)


@pytest.mark.parametrize("of", [1, 3, 7, 20])
def test_shards_are_disjoint_and_complete(of: int) -> None:
    items = [*range(13)]
    parts = [Shard(number, of).part(items) for number in range(1, of + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_run_is_planned_once_though_two_questions_ask_for_it(config: StudyConfig) -> None:
    names = [planned.name for planned in planned_runs(config, BOTH)]
    assert names == [
        "before-seed25", "after-seed25", "before-seed26", "after-seed26", "bn_momentum-0.5-seed25",
        "bn_momentum-0.5-seed26",
    ]  # fmt: skip  # momentum 0.99 is "before"
    pruned = override(config, {"tune.pruner": "median"})
    assert len(planned_runs(pruned, BOTH)) == 4  # what depends on other trials is in no shard
    with_folds = override(config, {"split.folds": 2})
    assert len(planned_runs(with_folds, ("leak",))) == 8


@pytest.mark.usefixtures("undrawn")
def test_shards_collected_are_the_study_in_one(
    config: StudyConfig, phantom_folder: Path, session: Session, tmp_path: Path
) -> None:
    out, shards = tmp_path / "shards", [Shard(number, 4) for number in (3, 1, 4, 2)]
    for shard in shards[:3]:
        train_shard(phantom_folder, config, out, shard, session, questions=BOTH)
    assert not (out / "study.json").exists()
    assert unfinished(config, out, BOTH) == ["after-seed25", "bn_momentum-0.5-seed26"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    train_shard(phantom_folder, config, out, shards[0], session, questions=BOTH)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    train_shard(phantom_folder, config, out, shards[3], session, questions=BOTH)
    assert unfinished(config, out, BOTH) == []
    collected = study(phantom_folder, config, out, session, resume=True)
    assert [len(found.variants) for found in collected.comparisons.values()] == [2, 2]
    serial = RunStore(gather(phantom_folder, config, session).material, tmp_path / "one")
    compare_variants(config, serial)
    search(config, serial, tmp_path / "tune")
    folders = [*(tmp_path / "one").iterdir()]
    assert len(folders) == 6
    for folder in folders:
        for name in ("model.safetensors", "predictions.csv", "scores.json", "environment.json", "decision.json"):
            assert (out / "runs" / folder.name / name).read_bytes() == (folder / name).read_bytes()


def test_a_run_that_fails_stops_no_other_of_its_shard(
    config: StudyConfig, phantom_folder: Path, session: Session, tmp_path: Path
) -> None:
    full = tmp_path / "out" / "runs" / "after-seed25"
    full.mkdir(parents=True)
    (full / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and contains no study"):
        train_shard(phantom_folder, config, tmp_path / "out", Shard(1, 1), session, questions=("compare",))
    train_shard(phantom_folder, config, tmp_path / "begun", Shard(20, 20), session, questions=("compare",))
    (tmp_path / "begun" / "runs").mkdir()
    full.rename(tmp_path / "begun" / "runs" / "after-seed25")
    with pytest.raises(TasksError, match=r"1 of 4 failed: after-seed25: .*is not empty"):
        train_shard(phantom_folder, config, tmp_path / "begun", Shard(1, 1), session, questions=("compare",))
    done = sorted(path.name for path in (tmp_path / "begun" / "runs").iterdir() if is_finished(path))
    assert done == ["after-seed26", "before-seed25", "before-seed26"]


def test_a_shard_of_another_study_is_refused(
    config: StudyConfig, phantom_folder: Path, session: Session, tmp_path: Path
) -> None:
    train_shard(phantom_folder, config, tmp_path, Shard(20, 20), session, questions=("compare",))
    with pytest.raises(RunError, match="another"):
        train_shard(phantom_folder, config, tmp_path, Shard(1, 20), session, questions=BOTH)
    other = override(config, {"fit.epochs": 2})
    with pytest.raises(RunError, match="other settings"):
        train_shard(phantom_folder, other, tmp_path, Shard(1, 20), session, questions=("compare",))


def test_what_another_process_writes_within_a_folder_is_left_alone(tmp_path: Path) -> None:
    """A study that is gone on with while its shards work takes nothing from under their hands."""
    part = tmp_path / "out" / "runs" / "a" / ".scores.json.x.part"
    inside, release = threading.Event(), threading.Event()

    def work() -> None:
        with hold(part.parent):
            part.write_text("half")
            inside.set()
            release.wait(10)

    other = threading.Thread(target=work)
    other.start()
    inside.wait(10)
    stray = tmp_path / "out" / "runs" / "b" / ".scores.json.y.part"
    stray.parent.mkdir()
    stray.write_text("half")
    (tmp_path / "out" / "study.toml").write_text("")
    with claim(tmp_path / "out", begun="study.toml"):
        assert part.exists()
        assert not stray.exists()
        with pytest.raises(RunError, match="is being written"), claim(part.parent):
            raise AssertionError
    release.set()
    other.join()
    with claim(part.parent):
        assert not part.exists()


def test_shards_on_the_command_line(phantom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["compare", str(phantom_folder), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    ask += ["--seeds", "1", "--device", "cpu"]
    ask += ["--set", "fit.epochs=1", "--set", "fit.batch_size=16", "--set", "predict.views=1"]
    assert run([*ask, "--shard", "1/2"]) == 0
    assert "shard 1/2: 1 runs are finished" in capsys.readouterr().out
    assert run([*ask, "--collect"]) == 2
    assert "1 runs of its shards are not finished (first: after-seed25)" in capsys.readouterr().err
    assert run([*ask, "--shard", "2/2", "--collect"]) == 2
    assert run([*ask, "--shard", "3/2"]) == 2
    assert "3/2 is no shard" in capsys.readouterr().err
