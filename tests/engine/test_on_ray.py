"""On Ray every task is done once, whatever is lost on the way, and what is sent is text; one cluster of two nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from conftest import make_patches
from engine.test_local import material_in, results_of, task_named
from sentinode.config.run import RunConfig
from sentinode.engine.engine import Watch, in_sight, require_done
from sentinode.engine.on_ray import OnRay
from sentinode.engine.task import EngineTask
from sentinode.errors import FailureError, TasksError
from sentinode.machine import keep_ray_to_itself
from sentinode.models.own import Recipes
from sentinode.runs.load import classifier_of
from sentinode.runs.run import Run
from sentinode.runs.tasks import RunTasks, predict_patches, train_together
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override, to_toml

keep_ray_to_itself(loopback=True)
ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
CPU = torch.device("cpu")
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the machines of the cluster keep what they fetch."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def cluster(cache: Path) -> Iterator[Any]:
    """A head with one processor, to which nodes are added.

    It asks five times a second whether a node is there, in place of every three seconds. A node is lost after five
    refusals, as ever; a slow one still has ten seconds for an answer, so a busy machine loses none.
    """
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    small["_system_config"] = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENTINODE_CACHE", str(cache))
        found = Cluster(initialize_head=True, head_node_args=small)
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture(scope="module")
def joined(cluster: Any) -> str:
    """The cluster's address, once this process is connected: its workers import what trains once for several tests."""
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    return str(cluster.address)


@pytest.fixture
def node(cluster: Any) -> Iterator[Any]:
    """A second node, with one processor."""
    added = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    yield added
    if added in cluster.worker_nodes:
        cluster.remove_node(added, allow_graceful=False)


@pytest.fixture(scope="module")
def configs() -> dict[str, RunConfig]:
    from sentinode.config.presets import load_preset

    settings = {"fit.epochs": 6, "fit.batch_size": 16, "predict.views": 1}
    base = override(load_preset("fair").run_config(), settings)
    return {f"seed{seed}": override(base, {"fit.seed": seed}) for seed in SEEDS}


@pytest.fixture(scope="module")
def serial(configs: dict[str, RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("serial")
    session = Session(top / "cache", CPU, workers=1, threads=1)
    for name, config in configs.items():
        train_run(material_in(session), config, top / name)
    return top


def require_equal(many: Path, serial: Path) -> None:
    for name in (f"seed{seed}" for seed in SEEDS):
        assert results_of(many / name) == results_of(serial / name), name


def test_a_node_that_is_killed_costs_an_attempt_and_a_failure_stops_no_other(
    cluster: Any, node: Any, configs: dict[str, RunConfig], serial: Path, tmp_path: Path
) -> None:
    told: list[tuple[Any, ...]] = []
    notices: list[str] = []
    raylet = node.all_processes["raylet"][0].process

    def row(task: EngineTask, _: dict[str, Any]) -> bool:
        """Kill the second node while it works, for a task waits for this answer; Ray calls a process by its task."""
        if raylet.poll() is None and any(
            f"ray::{task.name}" in p.cmdline() for p in psutil.Process(raylet.pid).children()
        ):
            raylet.kill()
            raylet.wait()
        return True

    (tmp_path / "many" / "full").mkdir(parents=True)
    (tmp_path / "many" / "full" / "notes.txt").write_text("mine")
    session = Session(tmp_path / "cache", CPU, workers=1, threads=1)
    make = RunTasks(material_in(session), Recipes.of(None))
    tasks = [make.task(tmp_path / "many" / name, config, watched=True) for name, config in configs.items()]
    tasks.append(make.task(tmp_path / "many" / "full", configs["seed1"]))
    watch = Watch("runs", lambda *words: told.append(words), notices.append, row)
    with pytest.raises(TasksError, match=r"1 of 4 failed: full \(3 times\) .*is not empty and contains no config"):
        require_done(map(in_sight, OnRay(cluster.address, pause_s=0.1).run(tasks, watch)), where=tmp_path)
    assert raylet.poll() is not None
    assert sum(text.startswith("seed") and "is tried again" in text for text in notices) == 1
    assert told[-1][:3] == ("runs", 4, 4)
    require_equal(tmp_path / "many", serial)


DRIVER = """
import os, signal, sys
from pathlib import Path
import torch
from engine.test_local import material_in
from sentinode.config.run import RunConfig
from sentinode.engine.on_ray import OnRay
from sentinode.runs.tasks import train_together
from sentinode.session import Session
from sentinode.settings import read_toml

def progress(step, done, total, note=""):
    if step.startswith("train") and done > 0:
        os.kill(os.getpid(), signal.SIGKILL)

address, top = sys.argv[1], Path(sys.argv[2])
session = Session(top / "cache", torch.device("cpu"), workers=1, engine=OnRay(address), progress=progress)
asked = [(top / "many" / path.stem, read_toml(path, RunConfig)) for path in sorted(top.glob("*.toml"))]
train_together(material_in(session), asked)
"""


def test_a_driver_that_is_killed_is_gone_on_with(
    joined: str, configs: dict[str, RunConfig], serial: Path, tmp_path: Path
) -> None:
    for name, config in configs.items():
        (tmp_path / f"{name}.toml").write_text(to_toml(config))
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": tests}
    killed = subprocess.run([sys.executable, "-c", DRIVER, joined, str(tmp_path)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert not all((tmp_path / "many" / name / "manifest.json").exists() for name in configs)
    session = Session(tmp_path / "cache", CPU, workers=1, threads=1, engine=OnRay(joined, pause_s=1))
    train_together(material_in(session), [(tmp_path / "many" / name, config) for name, config in configs.items()])
    require_equal(tmp_path / "many", serial)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="files of one process alone need /proc")
def test_a_worker_that_lacks_the_data_fetches_them_once(
    joined: str, cache: Path, configs: dict[str, RunConfig], serial: Path, tmp_path: Path
) -> None:
    session = Session(tmp_path / "cache", CPU, workers=1, threads=1)
    make = RunTasks(material_in(session), Recipes.of(None))
    tasks = [make.task(tmp_path / "many" / name, config) for name, config in configs.items()]
    with ExitStack() as opened:
        files = {name: opened.enter_context(Path(path).open("rb")) for name, path in tasks[0].files["material"].items()}
        mine = {name: f"/proc/self/fd/{file.fileno()}" for name, file in files.items()}  # other processes have others
        moved = [replace(task, files={"material": mine}) for task in tasks]
        outcomes = [*OnRay(joined).run(moved, Watch("runs"))]
    assert [(outcome.failure, outcome.attempts) for outcome in outcomes] == [(None, 1)] * 3
    require_equal(tmp_path / "many", serial)
    (fetched,) = (folder for folder in (cache / "fetched").iterdir() if folder.is_dir())
    assert {path.name for path in fetched.iterdir()} == {"material.json", "tables.npz", "pixels.u8", ".whole"}


@pytest.mark.numeric
def test_blocks_of_patches_are_what_one_process_predicts(
    joined: str, serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentinode.runs.tasks.BLOCK_PATCHES", 32)
    session = Session(tmp_path / "cache", CPU, workers=1, threads=1)
    classifier, patches = classifier_of([Run.open(serial / "seed1")], CPU), make_patches()
    many = predict_patches(classifier, patches, replace(session, engine=OnRay(joined)), tmp_path / "a.csv")
    assert many.probabilities.tolist() == classifier(patches.pixels).tolist()


def test_ray_that_is_begun_here_listens_on_the_loopback_alone(cluster: Any) -> None:
    begun = [psutil.Process(info.process.pid) for kind in cluster.head_node.all_processes.values() for info in kind]
    listening = set()
    for process in [*begun, *(child for each in begun for child in each.children(recursive=True))]:
        with suppress(psutil.NoSuchProcess):  # a worker of the test before this, at its end
            listening |= {
                connection.laddr.ip.removeprefix("::ffff:")
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }
    assert listening == {"127.0.0.1"}


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def refuse(address: str, **options: Any) -> None:
        asked.append((address, options.get("include_dashboard"), options.get("num_cpus")))
        raise ConnectionError("nobody\nlistens")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(FailureError, match="--engine ray: Ray cannot be joined"):
        next(OnRay(most=3).run([task_named("a")], Watch("runs")))
    assert asked == [("local", False, 3)]  # and not what runs here by chance
    with pytest.raises(FailureError, match=r"10\.9\.9\.9:6379: Ray cannot be joined \(nobody listens\)"):
        next(OnRay("10.9.9.9:6379").run([task_named("a")], Watch("runs")))
