"""Settings: presets are what they say, TOML reads back equal, errors name the setting and suggest."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinode.config import PRESETS, StudyConfig, load_config, load_preset
from sentinode.errors import ConfigError
from sentinode.settings import override, parse_settings, parse_toml, to_toml


@pytest.mark.parametrize("name", PRESETS)
def test_presets_read_back_equal(name: str) -> None:
    config = load_preset(name)
    assert parse_toml(to_toml(config), StudyConfig, where="here") == config


def test_the_seed_preset_is_the_notebook() -> None:
    config = load_preset("seed")
    assert config.balance.drop_negative_fraction == 0.31
    assert config.sample.per_class == 25_000
    assert (config.split.by, config.split.validation_fraction) == ("random", 0.3)
    assert (config.preprocess.size_px, config.preprocess.resize, config.augment.zoom) == (32, "nearest", 0.2)
    assert (config.fit.epochs, config.fit.batch_size, config.fit.learning_rate) == (20, 32, 1e-3)
    assert (config.fit.steps_per_epoch, config.fit.validation_steps) == (546, 234)
    assert config.fit.keep == "last"
    assert config.tune.search == {"model.bn_momentum": [0.99, 0.75, 0.5, 0.25]}
    assert config.seeds == (25,)
    assert {config.balance.seed, config.sample.seed, config.split.seed} == {25}
    assert config.predict.views == 1


def test_the_fair_preset_is_fair() -> None:
    config = load_preset("fair")
    assert config.split.by == "auto"
    assert config.fit.steps_per_epoch is None
    assert (config.fit.keep, config.fit.metric) == ("best", "auc")
    assert config.augment.zoom == 0
    assert len(config.seeds) >= 3


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("fit.epoch=3", "unknown setting 'fit.epoch'.*Did you mean 'epochs'"),
        ("modle.norm=after", "Did you mean 'model'"),
        ("fit.epochs=abc", "fit.epochs.*valid integer.*'abc'"),
        ("fit.epochs=0", "fit.epochs"),
        ("model.norm=sideways", "'before' or 'after'.*'sideways'"),
        ("model.bn_momentum=1.5", "less than or equal to 1"),
        ("augment.zoom=0.2", "cross_centre"),
        ("preprocess.size_px=40", "multiple of size_px"),
        ("fit.seed.x=2", "a value, not a section"),
        ("seeds=[1,1]", "not all different"),
        ("split.by=file", "split.file"),
        ("tune.search={'model.bn_momentun'=[1]}", "Did you mean 'bn_momentum'"),
        ("tune.search={'fit.epochs'={low=5,high=2}}", "not below high"),
        ("tune.search={'fit.epochs'={low=1,high=2}}", "needs a list of values"),
        ("compare.variants={'../x'={}}", "may hold letters"),
        ("ensemble.members={'../x'={}, y={}}", "may hold letters"),
        ("ensemble.members={a={}}", "one member alone"),
        ("ensemble.members={a={}, b={'model.nrom'='after'}}", "Did you mean 'norm'"),
        ("ensemble.members={a={}, b={'fit.epochs'=0}}", "fit.epochs"),
        ("ensemble.members={a={}, b={'ensemble.weights'='equal'}}", "'b' is to be an ensemble itself"),
        ("ensemble.weights=best", "'fitted' or 'equal'"),
        ("nonsense", "no setting"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        override(load_preset("fair"), parse_settings([setting]), where="--set")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_members_are_the_runs_own_settings_with_theirs_put_over() -> None:
    base = override(load_preset("fair"), {"fit.epochs": 7})
    assert base.members() == {}
    config = override(base, {"ensemble.members": {"a": {"fit.seed": 1}, "b": {"data.leave_out": ["blank"]}}})
    assert parse_toml(to_toml(config), StudyConfig, where="here") == config
    alone = base.run_config()
    assert config.members() == {
        "a": override(alone, {"fit.seed": 1}),
        "b": override(alone, {"data.leave_out": ("blank",)}),
    }


def test_settings_are_toml_where_they_can_be() -> None:
    pairs = ["a.b=1", "c=0.5", "d=true", "e=after", "f=[1, 2]", "g=none", 'h="x y"']
    assert parse_settings(pairs) == {
        "a.b": 1, "c": 0.5, "d": True, "e": "after", "f": [1, 2], "g": "none", "h": "x y",
    }  # fmt: skip


def test_an_override_leaves_the_original() -> None:
    config = load_preset("seed")
    changed = override(config, {"fit.steps_per_epoch": None, "model.norm": "after"})
    assert (changed.fit.steps_per_epoch, changed.model.norm) == (None, "after")
    assert override(config, parse_settings(["fit.steps_per_epoch=none"])).fit.steps_per_epoch is None
    assert config.fit.steps_per_epoch == 546


def test_none_is_a_word_where_a_setting_knows_it_and_leaves_an_optional_one_out() -> None:
    config = override(load_preset("fair"), {"preprocess.stain": "macenko", "tune.pruner": "median", "split.folds": 3})
    back = override(config, parse_settings(["preprocess.stain=none", "tune.pruner=none", "split.folds=none"]))
    assert (back.preprocess.stain, back.tune.pruner, back.split.folds) == ("none", "none", None)
    with pytest.raises(ConfigError, match=r"fit\.epochs.*'none'"):
        override(config, {"fit.epochs": "none"})


def test_a_file_may_leave_everything_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[fit]\nepochs = 2\n")
    assert load_config(path).fit.epochs == 2
    path.write_text("[fit]\nepoch = 2\n")
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        load_config(path)
    path.write_text("[fit\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="quick, seed, fair"):
        load_preset("fast")


def test_the_strong_preset_blends_three_networks_that_differ() -> None:
    config = load_preset("strong").run_config()
    members = config.members()
    assert {name: (m.model.backbone, m.fit.train, m.fit.frozen_stages) for name, m in members.items()} == {
        "lite0": ("tf_efficientnet_lite0", "all", 4),
        "lite1": ("tf_efficientnet_lite1", "all", 4),
        "lite2": ("tf_efficientnet_lite2", "all", 4),
    }
    assert config.ensemble.weights == "equal"


def test_the_preset_for_gpus_asks_for_what_gpus_are_good_at() -> None:
    fit = load_preset("strong-gpu").fit
    assert (fit.precision, fit.compile, fit.schedule, fit.average) == ("mixed", True, "cosine", "ema")
