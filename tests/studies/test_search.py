"""A search that is killed and gone on with tries what it would have tried; stand-ins for runs make it quick."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

from conftest import make_patches
from sentinode.config.presets import load_preset
from sentinode.config.run import RunConfig
from sentinode.config.study import StudyConfig
from sentinode.errors import RunError
from sentinode.runs.material import Material
from sentinode.settings import override
from sentinode.studies import tune as tune_module
from sentinode.studies.tune import _Journal, search, trial_count


@cache
def material() -> Material:
    """Of all searches, which ask it for one split: it is drawn once."""
    patches = make_patches()
    return Material(patches, patches.groups)


class Runs:
    """A store whose runs are over at once: their scores depend on their settings."""

    def __init__(self, *, killed_at: int | None = None) -> None:
        self.material = material()
        self.asked_for, self.killed_at = 0, killed_at

    def train(self, name: str, config: RunConfig, *, on_epoch: Callable[[dict[str, Any]], None] | None = None) -> Any:
        self.asked_for += 1
        if self.asked_for == self.killed_at:
            raise KilledError
        fit = config.fit
        auc = 1 - abs(np.log10(fit.learning_rate) + 3) / 10 - fit.batch_size / 1000 - fit.seed / 1e5
        for epoch in range(1, fit.epochs + 1) if on_epoch else ():
            on_epoch({"epoch": epoch, "validation_auc": auc * epoch / fit.epochs})
        return SimpleNamespace(name=name, scores={"auc": auc})


class KilledError(Exception):
    pass


RANGES = {"fit.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}, "fit.batch_size": {"low": 8, "high": 64}}
LISTS = {"fit.learning_rate": [1e-4, 1e-3, 1e-2], "fit.batch_size": [8, 16]}
SEARCHES = {
    "grid": {"tune.search": LISTS},
    "part of a grid": {"tune.search": LISTS, "tune.trials": 4},
    "random": {"tune.sampler": "random", "tune.search": RANGES, "tune.trials": 5},
    "tpe": {"tune.sampler": "tpe", "tune.search": RANGES, "tune.trials": 12},
    "pruned": {"tune.sampler": "random", "tune.search": RANGES, "tune.trials": 6, "tune.pruner": "median"},
    "halving": {"tune.sampler": "tpe", "tune.search": LISTS, "tune.trials": 6, "tune.pruner": "halving"},
}


@pytest.fixture(params=SEARCHES)
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StudyConfig:
    monkeypatch.setattr(tune_module, "paired", tuple)  # the stand-ins have no predictions to pair
    monkeypatch.setattr(os, "fsync", lambda _: None)
    settings = {"fit.epochs": 3, "seeds": [25, 26], **SEARCHES[request.param]}
    return override(load_preset("fair"), settings)


def journal_of(folder: Path) -> Path:
    return folder / "optuna.journal"


def trials(folder: Path) -> list[tuple[object, ...]]:
    """What every trial tried and what came of it, in the order of their numbers."""
    storage = optuna.storages.JournalStorage(_Journal(journal_of(folder)))
    told = optuna.load_study(study_name="tune", storage=storage).get_trials()
    return [(trial.number, trial.params, trial.state, trial.values, trial.intermediate_values) for trial in told]


def searched(config: StudyConfig, folder: Path, *, killed_at: int | None = None) -> list[tuple[str, float]]:
    found: Any = search(config, Runs(killed_at=killed_at), folder).comparison
    return [(variant.name, run.scores["auc"]) for variant in found for run in variant.runs]


def test_killed_in_any_run_it_ends_as_uninterrupted(config: StudyConfig, tmp_path: Path) -> None:
    whole = searched(config, tmp_path / "whole")
    assert len(trials(tmp_path / "whole")) == trial_count(config.search)
    runs = 0
    for killed_at in range(1, 2 * trial_count(config.search) + 1, 3):
        folder = tmp_path / f"at{killed_at}"
        try:
            searched(config, folder, killed_at=killed_at)
        except KilledError:
            runs += 1
        assert searched(config, folder) == whole
        assert trials(folder) == trials(tmp_path / "whole")
    assert runs >= trial_count(config.search) // 2


def test_killed_at_any_line_of_its_journal_or_within_one_it_ends_as_uninterrupted(
    config: StudyConfig, tmp_path: Path
) -> None:
    whole = searched(config, tmp_path / "whole")
    lines = journal_of(tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for count in [*range(4), *range(4, len(lines), len(lines) // 6)]:
        folder = tmp_path / f"line{count}"
        folder.mkdir()
        journal_of(folder).write_bytes(b"".join(lines[:count]) + lines[count][: count % len(lines[count])])
        # Optuna's lock of a process that was killed with it in its hands, as earlier versions left it.
        journal_of(folder).with_name("optuna.journal.lock").symlink_to(journal_of(folder))
        assert searched(config, folder) == whole
        assert trials(folder) == trials(tmp_path / "whole")


def test_a_finished_search_asks_for_no_new_trial(config: StudyConfig, tmp_path: Path) -> None:
    whole = searched(config, tmp_path)
    before = journal_of(tmp_path).read_bytes()
    assert searched(config, tmp_path) == whole
    assert journal_of(tmp_path).read_bytes().startswith(before)
    assert len(trials(tmp_path)) == trial_count(config.search)


def test_a_grid_tries_each_point_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tune_module, "paired", tuple)
    config = override(load_preset("fair"), {"tune.search": LISTS})
    searched(config, tmp_path)
    tried = {json.dumps(params) for _, params, *_ in trials(tmp_path)}
    assert len(tried) == trial_count(config.search) == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [b"\x00" * 40 + b"\n"],
        lambda lines: [*lines[:3], b"{}\n"],
        lambda lines: [*lines[:3], b'{"op_code": 99}\n'],
        lambda lines: [*lines[:3], b"[1, 2]\n"],
        lambda lines: [*lines[:3], b"\xff\xfe\n", *lines[3:]],
        lambda lines: [line.replace(b"fit.learning_rate", b"fit.other") for line in lines],
        lambda lines: [json.dumps(["a"]).encode() + b"\n", *lines],
    ],
)
def test_a_damaged_journal_is_one_line_with_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]]
) -> None:
    monkeypatch.setattr(tune_module, "paired", tuple)
    config = override(load_preset("fair"), {"tune.search": LISTS, "tune.trials": 2})
    searched(config, tmp_path)
    lines = journal_of(tmp_path).read_bytes().splitlines(keepends=True)
    journal_of(tmp_path).write_bytes(b"".join(damage(lines)))
    with pytest.raises(RunError, match=r"optuna\.journal: is not the journal of this search"):
        searched(config, tmp_path)
