"""Trials side by side: what does not depend on others is what one after the other gives, and none is forgotten."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from conftest import make_patches
from engine.test_local import results_of
from in_turn import InTurn
from sentinode.config.presets import load_preset
from sentinode.config.study import StudyConfig
from sentinode.engine.engine import Watch
from sentinode.engine.task import EngineTask, TaskOutcome
from sentinode.errors import TasksError
from sentinode.runs.material import Material
from sentinode.session import Session
from sentinode.settings import override
from sentinode.studies.training import RunStore
from sentinode.studies.tune import _Draws, search
from studies.test_search import RANGES, trials


class Cut(InTurn):
    """Is killed after some outcomes."""

    def __init__(self, outcomes: int) -> None:
        super().__init__(3)
        self._outcomes = outcomes

    def run(self, tasks: Iterable[EngineTask | None], watch: Watch) -> Generator[TaskOutcome, None, None]:
        yield from islice(super().run(tasks, watch), self._outcomes)
        raise KeyboardInterrupt


@pytest.fixture
def config() -> StudyConfig:
    settings = {"fit.epochs": 2, "fit.batch_size": 16, "predict.views": 1, "seeds": [25, 26], "compare.replicates": 100}
    grid = {"model.bn_momentum": [0.99, 0.9, 0.5], "fit.learning_rate": [1e-3]}
    return override(load_preset("fair"), {**settings, "tune.search": grid})


def tried(config: StudyConfig, folder: Path, session: Session) -> RunStore:
    patches = make_patches()
    store = RunStore(Material(patches, patches.groups, session=session), folder / "runs")
    search(config, store, folder / "tune")
    return store


def found(folder: Path) -> list[tuple[object, ...]]:
    return trials(folder / "tune")


def test_a_grid_side_by_side_is_the_grid_in_turn_though_it_is_interrupted(
    config: StudyConfig, session: Session, tmp_path: Path
) -> None:
    tried(config, tmp_path / "in turn", session)
    engine = InTurn(3)
    tried(config, tmp_path / "together", replace(session, engine=engine))
    with pytest.raises(KeyboardInterrupt):
        tried(config, tmp_path / "cut", replace(session, engine=Cut(2)))
    assert TrialState.RUNNING in [trial[2] for trial in found(tmp_path / "cut")]
    tried(config, tmp_path / "cut", replace(session, engine=InTurn(2)))
    with pytest.raises(KeyboardInterrupt):
        tried(config, tmp_path / "cut, in turn", replace(session, engine=Cut(3)))
    tried(config, tmp_path / "cut, in turn", session)
    for name in ("together", "cut", "cut, in turn"):
        assert found(tmp_path / name) == found(tmp_path / "in turn")
        for run in (tmp_path / "in turn" / "runs").iterdir():
            assert results_of(tmp_path / name / "runs" / run.name) == results_of(run)
    seeds = [task.name.removesuffix("-seed25").removesuffix("-seed26") for task in engine.sent[:3]]
    assert seeds[0] == seeds[1] != seeds[2]  # both runs of the first trial, then the next trial's, all at once


def test_a_pruner_stops_trials_of_other_processes(config: StudyConfig, session: Session, tmp_path: Path) -> None:
    rates = {"fit.learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}}
    asked = override(config, {"tune.sampler": "random", "tune.search": rates, "tune.trials": 7, "seeds": [25]})
    asked = override(asked, {"tune.pruner": "median", "fit.epochs": 4, "fit.metric": "log_loss"})
    tried(asked, tmp_path / "in turn", session)
    pruned = [trial[2] for trial in found(tmp_path / "in turn")].count(TrialState.PRUNED)
    assert pruned
    tried(asked, tmp_path / "engine", replace(session, engine=InTurn()))
    assert found(tmp_path / "engine") == found(tmp_path / "in turn")
    tried(asked, tmp_path / "together", replace(session, engine=InTurn(3)))
    assert [trial[:2] for trial in found(tmp_path / "together")] == [trial[:2] for trial in found(tmp_path / "in turn")]
    assert {trial[2] for trial in found(tmp_path / "together")} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_trial_that_fails_stays_open_and_stops_no_other(
    config: StudyConfig, session: Session, tmp_path: Path
) -> None:
    full = tmp_path / "runs" / "bn_momentum-0.9-learning_rate-0.001-seed26"
    full.mkdir(parents=True)
    (full / "notes.txt").write_text("mine")
    with pytest.raises(TasksError, match=r"1 of 6 failed: bn_momentum-0.9\S* \(3 times\)"):
        tried(config, tmp_path, replace(session, engine=InTurn(2)))
    states = [trial[2] for trial in found(tmp_path)]
    assert sorted(states) == sorted([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING])
    (full / "notes.txt").unlink()
    tried(config, tmp_path, replace(session, engine=InTurn(2)))
    assert {trial[2] for trial in found(tmp_path)} == {TrialState.COMPLETE}


def test_what_is_drawn_depends_on_the_trials_that_are_pending() -> None:
    """As if they had been bad, so that several at a time do not all try the same place."""
    config = override(load_preset("fair"), {"tune.sampler": "tpe", "tune.search": RANGES}).search

    def drawn(pending: list[float]) -> float:
        study = optuna.create_study(sampler=_Draws(config), direction="maximize")
        space = {"fit.learning_rate": FloatDistribution(1e-5, 1e-1, log=True)}
        for number in range(12):
            rate = 1e-5 * 10 ** (number / 3)
            study.add_trial(
                create_trial(params={"fit.learning_rate": rate}, distributions=space, value=-abs(number - 6))
            )
        for rate in pending:
            state = TrialState.RUNNING
            study.add_trial(create_trial(state=state, params={"fit.learning_rate": rate}, distributions=space))
        for _ in range(3 - len(pending)):
            study.add_trial(create_trial(state=TrialState.FAIL, params={}, distributions={}))
        return study.ask().suggest_float("fit.learning_rate", 1e-5, 1e-1, log=True)

    alone = drawn([])
    beside: Any = drawn([alone] * 3)
    assert beside != alone
    assert beside == drawn([alone] * 3)
