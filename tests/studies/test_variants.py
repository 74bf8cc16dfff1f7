"""Variants by name, preset, file or setting; what chooses patches stays the base's."""

from __future__ import annotations

from pathlib import Path

import pytest

from sentinode.config.presets import load_preset
from sentinode.errors import ConfigError
from sentinode.settings import is_folder_name, override, to_toml
from sentinode.studies.variants import differences, resolve_variants

BASE = load_preset("fair")


def test_the_bases_own_variants_keep_their_settings() -> None:
    assert resolve_variants(["before", "after"], BASE) == {
        "before": {"model.norm": "before"},
        "after": {"model.norm": "after"},
    }


def test_a_preset_counts_by_what_differs_and_never_by_its_split() -> None:
    variants = resolve_variants(["before", "seed"], BASE)
    assert variants["seed"]["fit.augment.zoom_across_centre"] == 0.2
    assert variants["seed"]["fit.keep"] == "last"
    assert not [key for key in variants["seed"] if key.split(".")[0] in ("data", "balance", "sample", "split")]
    run = override(BASE.run_config(), variants["seed"])
    expected = load_preset("seed").run_config()
    assert (run.preprocess, run.fit, run.model) == (expected.preprocess, expected.fit, expected.model)
    assert run.split == BASE.split


def test_a_setting_that_the_other_leaves_out_is_left_out() -> None:
    seed, fair = load_preset("seed").run_config(), BASE.run_config()
    back = differences(seed, fair)
    assert back["fit.epoch_fraction"] == "none"
    assert override(seed, back).fit == fair.fit


def test_any_preset_can_be_a_variant_a_blend_too() -> None:
    variants = resolve_variants(["before", "strong", "strong-gpu"], BASE)
    base = BASE.run_config()
    for name in ("strong", "strong-gpu"):
        run, expected = override(base, variants[name]), load_preset(name).run_config()
        assert (run.model, run.fit, run.ensemble) == (expected.model, expected.fit, expected.ensemble)
    strong = load_preset("strong")
    back = override(strong.run_config(), resolve_variants(["strong", "fair"], strong)["fair"])
    assert (back.model, back.fit, back.ensemble) == (base.model, base.fit, None)


def test_a_file_and_settings_make_variants_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(override(BASE, {"model.bn_momentum": 0.5})))
    variants = resolve_variants([str(path), "model.norm=after,fit.epochs=5"], BASE)
    assert variants == {
        "mine": {"model.bn_momentum": 0.5},
        "norm-after-epochs-5": {"model.norm": "after", "fit.epochs": 5},
    }
    named = resolve_variants(["fit.average.kind=ema", "fit.augment={symmetries='none', stain_jitter=0.1}"], BASE)
    assert next(iter(named)) == "average-ema"
    assert all(map(is_folder_name, named))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["before", "sideways"], "unknown variant 'sideways'"),
        (["before"], "one variant alone"),
        (["before", "before"], "two variants are called 'before'"),
        (["before", "model.nrom=after"], "Did you mean 'norm'"),
    ],
)
def test_what_is_no_variant_is_refused(names: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve_variants(names, BASE)
