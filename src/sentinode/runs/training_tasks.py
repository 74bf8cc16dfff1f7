"""Runs as tasks: what is sent to train one elsewhere, and how it is done there.

What every task is sent of the session that asks for it, whatever it does, stands first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch

from sentinode.config.run import RunConfig, RunningConfig
from sentinode.engine.engine import Watch, in_sight, require_done
from sentinode.engine.task import Desk, EngineTask, Needs
from sentinode.errors import RunError
from sentinode.models.own import NONE, Recipes
from sentinode.progress import ALL_RUNS
from sentinode.runs.material import Material
from sentinode.runs.material_folder import open_material, save_material
from sentinode.runs.run import is_finished
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import parse_toml, to_toml


def sent_along(session: Session, out: Path, networks: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a task with results in the folder `out` is given beside what it is about; `out.parent` is made.

    `networks` are the addresses of the user's own (`Recipes.addresses`).
    """
    home = out.parent.resolve()
    home.mkdir(parents=True, exist_ok=True)
    return {
        "out": str(home / out.name),
        "home": str(home),
        "cwd": str(Path.cwd()),
        "cache": str(session.cache_root.resolve()),
        "networks": dict(networks),
    }


def needs_of(running: RunningConfig, session: Session) -> Needs:
    """What a task takes of a machine, by its settings; of GPUs only where the session computes on them."""
    return Needs(running.cpus, running.gpus if session.device.type == "cuda" else 0.0, running.memory_mb)


@contextmanager
def workplace(task: EngineTask, desk: Desk) -> Iterator[tuple[Session, Recipes]]:
    """The session and the networks of the user's own to do a task with; raises RunError where its results find no way.

    Within, the current folder is that of whoever asked, if it is to be seen from here: settings may name a teacher by
    its place from there, and modules may lie there.
    """
    given = task.given
    home, cwd = Path(given["home"]), Path(given["cwd"])
    if not home.is_dir():
        told = "is not to be seen from this machine"
        raise RunError(told, where=home, remedy="Let --out lie in a folder that all machines share.")
    with chdir(cwd) if cwd.is_dir() else nullcontext():
        if given["networks"] and given["cwd"] not in sys.path:
            sys.path.insert(0, given["cwd"])
        session = Session(
            Path(given["cache"]),
            torch.device(desk.device),
            progress=desk.progress,
            notify=desk.notify,
            threads=desk.threads,
        )
        yield session, Recipes.at(given["networks"])


# --- runs --------------------------------------------------------------------------------------------


_MATERIAL: Final = "material"

_open: dict[str, Material] = {}
"""The material that this process trained on last, by its digest."""


def train_together(
    material: Material,
    asked: Sequence[tuple[Path, RunConfig]],
    own: Recipes = NONE,
    *,
    done: int = 0,
    total: int | None = None,
) -> None:
    """Have the session's engine train, or go on with, the run of each folder; finished ones are left alone.

    `done` of `total` runs, which progress is told of, were there before these. Raises TasksError where some could not
    be trained; the others are.
    """
    session, left = material.session, [(folder, config) for folder, config in asked if not is_finished(folder)]
    if not left:
        return
    assert session.engine is not None
    make, known = RunTasks(material, own), done + len(asked) - len(left)
    watch = Watch(ALL_RUNS, session.progress, session.notify, done=known, total=total or len(asked))
    outcomes = session.engine.run([make.task(*each) for each in left], watch)
    require_done(map(in_sight, outcomes), where=left[0][0].parent)


class RunTasks:
    """Makes tasks that train runs of one material.

    Raises ConfigError where these need networks of the user's own that no other process finds.
    """

    def __init__(self, material: Material, own: Recipes) -> None:
        self._session, self._networks = material.session, own.addresses
        self._digest, self._files = save_material(material)

    def task(self, folder: Path, config: RunConfig, *, watched: bool = False) -> EngineTask:
        """A task that trains the run of a folder; `watched`: each epoch asks whether to go on."""
        along = sent_along(self._session, folder, self._networks)
        return EngineTask(
            "run",
            folder.name,
            {**along, "settings": to_toml(config), "watched": watched},
            needs_of(config.running, self._session),
            {_MATERIAL: self._files},
            {_MATERIAL: self._digest},
        )


def do(task: EngineTask, desk: Desk) -> None:
    """Train the run of a task; what is there of it is gone on with."""
    with workplace(task, desk) as (session, own):
        train_run(
            _material(task, desk, session),
            parse_toml(task.given["settings"], RunConfig, where=task.name),
            Path(task.given["out"]),
            resume=True,
            on_epoch=desk.go_on if task.given["watched"] else None,
            own=own,
        )


def _material(task: EngineTask, desk: Desk, session: Session) -> Material:
    """The task's material: the last one's, if it is the same."""
    digest = task.digests[_MATERIAL]
    if digest not in _open:
        _open.clear()
        _open[digest] = open_material(digest, lambda name: desk.place(_MATERIAL, name), session)
    material = _open[digest]
    material.session = session
    return material
