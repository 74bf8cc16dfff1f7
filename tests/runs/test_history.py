"""The history of a run: epochs of which a score is undefined, because their validation patches have one class."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sentinode.artefacts import write_json
from sentinode.config.fit import FitAll, Metric
from sentinode.config.run import RunConfig
from sentinode.errors import SentinodeWarning
from sentinode.runs.history import best_epoch, undefined_epochs
from sentinode.runs.material import Material
from sentinode.runs.train import train_run
from sentinode.settings import override

CPU = torch.device("cpu")


def history(aucs: list[float | None], accuracies: list[float]) -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "validation_auc": auc, "validation_accuracy": accuracy}
        for epoch, (auc, accuracy) in enumerate(zip(aucs, accuracies, strict=True), 1)
    ]


@pytest.mark.parametrize(
    ("aucs", "accuracies", "best", "said"),
    [
        ([0.7, 0.9, 0.9], [0.5, 0.5, 0.9], 2, ""),
        ([None, 0.6, None], [0.9, 0.1, 0.9], 2, "undefined in 2 of 3 epochs.*chosen among the others"),
        ([0.6, None, float("nan")], [0.1, 0.9, 0.9], 1, "undefined in 2 of 3 epochs.*chosen among the others"),
        ([None, None, None], [0.5, 0.8, 0.8], 2, "undefined in 3 of 3 epochs.*accuracy chose the epoch"),
    ],
)
def test_the_best_epoch_is_chosen_among_the_defined(
    aucs: list[float | None], accuracies: list[float], best: int, said: str
) -> None:
    found = history(aucs, accuracies)
    assert best_epoch(found, FitAll()) == best
    assert re.fullmatch(f".*{said}.*" if said else "", undefined_epochs(found, FitAll()))


@pytest.mark.parametrize(
    ("metric", "best"), [("average_precision", 1), ("balanced_accuracy", 1), ("log_loss", 2), ("brier_score", 2)]
)
def test_the_best_epoch_by_other_scores_is_the_highest_or_of_losses_the_lowest(metric: Metric, best: int) -> None:
    rows: list[dict[str, Any]] = [{"epoch": epoch, f"validation_{metric}": x} for epoch, x in ((1, 0.9), (2, 0.1))]
    assert best_epoch(rows, FitAll(metric=metric)) == best


def test_a_run_keeps_the_epoch_that_its_own_metric_chooses(
    material: Material, run_config: RunConfig, tmp_path: Path
) -> None:
    run = train_run(material, override(run_config, {"fit.metric": "log_loss"}), tmp_path / "run")
    kept = run.history["validation_log_loss"]
    assert run.scores["log_loss"] == pytest.approx(kept.min(), abs=1e-5)  # weights folded, in another order of sums
    assert (kept - run.history["validation_loss"]).abs().max() < 1e-5


def of_few_patches(config: RunConfig) -> RunConfig:
    """Six epochs, each validated on another two patches, which in some have one class."""
    return override(config, {"fit.epochs": 6, "fit.batch_size": 2, "fit.steps_per_epoch": 4, "fit.validation_steps": 1})


def test_training_goes_on_where_an_epochs_auc_is_undefined(
    material: Material, run_config: RunConfig, tmp_path: Path
) -> None:
    with pytest.warns(SentinodeWarning, match="undefined in [1-5] of 6 epochs.*chosen among the others"):
        run = train_run(material, of_few_patches(run_config), tmp_path / "run")
    undefined = run.history["validation_auc"].isna()
    assert undefined.any()
    assert np.isfinite(run.scores["auc"]), "the whole validation side has both classes"
    cells = pd.read_csv(tmp_path / "run" / "history.csv", dtype=str, keep_default_na=False)["validation_auc"]
    assert (cells == "").tolist() == undefined.tolist()


@pytest.mark.filterwarnings("ignore::sentinode.errors.SentinodeWarning")
def test_an_interrupted_run_remembers_undefined_epochs(
    material: Material, run_config: RunConfig, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["validation_auc"] is None:
            raise StoppedError

    config = of_few_patches(run_config)
    with pytest.raises(StoppedError):
        train_run(material, config, tmp_path / "stopped", on_epoch=stop)
    resumed = train_run(material, config, tmp_path / "stopped", resume=True)
    whole = train_run(material, config, tmp_path / "whole")
    columns = ["epoch", "validation_auc", "validation_accuracy"]
    pd.testing.assert_frame_equal(resumed.history[columns], whole.history[columns])


@pytest.mark.parametrize("value", [float("nan"), np.float64("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_null_in_a_record(value: float, tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"a": [value, 1.5], "b": {"c": (value,)}})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": [None, 1.5], "b": {"c": [None]}}
