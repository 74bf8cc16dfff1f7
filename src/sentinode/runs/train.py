"""Train one run: join the loop with the scores, keep the best, and fill the run folder."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from sentinode.artefacts import write_text
from sentinode.config.fit import FitHead, FitStages, HeadFitConfig
from sentinode.config.run import NotebookModel, OwnModel, RunConfig
from sentinode.errors import RunError, SentinodeWarning
from sentinode.evaluation.metrics import OwnMetric, scores
from sentinode.fitting.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from sentinode.fitting.epochs import EpochRecord, FitState, fit_epochs, steps_in_epoch
from sentinode.fitting.linear_probe import fit_head
from sentinode.fitting.memory import keep_freed_memory
from sentinode.inference.predictions import Predictions
from sentinode.inference.trained import TrainedNetwork
from sentinode.inputs.batches import BatchStream
from sentinode.inputs.preprocess import notices as preprocessing_notices
from sentinode.models.backbones.backbone import Backbone
from sentinode.models.build import build
from sentinode.models.own import NONE, Recipes, require_same_sources
from sentinode.processes import ALONE, Processes
from sentinode.randomness import Purpose
from sentinode.records import write_record
from sentinode.runs.decision import DECISION, decide, own_scores
from sentinode.runs.ensemble import require_trainable, seal_blend
from sentinode.runs.environment import describe_environment, read_environment, write_environment
from sentinode.runs.features import head_features
from sentinode.runs.history import (
    History,
    best_epoch,
    has_finished,
    history_row,
    undefined_epochs,
    write_history,
)
from sentinode.runs.material import Material, require_same
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
from sentinode.runs.teacher import TeacherPredictions, read_teacher_predictions, teacher_predictions
from sentinode.session import Session
from sentinode.settings import read_toml, to_toml

_VALIDATION_BATCH: Final = 512
_LAST: Final = Path("checkpoint") / "last.safetensors"
_BEST: Final = Path("checkpoint") / "best.safetensors"

OnEpoch = Callable[[dict[str, Any]], None]


def train_run(
    material: Material,
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
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
    device = material.session.device
    with (
        claim_run(folder) if material.session.processes.writes else nullcontext(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),  # the caller's random state stays
    ):
        training = _Training(material, config, folder, own, metrics or {})
        if config.ensemble is not None:
            return training.of_members(resume=resume)
        return training.of_network(resume=resume, on_epoch=on_epoch)


@dataclass(frozen=True, eq=False)
class _Training:
    """One run on its way from a material to a sealed folder."""

    material: Material
    config: RunConfig
    folder: Path
    own: Recipes
    metrics: Mapping[str, OwnMetric]

    def of_members(self, *, resume: bool) -> Run:
        """Train, or go on with, every member below the folder, then blend them."""
        require_trainable(self.material, self.config)
        members = {self.folder / MEMBERS / name: own for name, own in self.config.members().items()}
        for place, member in members.items():  # before the run is begun, as for one of a single network
            if not is_finished(place):
                _new_state(member, self.session.device, self.own)
        if self.processes.writes:
            self._begin(resume=resume)
        if is_finished(self.folder):
            return Run.open(self.folder, self.own)
        if self.session.engine is not None:
            self._train_together(members)
        runs = [
            train_run(self.material, member, place, resume=True, own=self.own, metrics=self.metrics)
            for place, member in members.items()
        ]
        if self.processes.writes:
            seal_blend(self.folder, self.config, runs, self.material.clusters_by_id(self.config), self.metrics)
        self.processes.wait()
        return Run.open(self.folder, self.own)

    def _train_together(self, members: Mapping[Path, RunConfig]) -> None:
        """Have the session's engine train the members."""
        from sentinode.runs.tasks import train_together  # which trains with this module

        train_together(self.material, list(members.items()), self.own, metrics=self.metrics)

    def of_network(self, *, resume: bool, on_epoch: OnEpoch | None) -> Run:
        """Begin or go on, train epoch by epoch, keep the best, and seal."""
        keep_freed_memory()
        config, folder, writes = self.config, self.folder, self.processes.writes
        # Before the run is begun, for weights may be missing; a finished run is not built again.
        state = None if is_finished(folder) else _new_state(config, self.session.device, self.own, self.processes)
        by_teacher = self._begin_together(resume=resume)
        if state is None:
            return Run.open(folder, self.own)
        streams = open_streams(self.material, config, by_teacher)
        self._require_batches(len(streams.training))
        torch.manual_seed(Purpose.WHILE_TRAINING.seed(config.fit.seed))
        if isinstance(config.fit, FitStages) and config.fit.head_first and writes and not (folder / _LAST).is_file():
            self._fit_head_first(config.fit.head_first, state, streams)
        history = self._restore(state)
        if on_epoch:
            for row in history:
                on_epoch(row)

        records = self._epochs(state, streams)
        while not has_finished(history, config.fit):
            record = next(records)
            history.append(history_row(record, config.fit.metric))
            self._tell(history)
            if not writes:
                continue
            if best_epoch(history, config.fit) == record.epoch:
                save_weights(folder / _BEST, state.result)
            write_history(folder, history)  # before what says that the epoch is done
            save_checkpoint(folder / _LAST, state, history)
            if on_epoch:
                on_epoch(history[-1])
        if writes:
            if config.fit.keep == "best":
                load_weights(folder / _BEST, state.result)
                if notice := undefined_epochs(history, config.fit):
                    warnings.warn(f"{folder.name}: {notice}", SentinodeWarning, stacklevel=2)
            self._finish(state, streams)
        self.processes.wait()
        return Run.open(folder, self.own)

    @property
    def session(self) -> Session:
        return self.material.session

    @property
    def processes(self) -> Processes:
        return self.session.processes

    def _begin_together(self, *, resume: bool) -> TeacherPredictions | None:
        """The first process begins the run; the others read there what joins training."""
        by_teacher = self._begin(resume=resume) if self.processes.writes else None
        if self.config.teacher is None:
            return None
        self.processes.wait()
        return by_teacher if self.processes.writes else read_teacher_predictions(self.folder, self.config)

    def _begin(self, *, resume: bool) -> TeacherPredictions | None:
        """Make the claimed folder this run's own, or raise RunError where it is another's; returns what joins."""
        folder, config = self.folder, self.config
        identity = folder / CONFIG
        begun = identity.is_file()
        if begun:
            if not resume:
                raise RunError("already contains a run", where=folder, remedy="Add --resume, or choose another --out.")
            before = read_toml(identity, RunConfig)
            require_same_sources(before.own_sources, config.own_sources, where=folder)
            if before.digest() != config.digest():
                raise RunError(
                    "contains a run with other settings",
                    where=folder,
                    remedy="Resume it with its own, or choose another folder.",
                )
            if (folder / ENVIRONMENT).is_file():
                self._require_same_data()
                return read_teacher_predictions(folder, config)
        write_text(identity, to_toml(config))
        try:
            return self._prepare()
        except BaseException:
            if not begun:  # what cannot be begun leaves no run; what was killed just here is gone on with
                identity.unlink(missing_ok=True)
            raise

    def _prepare(self) -> TeacherPredictions | None:
        """Write what the run starts from: a teacher's predictions, if any, the split and, last, the environment."""
        material, config = self.material, self.config
        by_teacher = teacher_predictions(material, config, self.own)
        if by_teacher:
            by_teacher = by_teacher.write(self.folder)
        of_streams = (
            () if config.ensemble else open_streams(material, config, by_teacher).notices
        )  # members note theirs
        split = material.write_split(config, self.folder / "split.csv")
        environment = {
            **describe_environment(self.session.device),
            "data_sha256": material.data_hash,
            "data": material.identity(config),
            "data_note": material.note,
            "seed": config.fit.seed,
            "split": split.describe(),
            "clusters": material.cluster_kind,
            "notices": [*split.notices, *material.notices, *of_streams, *([by_teacher.notice] if by_teacher else [])],
            "teacher": by_teacher.record if by_teacher else None,
        }
        write_environment(self.folder / ENVIRONMENT, environment)
        return by_teacher

    def _require_same_data(self) -> None:
        environment = read_environment(self.folder / ENVIRONMENT)
        require_same(environment.get("data", {}), self.material.identity(self.config), where=self.folder)
        begun_in, now = environment.get("torch_threads"), torch.get_num_threads()
        # The notebook's networks are loops that sum alike in any number of threads.
        if begun_in != now and not isinstance(self.config.model, NotebookModel):
            told = f"{self.folder.name} was started with {begun_in} threads and continues with {now}"
            warnings.warn(f"{told}: results may differ by rounding", SentinodeWarning, stacklevel=2)

    def _require_batches(self, patches: int) -> None:
        """Raise ConfigError where a pass ends in a batch of one patch, which a user's own network cannot learn from."""
        model, fit = self.config.model, self.config.fit
        if isinstance(model, OwnModel) and not isinstance(fit, FitHead) and patches % fit.batch_size == 1:
            network = self.own.to_train(model)
            network.require_batch_of_one(self.config.preprocess.size_px, patches, fit.batch_size)

    def _restore(self, state: FitState) -> History:
        checkpoint = self.folder / _LAST
        if self.processes.writes and not checkpoint.is_file():
            save_checkpoint(checkpoint, state, [])  # so that there are good weights even if the first epoch diverges
        self.processes.wait()
        return load_checkpoint(checkpoint, state)

    def _fit_head_first(self, head: HeadFitConfig, state: FitState, streams: Streams) -> None:
        """Before the first epoch: the head that fits the backbone's features as they are, of the best penalty."""
        assert isinstance(state.network, Backbone)
        fit, history = self.config.fit, History()
        features = head_features(self.material, self.config, head.copies, state.network, streams.by_teacher)
        for record in fit_head(state.network, *features, head):
            history.append(history_row(record, fit.metric))
            self.session.progress(f"head of {self.folder.name}", record.epoch, len(head.penalties))
            if best_epoch(history, fit) == record.epoch:
                best = copy.deepcopy(state.network.state_dict())
        assert not isinstance(fit, FitHead)
        state.network.load_state_dict(best)
        state.begin_average(fit)

    def _epochs(self, state: FitState, streams: Streams) -> Iterator[EpochRecord]:
        """The epochs that are still to come, or the fits of a head."""
        fit = self.config.fit
        if isinstance(fit, FitHead):
            assert isinstance(state.network, Backbone)
            features = head_features(self.material, self.config, fit.copies, state.network, streams.by_teacher)
            for record in fit_head(state.network, *features, fit, done=state.epochs_done):
                state.epochs_done = record.epoch
                yield record
            return
        steps = steps_in_epoch(streams.training, fit.steps_per_epoch, fit.epoch_fraction)
        patches, batch_size = min(steps * fit.batch_size, len(streams.training)), fit.batch_size
        tell = partial(self.session.progress, f"train {self.folder.name}")
        tell(state.epochs_done * patches, fit.epochs * patches)  # the first batch may wait for a compiler

        def on_batch(epoch: int, done: int, _steps: int) -> None:
            if done < steps:  # an epoch is over when it was validated, too
                tell((epoch - 1) * patches + done * batch_size, fit.epochs * patches)

        yield from fit_epochs(
            state,
            streams.training,
            streams.validation,
            fit,
            device=self.session.device,
            on_batch=on_batch,
            processes=self.processes,
        )

    def _tell(self, history: History) -> None:
        """The last epoch's scores, and how many patches of all have been trained on."""
        fit, row = self.config.fit, history[-1]
        planned = row["epoch"] if has_finished(history, fit) else fit.epochs_planned
        patches, auc = int(row["training_patches"]), row["validation_auc"]
        told = "undefined" if auc is None else f"{auc:.3f}"
        self.session.progress(
            f"train {self.folder.name}",
            row["epoch"] * patches,
            planned * patches,
            f"epoch {row['epoch']} of {fit.epochs_planned}: loss {row['training_loss']:.3f}, AUC {told}",
        )

    def _finish(self, state: FitState, streams: Streams) -> None:
        """Predict the validation set with the weights of the best checkpoint, score and decide, and seal the folder."""
        material, config, folder = self.material, self.config, self.folder
        probabilities = TrainedNetwork(state.result, config, self.session.device).probabilities(
            streams.validation.prepared
        )
        split, labels, cluster_of = material.split(config), material.labels_by_id, material.clusters_by_id(config)
        known = np.array([labels[i] for i in split.validation.tolist()], dtype=np.int8)
        clusters = np.array([cluster_of[i] for i in split.validation.tolist()])
        predictions = Predictions(split.validation, known, probabilities)
        predictions.write(folder / "predictions.csv")
        write_record(folder / SCORES, Scores(**scores(known, probabilities)))
        write_record(folder / DECISION, decide(predictions, clusters, config.decision, seed=config.fit.seed))
        save_weights(folder / "model.safetensors", state.result)
        material.write_split(config, folder / "split.csv")  # what was trained on, whatever became of the file meanwhile
        unnormalised = streams.training.prepared.unnormalised + streams.validation.prepared.unnormalised
        scored = own_scores(predictions, clusters, material.cluster_kind, self.metrics, seed=config.fit.seed)
        record = record_of_run(material, config, state.network, state.result, unnormalised=unnormalised)
        replace(record, own_scores=scored).write(folder)
        write_manifest(folder)


@dataclass(frozen=True)
class Streams:
    """The batches of both sets, as one run sees them, and what a teacher predicts of the training set."""

    training: BatchStream
    validation: BatchStream
    notices: tuple[str, ...]
    by_teacher: TeacherPredictions | None


def open_streams(material: Material, config: RunConfig, by_teacher: TeacherPredictions | None = None) -> Streams:
    split = material.split(config)
    prepared = material.prepared(config, tuple(by_teacher.joined.ids.tolist()) if by_teacher else ())
    labels = material.labels_by_id
    of_sets = [np.array([labels[i] for i in ids.tolist()]) for ids in (split.training, split.validation)]
    targets = None
    if by_teacher:
        targets = by_teacher.targets(of_sets[0])
        of_sets[0] = np.append(of_sets[0], by_teacher.joined.labels)
    fit = config.fit
    # A head is fitted to all patches at once.
    batch_size, steps, validation_steps, fraction = (
        (len(of_sets[0]), None, None, None)
        if isinstance(fit, FitHead)
        else (fit.batch_size, fit.steps_per_epoch, fit.validation_steps, fit.epoch_fraction)
    )
    training = BatchStream(prepared[0], of_sets[0], targets, batch_size=batch_size, seed=fit.seed, shuffle=True)
    # Some of the validation set, another part each epoch, as the notebook has it; or all of it, quickly.
    partial = validation_steps is not None or fraction is not None
    validation = BatchStream(
        prepared[1],
        of_sets[1],
        batch_size=batch_size if partial else _VALIDATION_BATCH,
        seed=Purpose.VALIDATION_ORDER.seed(fit.seed),
        shuffle=partial,
    )
    notices = [
        f"{name} {asked} clipped to {possible}: one pass over the {len(stream):,} patches of the {which} set"
        for name, which, stream, asked in (
            ("fit.steps_per_epoch", "training", training, steps),
            ("fit.validation_steps", "validation", validation, validation_steps),
        )
        if asked is not None and (possible := steps_in_epoch(stream, asked)) < asked
    ]
    return Streams(training, validation, (*notices, *preprocessing_notices(*prepared)), by_teacher)


def _new_state(config: RunConfig, device: torch.device, own: Recipes, processes: Processes = ALONE) -> FitState:
    generator = torch.Generator().manual_seed(Purpose.INITIAL_WEIGHTS.seed(config.fit.seed))
    network = build(config.model, input_size_px=config.preprocess.size_px, generator=generator, own=own)
    if isinstance(network, Backbone):
        network.require_trainable(config.preprocess.size_px)
    return FitState.start(network.to(device), config.fit, processes)
