"""Comparisons are paired and name no winner; a search resumes and any setting can be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sentinode.config.presets import load_preset
from sentinode.config.study import StudyConfig
from sentinode.errors import ConfigError, RunError
from sentinode.runs.material import Material
from sentinode.runs.variant import Variant
from sentinode.settings import override
from sentinode.studies import training as training
from sentinode.studies.comparison import paired
from sentinode.studies.training import RunStore, compare_variants
from sentinode.studies.tune import search

CPU = torch.device("cpu")
QUICK = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1}


@pytest.fixture
def config() -> StudyConfig:
    return override(load_preset("fair"), {**QUICK, "seeds": [25, 26]})


def store(material: Material, folder: Path) -> RunStore:
    return RunStore(material, folder / "runs")


@pytest.fixture(scope="module")
def runs(material: Material, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """Runs that several tests ask for, each trained when it is first asked for."""
    return store(material, tmp_path_factory.mktemp("shared"))


def test_variants_are_run_on_the_same_seeds_and_patches(config: StudyConfig, runs: RunStore) -> None:
    comparison = compare_variants(config, runs)
    assert [variant.name for variant in comparison.variants] == ["before", "after"]
    assert comparison.seeds == (25, 26)
    ids = [run.predictions.ids.tolist() for variant in comparison.variants for run in variant.runs]
    assert all(other == ids[0] for other in ids)


def test_equal_settings_are_trained_once(config: StudyConfig, runs: RunStore, tmp_path: Path) -> None:
    comparison = compare_variants(config, runs)
    tuning = search(config, runs, tmp_path / "tune").comparison
    assert [variant.name for variant in tuning.variants] == [f"bn_momentum {m}" for m in (0.99, 0.75, 0.5, 0.25)]
    assert tuning.variants[0].runs[0].folder == comparison.variants[0].runs[0].folder
    assert len(list(runs.folder.iterdir())) == 2 * 2 + 3 * 2


def test_standard_deviation_is_the_samples_and_unknown_for_one(config: StudyConfig, runs: RunStore) -> None:
    (before, _) = compare_variants(config, runs).variants
    values = before.scores("auc")
    assert before.standard_deviation("auc") == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2))
    assert Variant("one", {}, before.runs[:1]).standard_deviation("auc") is None


def test_unpaired_runs_are_refused(material: Material, config: StudyConfig, runs: RunStore, tmp_path: Path) -> None:
    (before, after) = compare_variants(config, runs).variants
    with pytest.raises(RunError, match="other seeds"):
        paired([before, Variant("after", {}, after.runs[::-1])])
    other = override(config, {"split.validation_fraction": 0.5})
    (elsewhere, _) = compare_variants(other, RunStore(material, tmp_path / "other")).variants
    with pytest.raises(RunError, match="another validation set"):
        paired([before, elsewhere])


def test_an_interrupted_search_goes_on_where_it_stopped(
    material: Material, config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(config, {"seeds": [25]})
    whole = search(config, store(material, tmp_path / "whole"), tmp_path / "whole" / "tune").comparison

    class KilledError(Exception):
        pass

    trained: list[str] = []
    train = training.train_run

    def stop_at_the_fourth(*args: Any, **options: Any) -> object:
        if len(trained) == 3:
            raise KilledError
        trained.append(str(args[2]))
        return train(*args, **options)

    monkeypatch.setattr(training, "train_run", stop_at_the_fourth)
    with pytest.raises(KilledError):
        search(config, store(material, tmp_path / "broken"), tmp_path / "broken" / "tune")
    monkeypatch.setattr(training, "train_run", train)
    resumed = search(config, store(material, tmp_path / "broken"), tmp_path / "broken" / "tune").comparison
    assert [v.name for v in resumed.variants] == [v.name for v in whole.variants]
    for mine, theirs in zip(resumed.variants, whole.variants, strict=True):
        assert mine.scores("auc").tolist() == theirs.scores("auc").tolist()


def test_any_setting_can_be_searched_with_another_sampler(
    material: Material, config: StudyConfig, tmp_path: Path
) -> None:
    searching = override(
        config,
        {
            "seeds": [25],
            "tune.sampler": "tpe",
            "tune.trials": 4,
            "tune.search": {"fit.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "fit.batch_size": [8, 16]},
        },
    )
    tuning = search(searching, store(material, tmp_path), tmp_path / "tune")
    for variant in tuning.comparison.variants:
        run = variant.runs[0].config
        assert 1e-4 <= run.fit.learning_rate <= 1e-2
        assert run.fit.learning_rate == variant.settings["fit.learning_rate"]
        assert run.fit.batch_size in (8, 16)


def test_a_pruner_stops_poor_trials_and_they_are_counted(
    material: Material, config: StudyConfig, tmp_path: Path
) -> None:
    settings = {"seeds": [25], "fit.epochs": 4, "tune.pruner": "halving", "tune.sampler": "random", "tune.trials": 6}
    searching = override(
        config, {**settings, "tune.search": {"fit.learning_rate": [1e-3, 1e-9], "model.norm": ["before", "after"]}}
    )
    tuning = search(searching, store(material, tmp_path), tmp_path / "tune")
    assert tuning.pruned > 0
    assert len(tuning.comparison.variants) >= 1


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"a": {}, "b": {"split.validation_fraction": 0.5}}, "'b' would have another validation set than 'a'"),
        ({"a": {}, "b": {"sample.per_class": 10}}, "'b' would have another validation set than 'a'"),
        ({"a": {"split.by": "auto"}, "b": {"split.by": "slide"}}, "'a' and 'b' give the same settings and patches"),
        (
            {"a": {"sample.training_per_class": 5000}, "b": {"sample.training_per_class": 9000}},
            "'a' and 'b' give the same settings and patches",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(
    material: Material, config: StudyConfig, tmp_path: Path, variants: dict[str, dict[str, Any]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        compare_variants(override(config, {"compare.variants": variants}), store(material, tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_search_over_other_patches_is_refused_before_training(
    material: Material, config: StudyConfig, tmp_path: Path
) -> None:
    asked = override(config, {"tune.search": {"split.validation_fraction": [0.3, 0.5]}})
    with pytest.raises(ConfigError, match="would have another validation set"):
        search(asked, store(material, tmp_path), tmp_path / "tune")
    assert not (tmp_path / "runs").exists()


def test_any_kinds_of_model_and_a_blend_are_compared(material: Material, config: StudyConfig, tmp_path: Path) -> None:
    variants = {
        "plain": {},
        "p4m": {"model.architecture": "p4m", "predict.views": 1},
        "few": {"sample.training_per_class": 20},
        "blend": {"ensemble.members": {"a": {"model.norm": "after"}, "b": {"model.bn_momentum": 0.5}}},
    }
    found = compare_variants(override(config, {"compare.variants": variants, "seeds": [25]}), store(material, tmp_path))
    assert [variant.blends for variant in found.variants] == [False, False, False, True]
    assert len({tuple(variant.predictions.probabilities) for variant in found.variants}) == 4


def test_values_of_a_search_that_are_near_each_other_stay_two(
    material: Material, config: StudyConfig, tmp_path: Path
) -> None:
    rates = [0.001, 0.0010000001]
    asked = override(config, {"tune.search": {"fit.learning_rate": rates}, "seeds": [25], "tune.seed": 2**32 - 1})
    found = search(asked, store(material, tmp_path), tmp_path / "tune").comparison
    assert [variant.name for variant in found.variants] == [f"learning_rate {rate}" for rate in rates]
