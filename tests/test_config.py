"""Settings: presets are what they say, TOML reads back equal, errors name the setting and suggest."""

from __future__ import annotations

import os
import runpy
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from sentinode.config.fit import AugmentConfig, EmaAverage, FitAll, FitHead, FitStages
from sentinode.config.presets import PRESETS, load_config, load_preset
from sentinode.config.run import BalanceConfig, DrawnSplit, P4mModel, RunConfig, SampleConfig, SeveralMaps, TimmModel
from sentinode.config.study import StudyConfig
from sentinode.errors import ConfigError
from sentinode.settings import override, parse_settings, parse_toml, to_toml


@pytest.mark.parametrize("name", PRESETS)
def test_presets_read_back_equal(name: str) -> None:
    config = load_preset(name)
    assert parse_toml(to_toml(config), StudyConfig, where="here") == config


def test_the_seed_preset_is_the_notebook() -> None:
    config = load_preset("seed")
    assert config.balance == BalanceConfig(drop_negative_fraction=0.31, seed=25)
    assert config.sample == SampleConfig(per_class=25_000, seed=25)
    assert config.split == DrawnSplit(by="random", validation_fraction=0.3, seed=25)
    assert (config.preprocess.size_px, config.preprocess.resize) == (32, "nearest")
    assert isinstance(config.fit, FitAll)
    assert config.fit.augment == AugmentConfig(symmetries="none", zoom_across_centre=0.2)
    assert (config.fit.epochs, config.fit.batch_size, config.fit.learning_rate) == (20, 32, 1e-3)
    assert config.fit.epoch_fraction == 0.5
    assert config.fit.keep == "last"
    assert config.search.search == {"model.bn_momentum": [0.99, 0.75, 0.5, 0.25]}
    assert config.seeds == (25,)
    assert config.predict.views == 1


def test_the_fair_preset_is_fair() -> None:
    config = load_preset("fair")
    assert config.split.by == "auto"
    assert isinstance(config.fit, FitAll)
    assert config.fit.epoch_fraction is config.fit.steps_per_epoch is None
    assert (config.fit.keep, config.fit.metric) == ("best", "auc")
    assert config.fit.augment.zoom_across_centre == 0
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
        ("preprocess.size_px=40", "multiple of size_px"),
        ("fit.seed.x=2", "a value, not a section"),
        ("seeds=[1,1]", "not all different"),
        ("split.by=file", "split.file"),
        ("tune.search={'fit.epochs'={low=5,high=2}}", "not below high"),
        ("tune.search={'fit.epochs'={low=1,high=2}}", "needs a list of values"),
        ("compare.variants={'../x'={}}", "may hold letters"),
        ("ensemble.members={'../x'={}, y={}}", "may hold letters"),
        ("ensemble.members={a={}}", "one member alone"),
        ("ensemble.members={a={}, b={'model.nrom'='after'}}", "Did you mean 'norm'"),
        ("ensemble.members={a={}, b={'fit.epochs'=0}}", "fit.epochs"),
        ("ensemble.members={a={}, b={'ensemble.weights'='equal'}}", "'b' is to be an ensemble itself"),
        ("ensemble={members={a={}, b={}}, weights='best'}", "'fitted' or 'equal'"),
        ("ensemble.weights=equal", "ensemble.members.* is missing"),
        ("nonsense", "is not a setting"),
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
    config = override(base, {"ensemble.members": {"a": {"fit.seed": 1}, "b": {"sample.per_class": 7}}})
    assert parse_toml(to_toml(config), StudyConfig, where="here") == config
    alone = base.run_config()
    assert config.members() == {
        "a": override(alone, {"fit.seed": 1}),
        "b": override(alone, {"sample.per_class": 7}),
    }


def test_settings_are_toml_where_they_can_be() -> None:
    pairs = ["a.b=1", "c=0.5", "d=true", "e=after", "f=[1, 2]", "g=none", 'h="x y"']
    assert parse_settings(pairs) == {
        "a.b": 1, "c": 0.5, "d": True, "e": "after", "f": [1, 2], "g": "none", "h": "x y",
    }  # fmt: skip


def test_an_override_leaves_the_original() -> None:
    config = load_preset("seed")
    changed = override(config, {"fit.epoch_fraction": None, "model.norm": "after"})
    assert (changed.fit.epoch_fraction, changed.model.norm) == (None, "after")
    assert override(config, parse_settings(["fit.epoch_fraction=none"])).fit.epoch_fraction is None
    assert config.fit.epoch_fraction == 0.5


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
    told = {}
    for name, member in members.items():
        assert isinstance(member.model, TimmModel)
        assert isinstance(member.fit, FitStages)
        told[name] = (member.model.backbone, member.fit.train, member.fit.frozen_stages)
    assert told == {
        "lite0": ("tf_efficientnet_lite0", "stages", 4),
        "lite1": ("tf_efficientnet_lite1", "stages", 4),
        "lite2": ("tf_efficientnet_lite2", "stages", 4),
    }
    assert config.ensemble is not None
    assert config.ensemble.weights == "equal"


def test_the_preset_for_gpus_asks_for_what_gpus_are_good_at() -> None:
    fit = load_preset("strong-gpu").fit
    assert isinstance(fit, FitStages)
    assert (fit.precision, fit.compile, fit.schedule.kind, fit.average.kind) == ("mixed", True, "cosine", "ema")


TIMM = {"model.architecture": "timm", "model.backbone": "test_efficientnet"}
HEAD = {**TIMM, "fit.train": "head"}
STAGES = {**TIMM, "fit.train": "stages"}


@pytest.mark.parametrize(
    ("base", "setting", "home"),
    [
        ({}, {"model.backbone": "resnet18"}, "model.architecture = 'timm', not 'notebook'"),
        ({}, {"model.features.kind": "stages"}, "model.architecture = 'timm', not 'notebook'"),
        (TIMM, {"model.norm": "after"}, "model.architecture = 'notebook', not 'timm'"),
        (TIMM, {"model.bn_momentum": 0.5}, "model.architecture = 'notebook' or 'p4m', not 'timm'"),
        (TIMM, {"model.features.skipped_maps": 3}, "model.features.kind = 'stages' or 'blocks', not 'last'"),
        ({}, {"fit.train": "head"}, "model.architecture = 'timm'"),
        ({}, {"fit.train": "stages"}, "model.architecture = 'timm'"),
        ({}, {"fit.frozen_stages": 1}, "fit.train = 'stages', not 'all'"),
        (TIMM, {"fit.layer_decay": 0.8}, "fit.train = 'stages', not 'all'"),
        (TIMM, {"fit.head_first": {}}, "fit.train = 'stages', not 'all'"),
        (TIMM, {"fit.head_first.penalties": [1.0]}, "fit.train = 'stages', not 'all'"),
        (TIMM, {"fit.copies.count": 2}, "fit.train = 'head', not 'all'"),
        (HEAD, {"fit.epochs": 3}, "fit.train = 'all' or 'stages', not 'head'"),
        (HEAD, {"fit.augment.stain_jitter": 0.3}, "fit.train = 'all' or 'stages', not 'head'"),
        (HEAD, {"fit.average.kind": "ema"}, "fit.train = 'all' or 'stages', not 'head'"),
        ({}, {"fit.schedule.warmup_epochs": 1}, "fit.schedule.kind = 'cosine', not 'constant'"),
        ({}, {"fit.average.decay": 0.5}, "fit.average.kind = 'ema', not 'none'"),
        ({"fit.average.kind": "swa"}, {"fit.average.decay": 0.5}, "fit.average.kind = 'ema', not 'swa'"),
        ({}, {"fit.average": {"kind": "ema", "start": 0.5}}, "fit.average.kind = 'swa', not 'ema'"),
        ({"fit.epoch_fraction": 0.5}, {"fit.steps_per_epoch": 3}, "an epoch without fit.epoch_fraction"),
        ({}, {"split.file": "x.csv"}, "split.by = 'file', not 'auto'"),
        ({}, {"split.fold": 1}, "split.folds"),
        ({"split.folds": 3}, {"split.validation_fraction": 0.1}, "a split without split.folds"),
        ({"split.by": "file", "split.file": "x.csv"}, {"split.folds": 3}, "split.by = 'auto' or .* not 'file'"),
    ],
)
def test_a_setting_that_does_nothing_here_is_refused_and_told_where_it_belongs(
    base: dict[str, Any], setting: dict[str, Any], home: str
) -> None:
    config = override(RunConfig(), base)
    with pytest.raises(ConfigError, match=rf"setting '{next(iter(setting))}.*' belongs to {home}"):
        override(config, setting)
    table = tomllib.loads(to_toml(config))
    for name, value in setting.items():
        *parents, last = name.split(".")
        at = table
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = value
    with pytest.raises(ConfigError, match=f"belongs to {home}"):
        parse_toml(tomli_w.dumps(table), RunConfig, where="here")


def test_another_kind_keeps_what_both_share_and_drops_the_rest() -> None:
    base = override(
        RunConfig(),
        {
            **STAGES,
            "model.features.kind": "stages",
            "model.features.skipped_maps": 2,
            "fit.frozen_stages": 2,
            "fit.epochs": 7,
            "fit.seed": 3,
            "fit.metric": "accuracy",
            "fit.average.kind": "ema",
            "fit.average.decay": 0.5,
        },
    )
    assert override(base, {"model.features.kind": "blocks"}).model == base.model.model_copy(
        update={"features": SeveralMaps(kind="blocks", skipped_maps=2)}
    )
    head = override(base, {"fit.train": "head"})
    assert head.fit == FitHead(seed=3, metric="accuracy")
    back = override(head, {"model.architecture": "p4m", "model.bn_momentum": 0.5})
    assert back.fit == FitAll(seed=3, metric="accuracy")
    assert back.model == P4mModel(bn_momentum=0.5)
    whole = override(base, {"model.architecture": "notebook"})
    assert whole.fit == FitAll(epochs=7, seed=3, metric="accuracy", average=EmaAverage(decay=0.5))
    counted = override(RunConfig(), {"fit.steps_per_epoch": 3, "fit.validation_steps": 2})
    assert override(counted, {"fit.epoch_fraction": 0.5}).fit == FitAll(epoch_fraction=0.5)
    folds = override(override(RunConfig(), {"split.validation_fraction": 0.1}), {"split.folds": 3})
    assert override(folds, {"split.folds": "none"}).split == DrawnSplit()


def test_a_share_and_folds_together_are_refused_in_one_call() -> None:
    with pytest.raises(ConfigError, match="validation_fraction' belongs to a split without"):
        override(RunConfig(), {"split.validation_fraction": 0.1, "split.folds": 3})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"running.memory_budget_mb": 1}, {"running.prediction_batch_size": 7}),
        ({"data.leave_out": ["blank", "duplicate"]}, {"data.leave_out": ["duplicate", "blank", "blank"]}),
        ({"fit.learning_rate": 1}, {"fit.learning_rate": 1.0}),
        ({"preprocess.size_px": 96, "preprocess.resize": "nearest"}, {"preprocess.size_px": 96}),
        ({"fit.keep": "last", "fit.metric": "accuracy"}, {"fit.keep": "last"}),
        ({"fit.epochs": 1, "fit.keep": "last"}, {"fit.epochs": 1, "fit.patience": 3}),
        ({"fit.patience": 19}, {"fit.patience": 200}),
        (TIMM, STAGES),
        ({**TIMM, "model.resize_px": 32}, TIMM),
        ({"model.architecture": "p4m", "predict.views": 1}, {"model.architecture": "p4m"}),
        (
            {"model.architecture": "p4m", "fit.augment.symmetries": "none"},
            {"model.architecture": "p4m", "fit.augment.symmetries": "flips"},
        ),
    ],
)
def test_settings_that_come_to_the_same_have_one_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    configs = [override(RunConfig(), settings) for settings in (one, other)]
    assert configs[0].digest() == configs[1].digest()
    assert configs[0].canonical() == configs[1].canonical()


@pytest.mark.parametrize(
    "settings",
    [
        {"fit.seed": 1}, {"fit.epochs": 2}, {"fit.patience": 18}, {"fit.keep": "last"}, {"fit.metric": "accuracy"},
        {"preprocess.resize": "nearest"}, {"predict.views": 1}, {"decision.sensitivity": 0.9},
        {"fit.augment.symmetries": "none"}, {"split.seed": 1}, {"split.folds": 3, "split.fold": 1}, TIMM, HEAD,
        {**STAGES, "fit.frozen_stages": 1}, {"data.leave_out": ["blank"]}, {"sample.per_class": 9},
    ],
)  # fmt: skip
def test_settings_that_matter_change_the_digest(settings: dict[str, Any]) -> None:
    assert override(RunConfig(), settings).digest() != RunConfig().digest()


def test_a_blend_is_its_members_however_they_are_put_together() -> None:
    def blend(shared: dict[str, Any], **members: dict[str, Any]) -> str:
        return override(RunConfig(), {**shared, "ensemble.members": members}).digest()

    first = blend({}, a={"model.norm": "after"}, b={"fit.epochs": 3})
    assert blend({"model.norm": "after"}, a={}, b={"fit.epochs": 3, "model.norm": "before"}) == first
    assert blend({}, a={"model.norm": "after"}, b={"fit.epochs": 4}) != first


def test_two_variants_of_the_same_settings_are_refused() -> None:
    same = {"compare.variants": {"x": {"fit.epochs": 20}, "y": {}}}
    with pytest.raises(ConfigError, match="the variants 'x' and 'y' have the same settings"):
        override(load_preset("fair"), same).variants()
    config = override(load_preset("fair"), {"tune.search": {"fit.learning_rate": [0.1, 1, 1.0]}})
    with pytest.raises(ConfigError, match=r"rate = 1 and fit.learning_rate = 1\.0 give the same settings"):
        config.trials()
    both = {"tune.search": {"fit.epochs": [1, 20], "fit.keep": ["best", "last"]}}
    assert len(override(load_preset("fair"), both).trials()) == 4


@pytest.mark.parametrize("section", ["compare.variants", "ensemble.members"])
@pytest.mark.parametrize("name", ["data.leave_out", "running.memory_budget_mb", "decision.sensitivity"])
def test_what_all_share_is_no_ones_own(section: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"'b' sets '{name}', which is the same for all"):
        override(StudyConfig(), {section: {"a": {}, "b": {name: 1}}})


@pytest.mark.parametrize("name", ["fit.seed", "split.seed", "split.fold"])
def test_what_numbers_the_repeats_is_no_variants_own(name: str) -> None:
    for settings in ({"compare.variants": {"a": {name: 1}}}, {"tune.search": {name: [1, 2]}}):
        with pytest.raises(ConfigError, match=f"sets '{name}', but every variant is repeated under the same"):
            override(StudyConfig(), settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"compare.variants": {"a": {"model.nrom": "after"}}}, r"compare\.variants\.a: .*Did you mean 'norm'"),
        ({"tune.search": {"model.bn_momentun": [1]}}, r"tune\.search: .*Did you mean 'bn_momentum'"),
        ({"tune.search": {"fit.epochs": [1, 0]}}, r"tune\.search: setting 'fit\.epochs'"),
        ({"tune": "none"}, "tune: the settings have no search"),
    ],
)
def test_a_question_is_checked_when_it_is_asked(settings: dict[str, Any], said: str) -> None:
    config = override(load_preset("fair"), settings)
    with pytest.raises(ConfigError, match=said):
        config.variants() if "compare.variants" in settings else config.trials()


def test_the_document_of_settings_is_the_settings() -> None:
    docs = Path(__file__).parents[1] / "docs"
    written = runpy.run_path(str(docs / "reference.py"))["reference"]()
    assert (docs / "settings.md").read_text(encoding="utf-8") == written, "python docs/reference.py > docs/settings.md"


def deep(opening: str, closing: str, depth: int, *, lines: bool = False) -> str:
    between = "\n" if lines else ""
    return f"seeds = {between.join([opening] * depth)}1{closing * depth}\n"


HOSTILE_TEXTS = {
    "a nest on one line": deep("[", "]", 900),
    "a nest over 5,000 lines": deep("[", "]", 5000, lines=True),
    "a nest on one long line": deep("[", "]", 50_000),
    "nested tables": "seeds = " + "{a=" * 2000 + "1" + "}" * 2000,
    "a key of 50,000 parts": ".".join("a" * 50_000) + " = 1",
    "a key of 4,000 parts": ".".join("a" * 4000) + " = 1",
    "4,000 keys of 40 parts": "".join(f"{'.'.join('b' * 40)}{k} = 1\n" for k in range(4000)),
    "a header of 4,000 parts": f"[{'.'.join('a' * 4000)}]",
    "an integer of 10,000 digits": f"seeds = [{'9' * 10_000}]",
    "an integer of 5,000 digits": f"[fit]\nepochs = {'9' * 5000}",
    "a hexadecimal of 9,000 digits": f"[fit]\nepochs = 0x{'f' * 9000}",
    "an integer of 65 bits": f"[fit]\nepochs = {2**64}",
    "a float of 9,000 digits": f"[fit]\nlearning_rate = {'9' * 9000}.0",
    "inf": "[fit]\nlearning_rate = inf",
    "-inf": "[decision]\ncost_of_miss = -inf",
    "nan": "[fit]\nlearning_rate = nan",
    "inf in a range": '[tune.search]\n"fit.learning_rate" = { low = 1.0, high = inf }',
    "inf in a variant": '[ensemble.members]\na = { "fit.learning_rate" = inf }\nb = {}',
    "a name of 9,000 letters": f"{'x' * 9000} = 1",
    "a text of 9,000 letters": f"[model]\narchitecture = '{'x' * 9000}'",
    "a name with a line break": '"a\\nb" = 1',
    "a name with an escape": '"\\u001b[2J" = 1',
    "100,000 unknown settings": "".join(f"k{k} = 1\n" for k in range(60_000)),
    "a million seeds": f"seeds = [{', '.join(map(str, range(1001)))}]",
    "1,000 variants": "[compare.variants]\n" + "".join(f"v{k} = {{}}\n" for k in range(1000)),
    "1,000 members": "[ensemble.members]\n" + "".join(f"v{k} = {{}}\n" for k in range(1000)),
    "a grid of 10^12 points": "[tune.search]\n"
    + "".join(
        f'"{name}" = [{", ".join(f"{k + 1}" for k in range(1000))}]\n'
        for name in ("fit.epochs", "fit.batch_size", "fit.patience", "fit.steps_per_epoch")
    ),
    "10^12 trials": '[tune]\nsampler = "tpe"\ntrials = 1_000_000_000_000\nsearch = { "fit.epochs" = [1] }',
    "10^12 replicates": "[compare]\nreplicates = 1_000_000_000_000",
    "10^12 epochs": "[fit]\nepochs = 1_000_000_000_000",
    "a seed of 2^32 for a sampler": f'[tune]\nseed = {2**32}\nsearch = {{ "fit.epochs" = [1] }}',
    "a seed of 2^63": f"seeds = [{2**63}]",
    "a batch of 10^12": "[fit]\nbatch_size = 1_000_000_000_000",
    "10^12 clusters": "[data]\nstain_clusters = 1_000_000_000_000",
    "10^12 copies": '[model]\narchitecture = "timm"\nbackbone = "resnet18"\n'
    '[fit]\ntrain = "head"\ncopies = { count = 1_000_000_000_000 }',
    "no TOML": "\x00\x01\x02",
    "a table in place of a value": "[fit.epochs]\na = 1",
    "a value in place of a section": "fit = 1",
    "a list in place of a section": "[[fit]]\nepochs = 1",
    "a date": "[fit]\nepochs = 1979-05-27",
    "a kind that is a table": "[fit]\ntrain = {}",
    "a kind that is a list": '[model]\narchitecture = ["timm"]',
    "names that differ in capitals": "[compare.variants]\na = {}\nA = {}",
    "a name that leads elsewhere": '[compare.variants]\n"../x" = {}',
}


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_a_hostile_settings_file_is_refused_in_one_short_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HOSTILE_TEXTS[name], encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert time.process_time() - began < 5
    told = str(caught.value).replace(str(path), "")
    assert len(told) < 600
    assert told.isprintable()


def test_a_name_that_is_no_unicode_is_refused_as_a_setting_for_it_could_not_be_kept() -> None:
    for name, value in (
        ("data.slides", Path(os.fsdecode(b"K\xf6ln.csv"))),
        ("data.slides", os.fsdecode(b"K\xf6ln.csv")),
    ):
        with pytest.raises(ConfigError, match=r"setting 'data\.slides': is not UTF-8"):
            override(load_preset("fair").run_config(), {name: value})
    kept = override(load_preset("fair").run_config(), {"data.slides": "Köln.csv"})
    assert parse_toml(to_toml(kept), RunConfig, where="here") == kept


def test_what_is_no_file_of_settings_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    for path, said in [
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path / "pipe.toml", "is not a regular file"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "large.toml", "holds 1,099,511,627,776 bytes; settings take 1,048,576 at most"),
        (tmp_path / "latin.toml", "cannot be read"),
        (tmp_path / "loop.toml", "cannot be read"),
        (tmp_path / "x\0.toml", "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=said):
            load_config(path)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("fit.epochs=1\nfit.batch_size=2", "line break"),
        ("fit.ep\x1bochs=1", "control character"),
        ("fit.learning_rate=inf", "finite"),
        ("fit.learning_rate=nan", "finite"),
        (f"fit.epochs={'9' * 5000}", "integer"),
        (f"fit.epochs={'[' * 5000}", "integer"),
        (f"{'a.' * 5000}b=1", "unknown setting"),
        ("fit..epochs=1", "unknown setting"),
        ("=1", "is not a setting"),
    ],
)
def test_a_hostile_setting_on_the_command_line_is_refused(pair: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        override(RunConfig(), parse_settings([pair]), where="--set")
    assert len(str(caught.value)) < 600


def test_no_part_of_a_value_is_dropped() -> None:
    assert parse_settings(["a=1 # one", "b=1,", "c=x#y", 'd="x#y"', "e=nan"])["a"] == "1 # one"
    assert parse_settings(["b=1,", "c=x#y", 'd="x#y"']) == {"b": "1,", "c": "x#y", "d": "x#y"}


def test_a_list_of_words_needs_no_quotes_which_a_shell_takes_away() -> None:
    found = override(RunConfig(), parse_settings(["data.leave_out=[blank, missing]"]), where="--set")
    assert found.data.leave_out == ("blank", "missing")
    assert parse_settings(["a=[tf_lite0.in1k]", "b=[1, true]", "c=[a b]", "d=[a], [b]", "e=[]"]) == {
        "a": ["tf_lite0.in1k"], "b": [1, True], "c": "[a b]", "d": "[a], [b]", "e": [],
    }  # fmt: skip
