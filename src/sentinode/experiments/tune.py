"""Search over any settings of a run with Optuna; a trial is one run for each seed and fold."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sentinode.config import Range, RunConfig, Scalar, StudyConfig, TuneConfig
from sentinode.errors import RunError, storage_errors
from sentinode.experiments.compare import RunStore, grid
from sentinode.experiments.comparison import Comparison, Variant, paired
from sentinode.experiments.run import Run
from sentinode.settings import folder_name, override, short_name

_DEFAULT_TRIALS = 20


@dataclass(frozen=True, eq=False)
class Tuning:
    """Finished trials as variants, in the order of the search, and how many trials were pruned."""

    comparison: Comparison
    pruned: int


def tune(config: StudyConfig, store: RunStore, folder: Path) -> Tuning:
    """Run, or go on with, the search whose journal lies in `folder`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base, asked = config.trials_base(), config.search
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name="tune",
            storage=storage,
            sampler=_sampler(asked),
            pruner=_pruner(asked),
            direction="maximize",
            load_if_exists=True,
        )
    _requeue_unfinished_trials(study)
    total = trial_count(asked)
    finished = _count(study, TrialState.COMPLETE, TrialState.PRUNED)
    variants: dict[int, Variant] = {}

    def objective(trial: optuna.Trial) -> float:
        settings = {key: _suggest(trial, key, space) for key, space in asked.search.items()}
        runs: list[Run] = []
        for order, (place, of_place) in enumerate(grid(config)):
            report = _report_to(
                trial, base.fit.metric, first_step=order * base.fit.epochs_planned, runs_before=len(runs)
            )
            run_config = override(base, {**settings, **of_place})
            runs.append(store.train(_run_name(settings, place), run_config, on_epoch=report))
        value = float(np.mean([run.scores[base.fit.metric] for run in runs]))
        trial.set_user_attr("runs", [run.name for run in runs])
        variants[trial.number] = Variant(variant_name(settings), settings, tuple(runs))
        return value

    if finished < total:
        study.optimize(objective, n_trials=total - finished)
    return Tuning(paired(_in_order(study, variants, config, base, store)), _count(study, TrialState.PRUNED))


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
            tuple(
                store.train(_run_name(settings, place), override(base, {**settings, **of_place}))
                for place, of_place in grid(config)
            ),
        )
        variants.setdefault(variant.name, variant)
    if not variants:
        raise RunError("no trial of the search finished", remedy="Use tune.pruner = 'none' or more trials.")
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
    raise RunError(f"a search value {value!r} is no plain value", remedy="Use numbers, strings, true and false.")


def _sampler(config: TuneConfig) -> optuna.samplers.BaseSampler:
    match config.sampler:
        case "grid":
            grid = {key: space for key, space in config.search.items() if isinstance(space, list)}
            return optuna.samplers.GridSampler(grid, seed=config.seed)
        case "tpe":
            return optuna.samplers.TPESampler(seed=config.seed)
        case "random":
            return optuna.samplers.RandomSampler(seed=config.seed)


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
    size = int(np.prod([len(space) for space in config.search.values() if isinstance(space, list)]))
    return min(config.trials or size, size)


def _report_to(
    trial: optuna.Trial, metric: str, *, first_step: int, runs_before: int
) -> Callable[[dict[str, Any]], None]:
    """Tell Optuna each epoch's score; a pruner decides on the trial's first run only, so seeds stay paired."""

    def on_epoch(row: dict[str, Any]) -> None:
        score = row[f"validation_{metric}"]
        if score is not None:  # patches of one class have no AUC
            trial.report(score, first_step + int(row["epoch"]))
        if runs_before == 0 and trial.should_prune():
            raise optuna.TrialPruned

    return on_epoch


def _requeue_unfinished_trials(study: optuna.Study) -> None:
    """A trial that was interrupted, killed or failed is tried again with the same settings; its runs resume."""
    trials = study.get_trials(deepcopy=False)
    settled = [trial.params for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    settled += [trial.system_attrs["fixed_params"] for trial in trials if trial.state == TrialState.WAITING]
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.state in (TrialState.RUNNING, TrialState.FAIL) and trial.params and trial.params not in settled:
            study.enqueue_trial(trial.params)
            settled.append(trial.params)


def _count(study: optuna.Study, *states: TrialState) -> int:
    return len(study.get_trials(deepcopy=False, states=states))
