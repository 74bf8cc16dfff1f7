"""Train one run: join the loop with the scores, keep the best, and fill the run folder."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from sentinode.artefacts import write_text
from sentinode.config import FitHead, FitStages, HeadFitConfig, NotebookModel, OwnModel, RunConfig
from sentinode.errors import RunError, SentinodeWarning
from sentinode.evaluation.metrics import OwnMetric, scores
from sentinode.fitting.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from sentinode.fitting.epochs import EpochRecord, FitState, fit_epochs, steps_in_epoch
from sentinode.fitting.linear_probe import fit_head
from sentinode.fitting.memory import keep_freed_memory
from sentinode.fitting.processes import ALONE, Processes
from sentinode.inference.classifier import TrainedNetwork
from sentinode.inference.predictions import Predictions
from sentinode.inputs.batches import derive_seed
from sentinode.models.backbones.backbone import Backbone
from sentinode.models.build import build
from sentinode.models.own import NONE, Recipes, require_same_sources
from sentinode.progress import Progress, silent
from sentinode.records import write_record
from sentinode.runs.decide import decide, own_scores
from sentinode.runs.decision import DECISION
from sentinode.runs.ensemble import require_trainable, seal_blend
from sentinode.runs.environment import describe_environment, read_environment, write_environment
from sentinode.runs.features import head_sides
from sentinode.runs.history import (
    History,
    best_epoch,
    has_finished,
    history_row,
    undefined_epochs,
    write_history,
)
from sentinode.runs.material import Material, require_same
from sentinode.runs.pseudo_labels import PseudoLabels
from sentinode.runs.run import (
    CONFIG,
    ENVIRONMENT,
    MEMBERS,
    SCORES,
    Run,
    Scores,
    claim_run,
    is_finished,
    write_manifest,
)
from sentinode.runs.run_record import record_of_run
from sentinode.runs.streams import Streams, open_streams
from sentinode.runs.teacher import pseudo_labels, pseudo_labels_of
from sentinode.settings import read_toml, to_toml

_INITIAL_WEIGHTS = 0
_LAST: Final = Path("checkpoint") / "last.safetensors"


def train_run(
    material: Material,
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    resume: bool = False,
    progress: Progress = silent,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    processes: Processes = ALONE,
    own: Recipes = NONE,
    metrics: Mapping[str, OwnMetric] | None = None,
) -> Run:
    """Train, or with `resume` finish, the run in `folder`; a finished run of the same config is returned as it is.

    `on_epoch` is called with each row of the history, those of an interrupted call first; an exception it raises stops
    the run, which can be resumed. Raises RunError for a folder of another run, or that another process writes;
    DivergedError where the loss is no number. A config with members trains these and blends them; their epochs are not
    told. Of several processes, which all call this, the first writes. `own` makes the networks of a user's own that the
    config names; `metrics` are scores of the user's own.
    """
    with (
        claim_run(folder) if processes.writes else nullcontext(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),  # the caller's random state stays
    ):
        if config.ensemble is not None:
            return _train_members(
                material,
                config,
                folder,
                device=device,
                resume=resume,
                progress=progress,
                processes=processes,
                own=own,
                metrics=metrics or {},
            )
        return _train_network(
            material,
            config,
            folder,
            device=device,
            resume=resume,
            progress=progress,
            on_epoch=on_epoch,
            processes=processes,
            own=own,
            metrics=metrics or {},
        )


def _train_network(
    material: Material,
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    resume: bool,
    progress: Progress,
    on_epoch: Callable[[dict[str, Any]], None] | None,
    processes: Processes,
    own: Recipes,
    metrics: Mapping[str, OwnMetric],
) -> Run:
    keep_freed_memory()
    # Before the run is begun, for weights may be missing; a finished run is not built again.
    state = None if is_finished(folder) else _new_state(config, device, own)
    pseudo = _begin_together(
        folder, config, material, device, resume=resume, progress=progress, processes=processes, own=own
    )
    if state is None:
        return Run.open(folder, own)
    streams = open_streams(material, config, pseudo)
    if isinstance(config.model, OwnModel) and not isinstance(config.fit, FitHead):
        _require_batches(config.model, config.fit.batch_size, len(streams.training), config, own)
    torch.manual_seed(derive_seed(config.fit.seed))
    head_first = config.fit.head_first if isinstance(config.fit, FitStages) else None
    if head_first and processes.writes and not (folder / _LAST).is_file():
        _fit_head(folder, material, config, head_first, state, streams, device, progress)
    history = _restore(folder, state, processes)
    if on_epoch:
        for row in history:
            on_epoch(row)
    best_path = folder / "checkpoint" / "best.safetensors"

    step = f"train {folder.name}"
    records = _records(material, config, state, streams, step, device, progress, processes)
    while not has_finished(history, config.fit):
        record = next(records)
        row = history_row(record, config.fit.metric)
        history.append(row)
        planned = record.epoch if has_finished(history, config.fit) else config.fit.epochs_planned
        patches = int(row["training_patches"])
        progress(step, record.epoch * patches, planned * patches, _in_words(row, config.fit.epochs_planned))
        if not processes.writes:
            continue
        if best_epoch(history, config.fit) == record.epoch:
            save_weights(best_path, state.result)
        write_history(folder, history)  # before what says that the epoch is done
        save_checkpoint(folder / _LAST, state, history)
        if on_epoch:
            on_epoch(row)
    if processes.writes:
        if config.fit.keep == "best":
            load_weights(best_path, state.result)
            if notice := undefined_epochs(history, config.fit):
                warnings.warn(f"{folder.name}: {notice}", SentinodeWarning, stacklevel=2)
        _finish(material, config, folder, state, streams, device, metrics)
    processes.wait()
    return Run.open(folder, own)


def _require_batches(model: OwnModel, batch_size: int, patches: int, config: RunConfig, own: Recipes) -> None:
    """Raise ConfigError where a pass ends in a batch of one patch, which a user's own network cannot learn from."""
    if patches % batch_size == 1:
        own.to_train(model).require_batch_of_one(config.preprocess.size_px, patches, batch_size)


def _records(
    material: Material,
    config: RunConfig,
    state: FitState,
    streams: Streams,
    step: str,
    device: torch.device,
    progress: Progress,
    processes: Processes,
) -> Iterator[EpochRecord]:
    """The epochs that are still to come, or the fits of a head."""
    fit = config.fit
    if isinstance(fit, FitHead):
        assert isinstance(state.network, Backbone)
        sides = head_sides(material, config, fit.copies, state.network, device, progress, streams.pseudo)
        for record in fit_head(state.network, *sides, fit, done=state.epochs_done):
            state.epochs_done = record.epoch
            yield record
        return
    steps = steps_in_epoch(streams.training, fit.steps_per_epoch, fit.epoch_fraction)
    patches, epochs, batch_size = min(steps * fit.batch_size, len(streams.training)), fit.epochs, fit.batch_size

    progress(step, state.epochs_done * patches, epochs * patches)  # the first batch may wait for a compiler

    def on_batch(epoch: int, done: int, _steps: int) -> None:
        if done < steps:  # an epoch is over when it was validated, too
            progress(step, (epoch - 1) * patches + done * batch_size, epochs * patches)

    yield from fit_epochs(
        state,
        streams.training,
        streams.validation,
        fit,
        device=device,
        on_batch=on_batch,
        processes=processes,
    )


def _in_words(row: dict[str, Any], epochs: int) -> str:
    auc = row["validation_auc"]
    told = "undefined" if auc is None else f"{auc:.3f}"
    return f"epoch {row['epoch']} of {epochs}: loss {row['training_loss']:.3f}, AUC {told}"


def _train_members(
    material: Material,
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    resume: bool,
    progress: Progress,
    processes: Processes,
    own: Recipes,
    metrics: Mapping[str, OwnMetric],
) -> Run:
    """Train, or go on with, every member below the folder, then blend them."""
    require_trainable(material, config)
    for name, member in config.members().items():  # before the run is begun, as for one of a single network
        if not is_finished(folder / MEMBERS / name):
            _new_state(member, device, own)
    if processes.writes:
        _begin(folder, config, material, device, resume=resume, progress=progress, own=own)
    if is_finished(folder):
        return Run.open(folder, own)
    members = [
        train_run(
            material,
            member,
            folder / MEMBERS / name,
            device=device,
            resume=True,
            progress=progress,
            processes=processes,
            own=own,
            metrics=metrics,
        )
        for name, member in config.members().items()
    ]
    if processes.writes:
        seal_blend(folder, config, members, material.clusters_by_id(config), metrics)
    processes.wait()
    return Run.open(folder, own)


def _new_state(config: RunConfig, device: torch.device, own: Recipes) -> FitState:
    generator = torch.Generator().manual_seed(derive_seed(config.fit.seed, _INITIAL_WEIGHTS))
    network = build(config.model, input_size_px=config.preprocess.size_px, generator=generator, own=own)
    if isinstance(network, Backbone):
        network.require_trainable(config.preprocess.size_px)
    return FitState.start(network.to(device), config.fit)


def _fit_head(
    folder: Path,
    material: Material,
    config: RunConfig,
    head: HeadFitConfig,
    state: FitState,
    streams: Streams,
    device: torch.device,
    progress: Progress,
) -> None:
    """Before the first epoch: the head that fits the backbone's features as they are, of the penalty that does best."""
    assert isinstance(state.network, Backbone)
    assert not isinstance(config.fit, FitHead)
    sides = head_sides(material, config, head.copies, state.network, device, progress, streams.pseudo)
    history: History = []
    for record in fit_head(state.network, *sides, head):
        history.append(history_row(record, config.fit.metric))
        progress(f"head of {folder.name}", record.epoch, len(head.penalties))
        if best_epoch(history, config.fit) == record.epoch:
            best = copy.deepcopy(state.network.state_dict())
    state.network.load_state_dict(best)
    state.begin_average(config.fit)


def _restore(folder: Path, state: FitState, processes: Processes) -> History:
    checkpoint = folder / _LAST
    if processes.writes and not checkpoint.is_file():
        save_checkpoint(checkpoint, state, [])  # so that there are good weights even if the first epoch diverges
    processes.wait()
    return load_checkpoint(checkpoint, state)


def _begin_together(
    folder: Path,
    config: RunConfig,
    material: Material,
    device: torch.device,
    *,
    resume: bool,
    progress: Progress,
    processes: Processes,
    own: Recipes,
) -> PseudoLabels | None:
    """The first process begins the run; the others read there what joins training."""
    pseudo = None
    if processes.writes:
        pseudo = _begin(folder, config, material, device, resume=resume, progress=progress, own=own)
    if config.pseudo is None:
        return None
    processes.wait()
    return pseudo if processes.writes else pseudo_labels_of(folder, config)


def _begin(
    folder: Path,
    config: RunConfig,
    material: Material,
    device: torch.device,
    *,
    resume: bool,
    progress: Progress,
    own: Recipes,
) -> PseudoLabels | None:
    """Make the claimed folder this run's own, or raise RunError where it is another's; returns what joins training."""
    identity = folder / CONFIG
    begun = identity.is_file()
    if begun:
        if not resume:
            raise RunError("already contains a run", where=folder, remedy="Add --resume, or choose another folder.")
        before = read_toml(identity, RunConfig)
        require_same_sources(before.own_sources, config.own_sources, where=folder)
        if before.digest() != config.digest():
            raise RunError(
                "contains a run with other settings",
                where=folder,
                remedy="Resume it with its own, or choose another folder.",
            )
        if (folder / ENVIRONMENT).is_file():
            _require_same_data(folder, config, material)
            return pseudo_labels_of(folder, config)
    write_text(identity, to_toml(config))
    try:
        return _prepare(folder, config, material, device, progress, own)
    except BaseException:
        if not begun:  # what cannot be begun leaves no run; what was killed just here is gone on with
            identity.unlink(missing_ok=True)
        raise


def _prepare(
    folder: Path, config: RunConfig, material: Material, device: torch.device, progress: Progress, own: Recipes
) -> PseudoLabels | None:
    """Write what the run starts from: pseudo-labels, where there are any, the split and, last, the environment."""
    pseudo = pseudo_labels(material, config, device, progress, own)
    if pseudo:
        pseudo = pseudo.write(folder)
    of_streams = () if config.ensemble else open_streams(material, config, pseudo).notices  # members note theirs
    environment = {
        **describe_environment(device),
        "data_sha256": material.data_hash,
        "data": material.identity(config),
        "data_note": material.note,
        "seed": config.fit.seed,
        "split": material.split(config).describe(),
        "clusters": material.cluster_kind,
        "notices": [
            *material.split(config).notices,
            *material.notices,
            *of_streams,
            *([pseudo.notice] if pseudo else []),
        ],
        "pseudo_labels": pseudo.record if pseudo else None,
    }
    material.write_split(config, folder / "split.csv")
    write_environment(folder / ENVIRONMENT, environment)
    return pseudo


def _require_same_data(folder: Path, config: RunConfig, material: Material) -> None:
    environment = read_environment(folder / ENVIRONMENT)
    require_same(environment.get("data", {}), material.identity(config), where=folder)
    begun_in, now = environment.get("torch_threads"), torch.get_num_threads()
    if begun_in != now and not isinstance(
        config.model, NotebookModel
    ):  # whose loops sum alike in any number of threads
        told = f"{folder.name} was started with {begun_in} threads and continues with {now}"
        warnings.warn(f"{told}: results may differ by rounding", SentinodeWarning, stacklevel=2)


def _finish(
    material: Material,
    config: RunConfig,
    folder: Path,
    state: FitState,
    streams: Streams,
    device: torch.device,
    own: Mapping[str, OwnMetric],
) -> None:
    split = material.split(config)
    probabilities = TrainedNetwork(state.result, config, device).probabilities(streams.validation.prepared)
    labels = material.labels_by_id
    known = np.array([labels[i] for i in split.validation.tolist()], dtype=np.int8)
    predictions = Predictions(split.validation, known, probabilities)
    predictions.write(folder / "predictions.csv")
    write_record(folder / SCORES, Scores(**scores(known, probabilities)))
    cluster_of = material.clusters_by_id(config)
    clusters = np.array([cluster_of[i] for i in split.validation.tolist()])
    write_record(folder / DECISION, decide(predictions, clusters, config.decision, seed=config.fit.seed))
    save_weights(folder / "model.safetensors", state.result)
    material.write_split(config, folder / "split.csv")  # what was trained on, whatever became of the file meanwhile
    unnormalised = streams.training.prepared.unnormalised + streams.validation.prepared.unnormalised
    scored = own_scores(predictions, clusters, material.cluster_kind, own, seed=config.fit.seed)
    record = record_of_run(material, config, state.network, state.result, unnormalised=unnormalised)
    replace(record, own_scores=scored).write(folder)
    write_manifest(folder)
