"""Runs as tasks, and blocks of patches that a model predicts: what is sent, and how it is done elsewhere.

What every task is sent of the session that asks for it, whatever it does, stands first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import sentinode
from sentinode.artefacts import RUN_SEAL
from sentinode.config.run import RunConfig
from sentinode.data.cache import MATERIAL, make_room
from sentinode.data.patches import PatchSet
from sentinode.engine.engine import Watch, in_sight, require_done
from sentinode.engine.task import Desk, EngineTask, Needs
from sentinode.errors import ConfigError, RunError
from sentinode.evaluation.metrics import OwnMetric
from sentinode.inference.classifier import Classifier
from sentinode.inference.predictions import Predictions
from sentinode.models.own import NONE, Recipes, address_of, at_address
from sentinode.progress import ALL_RUNS, of_step
from sentinode.records import Number, read_record, write_record
from sentinode.runs.load import classifier_of, runtime_cache_of
from sentinode.runs.material import Material
from sentinode.runs.material_folder import open_material, save_material
from sentinode.runs.run import CONFIG, MANIFEST, Run, digest_of, is_finished
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override, parse_toml, read_toml, to_toml

_NEEDED: Final = ("running.cpus", "running.gpus", "running.memory_mb")


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


def needs_of(config: RunConfig, session: Session, settings: Mapping[str, Any] | None = None) -> Needs:
    """What a task takes of a machine, by its settings; of GPUs only where the session computes on them.

    `settings`, by their full names, are put over these. Raises ConfigError for any that asks for nothing of a machine.
    """
    for name in settings or {}:
        if name not in _NEEDED:
            told = f"setting {name!r} asks for nothing of a machine"
            raise ConfigError(told, where="the options", remedy=f"Set {', '.join(_NEEDED[:-1])} or {_NEEDED[-1]}.")
    running = override(config, settings or {}, where="the options").running
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
        if (given["networks"] or given.get("metrics")) and given["cwd"] not in sys.path:
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
"""What tasks call the files of the material that they are of."""

_materials: dict[str, Material] = {}
"""The material that this process used last, by its digest."""


def train_together(
    material: Material,
    asked: Sequence[tuple[Path, RunConfig]],
    own: Recipes = NONE,
    *,
    metrics: Mapping[str, OwnMetric] | None = None,
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
    make, known = RunTasks(material, own, metrics), done + len(asked) - len(left)
    watch = Watch(ALL_RUNS, session.progress, session.notify, done=known, total=total or len(asked))
    outcomes = session.engine.run([make.task(*each) for each in left], watch)
    require_done(map(in_sight, outcomes), where=left[0][0].parent)


class RunTasks:
    """Makes tasks that train runs of one material; `metrics` are scores of the user's own.

    Raises ConfigError where these need networks or metrics of the user's own that no other process finds.
    """

    def __init__(self, material: Material, own: Recipes, metrics: Mapping[str, OwnMetric] | None = None) -> None:
        self._session, self._networks = material.session, own.addresses
        self._metrics = {
            name: {**asdict(metric), "function": address_of(metric.function, name, "metric")}
            for name, metric in (metrics or {}).items()
        }
        self._saved = save_material(material)

    def task(self, folder: Path, config: RunConfig, *, watched: bool = False) -> EngineTask:
        """A task that trains the run of a folder; `watched`: each epoch asks whether to go on."""
        along = sent_along(self._session, folder, self._networks)
        return EngineTask(
            "run",
            folder.name,
            {**along, "settings": to_toml(config), "watched": watched, "metrics": self._metrics},
            needs_of(config, self._session),
            {_MATERIAL: self._saved.files},
            {_MATERIAL: self._saved.digest},
        )


def do_run(task: EngineTask, desk: Desk) -> None:
    """Train the run of a task; what is there of it is gone on with."""
    with workplace(task, desk) as (session, own):
        metrics = {
            name: OwnMetric(**{**sent, "function": at_address(sent["function"], name, "metric")})
            for name, sent in task.given["metrics"].items()
        }
        train_run(
            _material(task, desk, session),
            parse_toml(task.given["settings"], RunConfig, where=task.name),
            Path(task.given["out"]),
            resume=True,
            on_epoch=desk.go_on if task.given["watched"] else None,
            own=own,
            metrics=metrics,
        )


def _material(task: EngineTask, desk: Desk, session: Session) -> Material:
    """The task's material: the last one's, if it is the same."""
    digest = task.digests[_MATERIAL]
    if digest not in _materials:
        _materials.clear()
        _materials[digest] = open_material(digest, lambda name: desk.place(_MATERIAL, name), session)
        make_room(desk.place(_MATERIAL, MATERIAL).parents[2])  # in the cache that it lies in, for it may just have come
    material = _materials[digest]
    material.session = session
    return material


# --- predictions -------------------------------------------------------------------------------------

BLOCK_PATCHES: Final = 4096
"""A second's work of the smallest network under one view, which is well above what a task costs beside it."""
ALL_BLOCKS: Final = "predict"
"""The step that all blocks are parts of."""
_MODEL: Final = "model"

_models: dict[str, Classifier] = {}
"""The model that this process predicted with last, by its digest."""


@dataclass(frozen=True)
class _Block:
    """A block's only file: the probability of each of its patches, in their order."""

    probabilities: list[Number]


def predict_patches(
    classifier: Classifier,
    patches: PatchSet,
    session: Session,
    beside: Path,
    settings: Mapping[str, Any] | None = None,
) -> Predictions:
    """What `classifier.predictions` gives: by the session's engine, where it has one and there is more than a block.

    What computes the networks is chosen once, here. A patch's probability does not depend on the block that it is in,
    so blocks joined are what one process would have predicted, with the same number of threads.

    What is finished lies in a folder beside `beside`, which the caller holds, until all is: the same call then goes on
    with it. `settings`: `running.cpus`, `running.gpus` and `running.memory_mb`, where these are not to be as the run's
    settings say. Raises ConfigError for an exported model, TasksError where blocks failed; the others stay finished.
    """
    if session.engine is None or len(patches) <= BLOCK_PATCHES:
        return classifier.predictions(patches, session.progress)
    opened = [(run.folder, run.own or Recipes()) for run in classifier.runs if run.folder is not None]
    if len(opened) < len(classifier.runs):
        told = "an exported model is computed by this process alone"
        raise ConfigError(told, where=classifier.name, remedy="Do without an engine, or give the run.")
    classifier.expect(patches.pixels)
    ways = list(classifier.ways)
    saved = save_material(Material(patches, patches.groups, session=session))
    folders = [str(folder.resolve()) for folder, _ in opened]
    model = _digest_of(folders)
    asked = json.dumps([model, saved.digest, ways, session.device.type, BLOCK_PATCHES, sentinode.__version__])
    scratch = beside.with_name(f".{beside.name}.blocks")
    home = scratch / hashlib.sha256(asked.encode()).hexdigest()[:20]
    starts = range(0, len(patches), BLOCK_PATCHES)
    blocks = {start: home / f"{start}" for start in starts}
    addresses = {name: address for _, own in opened for name, address in own.addresses.items()}
    needs = needs_of(read_toml(opened[0][0] / CONFIG, RunConfig), session, settings)
    tasks = [
        EngineTask(
            "block",
            f"patches from {start + 1:,}",
            {
                **sent_along(session, folder, addresses),
                "rows": [start, min(start + BLOCK_PATCHES, len(patches))],
                "model": folders,
                "ways": ways,
            },
            needs,
            {_MATERIAL: saved.files},
            {_MATERIAL: saved.digest, _MODEL: model},
        )
        for start, folder in blocks.items()
        if not (folder / RUN_SEAL).is_file()
    ]
    watch = Watch(ALL_BLOCKS, session.progress, session.notify, done=len(blocks) - len(tasks), total=len(blocks))
    require_done(map(in_sight, session.engine.run(tasks, watch)), where=beside)
    found = [read_record(folder / RUN_SEAL, _Block).probabilities for folder in blocks.values()]
    shutil.rmtree(scratch, ignore_errors=True)
    return Predictions(patches.ids, patches.labels, np.concatenate(found))


def _digest_of(folders: Sequence[str]) -> str:
    """Of the manifests of runs, which hold the digests of all their files."""
    return hashlib.sha256("\n".join(digest_of(Path(folder) / MANIFEST) for folder in folders).encode()).hexdigest()


def do_block(task: EngineTask, desk: Desk) -> None:
    """Predict the block of a task."""
    with workplace(task, desk) as (session, own):
        start, stop = task.given["rows"]
        pixels = _material(task, desk, session).patches.pixels[start:stop]
        classifier = _classifier(task, session, own)
        probabilities = classifier(pixels, on_progress=of_step(session.progress, f"predict {task.name}"))
        write_record(Path(task.given["out"]) / RUN_SEAL, _Block(probabilities.tolist()))


def _classifier(task: EngineTask, session: Session, own: Recipes) -> Classifier:
    """The task's model, computed as it says: the last one's, if it is the same."""
    folders, digest = task.given["model"], task.digests[_MODEL]
    if _digest_of(folders) != digest:
        raise RunError("is another model than the task is of", where=folders[0], remedy="Give the command again.")
    asked = json.dumps([digest, task.given["ways"]])
    if asked not in _models:
        _models.clear()
        runs = [Run.open(Path(folder), own) for folder in folders]
        classifier = classifier_of(runs, session.device, fastest=runtime_cache_of(session))
        classifier.compute_by(task.given["ways"])
        _models[asked] = classifier
    return _models[asked]
