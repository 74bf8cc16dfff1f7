"""Search over any settings of a run with Optuna; a trial is one run for each seed and fold."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from sentinode.artefacts import claim
from sentinode.config.run import RunConfig, Scalar
from sentinode.config.study import Range, StudyConfig, TuneConfig
from sentinode.engine.engine import Watch, in_sight, require_done
from sentinode.engine.task import EngineTask
from sentinode.errors import RunError, storage_errors
from sentinode.evaluation.metrics import gain
from sentinode.progress import ALL_RUNS
from sentinode.randomness import Purpose
from sentinode.runs.run import Run
from sentinode.runs.tasks import RunTasks
from sentinode.runs.variant import Variant
from sentinode.settings import folder_name, override, short_name
from sentinode.studies.comparison import Comparison, paired
from sentinode.studies.training import PlannedRun, RunStore, grid, require_same_validation

_DEFAULT_TRIALS: Final = 20
_JOURNAL: Final = "optuna.journal"


@dataclass(frozen=True, eq=False)
class Tuning:
    """Finished trials as variants, in the order of the search, and how many trials were pruned."""

    comparison: Comparison
    pruned: int


def search(config: StudyConfig, store: RunStore, folder: Path) -> Tuning:
    """Run, or go on with, the search whose journal lies in `folder`: what it finds does not tell which of both it was.

    Raises RunError where another process searches there, or the journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base, asked = config.trials_base(), config.search
    require_same_validation(config, config.trials(), store.material)
    with claim(folder, begun=_JOURNAL):
        study = _open_journal(folder / _JOURNAL, asked, base.fit.metric)
        if store.material.session.engine is None:
            variants = _try_in_turn(study, config, base, store)
        else:
            variants = _Trials(study, config, base, store).tried_together()
        found = _in_order(study, variants, config, base, store)
    return Tuning(paired(found), _count(study, TrialState.PRUNED))


def _try_in_turn(study: optuna.Study, config: StudyConfig, base: RunConfig, store: RunStore) -> dict[int, Variant]:
    """One trial after the other; those of this call as variants, by their numbers."""
    asked = config.search
    variants: dict[int, Variant] = {}
    while _count(study, TrialState.COMPLETE, TrialState.PRUNED) < trial_count(asked):
        trial = _interrupted(study) or study.ask()
        settings = {key: _suggest(trial, key, space) for key, space in asked.search.items()}
        try:
            runs = _train_trial(trial, settings, config, base, store)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        variants[trial.number] = _tell(study, trial, settings, runs, base)
    return variants


def _tell(
    study: optuna.Study, trial: optuna.Trial, settings: dict[str, Scalar], runs: list[Run], base: RunConfig
) -> Variant:
    trial.set_user_attr("runs", [run.name for run in runs])
    study.tell(trial, _mean_score(runs, base.fit.metric))
    return Variant(variant_name(settings), settings, tuple(runs))


@dataclass(eq=False)
class _Open:
    """A trial that is under way: its runs, those of them that are there, and how many were begun and are being done."""

    trial: optuna.Trial
    settings: dict[str, Scalar]
    planned: list[PlannedRun]
    runs: dict[str, Run] = field(default_factory=dict)
    begun: int = 0
    doing: int = 0
    failed: bool = False


class _Trials:
    """Trials side by side, each run of them a task of the session's engine.

    This process alone writes the journal: it asks for a trial when there is room for one, hears of each epoch of a
    trial's first run, and says whether that is to go on.
    """

    def __init__(self, study: optuna.Study, config: StudyConfig, base: RunConfig, store: RunStore) -> None:
        self._study, self._config, self._base, self._store = study, config, base, store
        self._make = RunTasks(store.material, store.own)
        self._open: dict[int, _Open] = {}
        self._tasks: dict[str, tuple[_Open, PlannedRun]] = {}
        """What is being done, by the names of the runs: trials of the same settings wait for each other."""
        self._variants: dict[int, Variant] = {}

    def tried_together(self) -> dict[int, Variant]:
        """Those of this call as variants, by their numbers; raises TasksError where a run failed, after all others."""
        session, store = self._store.material.session, self._store
        assert session.engine is not None
        watch = Watch(
            ALL_RUNS, session.progress, session.notify, self._row, done=store.counted, total=store.planned or None
        )
        ended = []
        with closing(session.engine.run(self._next_tasks(), watch)) as outcomes:
            for outcome in map(in_sight, outcomes):
                ended.append(outcome)
                of, run = self._tasks.pop(outcome.task.name)
                of.doing -= 1
                if outcome.stopped:
                    self._study.tell(of.trial, state=TrialState.PRUNED)
                    del self._open[of.trial.number]
                elif outcome.failure is not None:
                    of.failed = True  # and stays open: it is gone on with when the command is given again
                else:
                    self._add(of, run)
        require_done(ended, where=self._store.folder)
        return self._variants

    def _next_tasks(self) -> Iterator[EngineTask | None]:
        """The next run of a trial that is open, else the first of a new one; None while all wait for a run's end."""
        while True:
            for of in [*self._open.values()]:
                if (run := self._next_run(of)) is not None:
                    of.doing += 1
                    self._tasks[run.name] = of, run
                    yield self._make.task(self._store.folder / run.name, run.config, watched=self._watched(of))
                    break
            else:
                settled = _count(self._study, TrialState.COMPLETE, TrialState.PRUNED)
                if settled + len(self._open) < trial_count(self._config.search):
                    self._begin()
                elif self._tasks:
                    yield None
                else:
                    return

    def _begin(self) -> None:
        """The next trial: one that was interrupted, or a new one."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        known = next((found for found in running if found.number not in self._open), None)
        trial = optuna.Trial(self._study, known._trial_id) if known else self._study.ask()
        settings = {key: _suggest(trial, key, space) for key, space in self._config.search.search.items()}
        self._open[trial.number] = _Open(trial, settings, _planned(settings, self._config, self._base))

    def _watched(self, of: _Open) -> bool:
        """Whether each epoch is heard of as it is trained: of the first run, where a pruner may stop it."""
        return self._config.search.pruner != "none" and not of.runs

    def _next_run(self, of: _Open) -> PlannedRun | None:
        """A run of a trial that can be begun now. What is there already is added to the trial on the way."""
        while of.begun < len(of.planned) and not of.failed and not (of.doing and self._watched(of)):
            run = of.planned[of.begun]
            if run.name in self._tasks:
                return None
            of.begun += 1
            if not self._store.has(run):
                return run
            try:
                self._add(of, run)
            except optuna.TrialPruned:
                self._study.tell(of.trial, state=TrialState.PRUNED)
                del self._open[of.trial.number]
                return None
        return None

    def _add(self, of: _Open, run: PlannedRun) -> None:
        """Open a finished run of a trial, tell the journal its epochs, and, with the last of its runs, its score."""
        of.runs[run.name] = self._store.train(run.name, run.config, on_epoch=self._report(of, run))
        if len(of.runs) == len(of.planned):
            runs = [of.runs[planned.name] for planned in of.planned]
            self._variants[of.trial.number] = _tell(self._study, of.trial, of.settings, runs, self._base)
            del self._open[of.trial.number]

    def _report(self, of: _Open, run: PlannedRun) -> Callable[[dict[str, Any]], None]:
        order, fit = of.planned.index(run), self._base.fit
        return _report_to(of.trial, fit.metric, first_step=order * fit.epochs_planned, runs_before=order)

    def _row(self, task: EngineTask, row: dict[str, Any]) -> bool:
        """Tell the journal an epoch of a trial's first run; whether the trial goes on."""
        try:
            self._report(*self._tasks[task.name])(row)
        except optuna.TrialPruned:
            return False
        return True


def runs_of_grid(config: StudyConfig) -> list[PlannedRun]:
    """The runs of a search that tries the points of a grid to the end; none for others: they learn from run to run."""
    asked, base = config.search, config.trials_base()
    if asked.sampler != "grid" or asked.pruner != "none":
        return []
    points = [dict(zip(asked.search, point, strict=True)) for point in _points(asked)[: trial_count(asked)]]
    return [run for point in points for run in _planned(point, config, base)]


def _planned(settings: dict[str, Scalar], config: StudyConfig, base: RunConfig) -> list[PlannedRun]:
    """A trial's runs, one for each seed and fold."""
    return [
        PlannedRun(variant_name(settings), _run_name(settings, place), override(base, {**settings, **of_place}))
        for place, of_place in grid(config)
    ]


def _points(config: TuneConfig) -> list[tuple[Scalar, ...]]:
    """A grid's points in an order of the seed's."""
    points = list(itertools.product(*(space for space in config.search.values() if isinstance(space, list))))
    return [points[at] for at in np.random.default_rng(config.seed).permutation(len(points))]


def _train_trial(
    trial: optuna.Trial, settings: dict[str, Scalar], config: StudyConfig, base: RunConfig, store: RunStore
) -> list[Run]:
    """One run for each seed and fold; raises TrialPruned where the first of them is not worth finishing."""
    runs: list[Run] = []
    for order, run in enumerate(_planned(settings, config, base)):
        report = _report_to(trial, base.fit.metric, first_step=order * base.fit.epochs_planned, runs_before=order)
        runs.append(store.train(run.name, run.config, on_epoch=report))
    return runs


def _mean_score(runs: list[Run], metric: str) -> float:
    value = float(np.mean([run.scores[metric] for run in runs]))
    if not math.isfinite(value):  # Optuna would ask for the trial again, without end
        raise RunError(
            f"validation patches of one class have no {metric}, so no trial can be chosen by it",
            where=runs[0].folder,
            remedy="Set another fit.metric, or a split with both classes in each set.",
        )
    return value


def variant_name(settings: dict[str, Scalar]) -> str:
    """Such as "bn_momentum 0.25": the name of each setting and its value, with all of its digits."""
    return ", ".join(f"{short_name(key)} {value}" for key, value in settings.items())


def _run_name(settings: dict[str, Scalar], place: str) -> str:
    return f"{folder_name(variant_name(settings).replace(', ', '-').replace(' ', '-'))}-{place}"


def _in_order(
    study: optuna.Study, ran: dict[int, Variant], config: StudyConfig, base: RunConfig, store: RunStore
) -> list[Variant]:
    """All completed trials as variants; those of an earlier session are opened through the store."""
    variants: dict[str, Variant] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        settings = {key: _plain(trial.params[key]) for key in config.search.search}
        variant = ran.get(trial.number) or Variant(
            variant_name(settings),
            settings,
            tuple(store.train(run.name, run.config) for run in _planned(settings, config, base)),
        )
        variants.setdefault(variant.name, variant)
    if not variants:
        raise RunError("no trial of the search was finished", remedy="Use tune.pruner = 'none' or more trials.")
    if config.search.sampler != "grid":
        return list(variants.values())

    def place_in_grid(variant: Variant) -> list[int]:
        spaces = [(key, space) for key, space in config.search.search.items() if isinstance(space, list)]
        return [space.index(_plain(variant.settings[key])) for key, space in spaces]

    return sorted(variants.values(), key=place_in_grid)


def _suggest(trial: optuna.Trial, key: str, space: list[Scalar] | Range) -> Scalar:
    match space:
        case Range(low=int(low), high=int(high), log=log):
            return trial.suggest_int(key, low, high, log=log)
        case Range(low=low, high=high, log=log):
            return trial.suggest_float(key, float(low), float(high), log=log)
        case values:
            return _plain(trial.suggest_categorical(key, values))


def _plain(value: Any) -> Scalar:
    if isinstance(value, bool | int | float | str):
        return value
    raise RunError(f"a search value {value!r} is not a plain value", remedy="Use numbers, strings, true and false.")


class _Draws(optuna.samplers.BaseSampler):
    """Draws that depend on the seed, the trial's number, the setting's place and the trials that are finished.

    On nothing else: a search that was interrupted goes on as it would have, and tries nothing twice.
    """

    def __init__(self, config: TuneConfig) -> None:
        self._config, self._names = config, list(config.search)

    def infer_relative_search_space(self, _study: optuna.Study, _trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}  # every setting is drawn by itself

    def sample_relative(
        self, _study: optuna.Study, _trial: FrozenTrial, _space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        seed = Purpose.TRIAL.seed(self._config.seed, trial.number, self._names.index(param_name)) % 2**32
        inner: optuna.samplers.BaseSampler
        match self._config.sampler:
            case "grid":
                return self._first_free_point(study, trial.number)[param_name]
            case "tpe":
                # Trials that are under way count as bad ones, so that those beside them look elsewhere.
                inner = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            case "random":
                inner = optuna.samplers.RandomSampler(seed=seed)
        return inner.sample_independent(study, trial, param_name, param_distribution)

    def _first_free_point(self, study: optuna.Study, number: int) -> dict[str, Scalar]:
        """The journal tells which points are tried, or being tried by another trial."""
        taken = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING))
        others = [other for other in taken if other.number != number and set(self._names) <= set(other.params)]
        done = {repr([other.params[name] for name in self._names]) for other in others}
        point = next(point for point in _points(self._config) if repr(list(point)) not in done)
        return dict(zip(self._names, point, strict=True))


def _pruner(config: TuneConfig) -> optuna.pruners.BasePruner:
    match config.pruner:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2)
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner()


def trial_count(config: TuneConfig) -> int:
    """How many trials a search has: those asked for, of a grid its points at most."""
    if config.sampler != "grid":
        return config.trials or _DEFAULT_TRIALS
    size = math.prod(len(space) for space in config.search.values() if isinstance(space, list))
    return min(config.trials or size, size)


def _report_to(
    trial: optuna.Trial, metric: str, *, first_step: int, runs_before: int
) -> Callable[[dict[str, Any]], None]:
    """Tell Optuna each epoch's score; a pruner decides on the trial's first run only, so seeds stay paired."""
    told = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)  # before an interruption

    def on_epoch(row: dict[str, Any]) -> None:
        step = first_step + int(row["epoch"])
        if step not in told:
            trial.report(row[f"validation_{metric}"], step)
        if runs_before == 0 and trial.should_prune():
            raise optuna.TrialPruned

    return on_epoch


class _Journal(BaseJournalBackend):
    """Optuna's journal in a claimed folder, a line for each change; a line that a killed process left half is cut off.

    Optuna's own is guarded by a lock that outlives its process: a search whose process was killed would wait for it.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, list[bytes]()
        if path.is_file():
            *self._lines, half = path.read_bytes().split(b"\n")
            if half:
                os.truncate(path, path.stat().st_size - len(half))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")).encode() for log in logs]
        with storage_errors(self._path), self._path.open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        self._lines += lines


def _open_journal(path: Path, config: TuneConfig, metric: str) -> optuna.Study:
    """The search in a claimed folder, begun here or before; raises RunError where its journal is damaged."""
    try:
        study = optuna.create_study(
            study_name="tune",
            storage=JournalStorage(_Journal(path)),
            sampler=_Draws(config),
            pruner=_pruner(config),
            direction="maximize" if gain(metric) > 0 else "minimize",
            load_if_exists=True,
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            if set(trial.params) != set(config.search):
                raise ValueError(f"trial {trial.number} has other settings")
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError) as error:
        raise RunError(
            f"is not the journal of this search ({type(error).__name__}: {error})",
            where=path,
            remedy="Remove it to start the search again; finished runs are kept.",
        ) from error
    return study


def _interrupted(study: optuna.Study) -> optuna.Trial | None:
    """The trial that was running when the search was interrupted, to go on with under its own number."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return optuna.Trial(study, running[0]._trial_id) if running else None


def _count(study: optuna.Study, *states: TrialState) -> int:
    return len(study.get_trials(deepcopy=False, states=states))
