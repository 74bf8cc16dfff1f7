"""Many tasks: each is done once whatever is killed, failures are told after three attempts, and only JSON is sent."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from conftest import make_patches
from sentinode.config.run import RunConfig
from sentinode.data.cache import Limit, entries, make_room
from sentinode.engine import engine
from sentinode.engine.engine import ATTEMPTS, Attempts, Board, Watch
from sentinode.engine.local import Local
from sentinode.engine.task import Desk, EngineTask, Needs, TaskOutcome, do
from sentinode.errors import ConfigError, RunError, TasksError
from sentinode.models.own import Recipes
from sentinode.runs.material import Material, gather
from sentinode.runs.material_folder import open_material, save_material
from sentinode.runs.run import is_finished
from sentinode.runs.tasks import RunTasks, train_together
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override

CPU = torch.device("cpu")
TIMED = ("seconds", "patches_per_second")


def results_of(folder: Path) -> dict[str, bytes]:
    """What a run's folder holds, but for the times in its history and the files that hold that history."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    assert "manifest.json" in found
    timed = ("history.csv", "manifest.json", "last.safetensors")
    return {name: content for name, content in found.items() if not name.endswith(timed)}


def material_in(session: Session) -> Material:
    patches = make_patches()
    return Material(patches, patches.groups, session=session)


def task_named(name: str) -> EngineTask:
    return EngineTask("run", name, {})


def test_a_task_is_plain_data(session: Session, run_config: RunConfig, tmp_path: Path) -> None:
    tasks = RunTasks(material_in(session), Recipes.of(None))
    config = override(run_config, {"running.cpus": 3, "running.memory_mb": 900})
    task = tasks.task(tmp_path / "runs" / "a", config)
    assert task.needs == Needs(cpus=3, gpus=0.0, memory_mb=900)
    assert EngineTask.from_json(task.to_json()) == task
    told = json.loads(task.to_json())
    assert told["given"]["out"] == str(tmp_path / "runs" / "a")
    assert set(told["files"]["material"]) == {"material.json", "tables.npz", "pixels.u8"}
    with pytest.raises(TypeError):
        replace(task, given={"settings": run_config}).to_json()
    with pytest.raises(AssertionError, match="not what JSON has"):
        replace(task, given={"a pair": (1, 2)}).to_json()


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"kind": "os.system", "name": "a", "given": {}}'])
def test_what_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="is not a task"):
        EngineTask.from_json(text)


def test_a_task_of_another_version_is_refused() -> None:
    with pytest.raises(RunError, match=r"sent by sentinode 0\.0\.1 to sentinode .* Install the same version"):
        EngineTask.from_json(replace(task_named("a"), version="0.0.1").to_json())


def test_a_network_that_other_processes_do_not_find_is_refused(session: Session) -> None:
    def within() -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    with pytest.raises(ConfigError, match="other processes do not find"):
        RunTasks(material_in(session), Recipes.of(within))
    found = Recipes.of(results_net).addresses
    assert Recipes.at(found) == Recipes.of(results_net)
    module, name, _ = found["results_net"]
    with pytest.raises(ConfigError, match="another source"):
        Recipes.at({"results_net": [module, name, "0" * 64]})
    with pytest.raises(ConfigError, match="cannot be imported"):
        Recipes.at({"results_net": [module, "gone", "0" * 64]})


def results_net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 1))


def test_a_failed_task_is_tried_three_times_and_others_go_on() -> None:
    attempts = Attempts(iter([task_named("a"), task_named("b")]), pause_s=0)
    first = attempts.next()
    assert first is not None
    for tried in range(ATTEMPTS):
        outcome = attempts.outcome(first, {"failed": "the disk\nis full"})
        assert (outcome is None) == (tried < ATTEMPTS - 1)
        if outcome is None:
            assert attempts.next() is first
    assert outcome is not None
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.attempts) == ("the disk is full", ATTEMPTS)
    second = attempts.next()
    assert second == task_named("b")
    assert attempts.next() is None
    assert attempts.over
    outcome = attempts.outcome(second, {"failed": "no such setting", "for_good": True})
    assert outcome is not None
    assert outcome.attempts == 1


def test_a_task_waits_before_it_is_tried_again() -> None:
    attempts = Attempts(iter([task_named("a")]), pause_s=60)
    task = attempts.next()
    assert task is not None
    attempts.outcome(task, {"failed": "x"})
    assert attempts.next() is None
    assert not attempts.over


def test_one_view_shows_all_tasks_and_the_steps_of_a_few() -> None:
    told: list[tuple[Any, ...]] = []
    board = Board(
        Watch("runs", lambda *words: told.append(words), told.append), [task_named(str(n)) for n in range(20)]
    )
    for n in range(20):
        board.begun(task_named(str(n)))
    assert told[-1] == ("runs", 0, 20, "20 at a time")
    for n in range(20):
        board.told(task_named(str(n)), {"step": [f"train {n}", 1, 9, ""]})
    assert [words[0] for words in told[20:]] == [f"train {n}" for n in range(6)]
    board.told(task_named("9"), {"notice": "it is warm"})
    assert told[-1] == "9: it is warm"
    board.ended(task_named("0"), TaskOutcome(task_named("0")))
    assert told[-2:] == [("train 0", 9, 9, ""), ("runs", 1, 20, "19 at a time")]


def desk(answers: Iterator[bool], place: Any) -> Desk:
    return Desk(1, "cpu", lambda _: None, lambda _: next(answers), place)


def test_a_task_that_is_told_to_stop_stops_and_can_be_gone_on_with(
    session: Session, run_config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    task = RunTasks(material_in(session), Recipes.of(None)).task(tmp_path / "runs" / "a", run_config, watched=True)

    def place(group: str, name: str) -> Path:
        return Path(task.files[group][name])

    assert do(task, desk(iter([True, False]), place)) == {"stopped": True}
    assert not is_finished(tmp_path / "runs" / "a")
    assert do(task, desk(iter([True] * 9), place)) == {}
    train_run(material_in(session), run_config, tmp_path / "serial")
    assert results_of(tmp_path / "runs" / "a") == results_of(tmp_path / "serial")


def test_a_machine_that_does_not_see_the_results_folder_says_so(
    session: Session, run_config: RunConfig, tmp_path: Path
) -> None:
    task = RunTasks(material_in(session), Recipes.of(None)).task(tmp_path / "elsewhere" / "a", run_config)
    (tmp_path / "elsewhere").rmdir()
    told = do(task, desk(iter([]), lambda group, name: Path(task.files[group][name])))
    assert "elsewhere: is not to be seen from this machine" in told["failed"]


def test_a_result_that_does_not_come_into_sight_is_a_failure(
    session: Session, run_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PATIENCE_S", 0.0)
    task = RunTasks(material_in(session), Recipes.of(None)).task(tmp_path / "runs" / "a", run_config)
    seen = engine.in_sight(TaskOutcome(task))
    assert seen.failure is not None
    assert "must lie in a folder that is shared" in seen.failure.reason


def test_a_saved_material_is_opened_as_it_was(phantom_folder: Path, session: Session, run_config: RunConfig) -> None:
    found = gather(phantom_folder, run_config, session).material
    found.clusters_by_id(run_config)
    saved = save_material(found)
    digest, files = saved.digest, saved.files
    again = open_material(digest, lambda name: Path(files[name]), session)
    assert again.identity(run_config) == found.identity(run_config)
    assert again.clusters_by_id(run_config) == found.clusters_by_id(run_config)
    assert (again.note, again.origin, again.notices) == (found.note, found.origin, found.notices)
    assert again.unlabelled is not None
    assert found.unlabelled is not None
    assert again.unlabelled.tissue.tolist() == found.unlabelled.tissue.tolist()
    assert Path(files["pixels.u8"]).parent.parent == session.cache_root.resolve()  # the cache's own, not a copy
    again_saved = save_material(found)
    assert (again_saved.digest, again_saved.files) == (digest, files)
    Path(files["tables.npz"]).write_bytes(b"other")
    with pytest.raises(RunError, match="changed since it was written"):
        open_material(digest, lambda name: Path(files[name]), session)
    with pytest.raises(RunError, match="other patches than the task is of"):
        open_material("0" * 64, lambda name: Path(files[name]), session)


def test_a_material_stays_in_the_cache_while_tasks_of_it_are_to_be_done(session: Session) -> None:
    tasks = RunTasks(material_in(session), Recipes.of(None))
    (kept,) = entries(session.cache_root)
    assert kept.what == "what an engine's processes share"
    assert kept.size_bytes > 96 * 27_648  # its pixels lie in no other file
    assert make_room(session.cache_root, Limit(0.0)) == []
    saved = save_material(material_in(session))
    del tasks
    opened = open_material(saved.digest, lambda name: Path(saved.files[name]), session)
    del saved
    assert make_room(session.cache_root, Limit(0.0)) == []  # a worker's, though whoever asked may be gone
    del opened
    gc.collect()
    assert [entry.path for entry in make_room(session.cache_root, Limit(0.0))] == [kept.path]


def test_processes_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinode.engine.local.free_processors", lambda: 8)
    assert Local().shares(None) == (8, 1)
    assert Local().shares(3) == (2, 3)
    assert Local(2).shares(None) == (2, 4)
    assert Local(20).shares(None) == (20, 1)
    assert Local(devices=("cuda:0", "cuda:1")).shares(None) == (2, 4)
    with pytest.raises(ConfigError, match="cannot compute in 0 processes"):
        Local(0)


def test_processes_give_what_one_gives_though_one_of_them_is_killed(run_config: RunConfig, tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    killed: list[int] = []

    def progress(*words: Any) -> None:
        told.append(words)
        if words[0].startswith("train") and words[1] and not killed:
            workers = [p for p in psutil.Process().children() if "sentinode.engine.worker" in p.cmdline()]
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)

    notices: list[str] = []
    session = Session(tmp_path / "cache", CPU, workers=1, threads=1)
    configs = {f"seed{seed}": override(run_config, {"fit.seed": seed}) for seed in (1, 2, 3)}
    for name, config in configs.items():
        train_run(material_in(session), config, tmp_path / "serial" / name)
    (tmp_path / "many" / "full").mkdir(parents=True)
    (tmp_path / "many" / "full" / "notes.txt").write_text("mine")
    asked = [(tmp_path / "many" / name, config) for name, config in {**configs, "full": run_config}.items()]
    material = material_in(replace(session, engine=Local(2, pause_s=0.01), progress=progress, notify=notices.append))
    with pytest.raises(
        TasksError, match=r"1 of 4 failed: full \(3 times\) .*is not empty and contains no config"
    ) as error:
        train_together(material, asked)
    assert error.value.exit_code == 1
    assert killed
    assert sum("is tried again" in text for text in notices) == 3
    for name in configs:
        assert results_of(tmp_path / "many" / name) == results_of(tmp_path / "serial" / name)
    assert told[-1][:3] == ("runs", 4, 4)
    assert "1 failed" in told[-1][3]
    assert not [p for p in psutil.Process().children() if "sentinode.engine.worker" in p.cmdline()]
