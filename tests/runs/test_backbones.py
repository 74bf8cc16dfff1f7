"""Backbones in runs: frozen features, few labels, fine-tuning by stages; and the symmetric network."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sentinode
import sentinode.runs.features as features
import sentinode.runs.train as train
from conftest import make_patches
from rounding import Rounding
from sentinode.config.fit import FitHead
from sentinode.config.run import DrawnSplit, RunConfig
from sentinode.config.study import StudyConfig
from sentinode.errors import ConfigError, RunError
from sentinode.fitting.epochs import FitState
from sentinode.inputs.preprocess import Prepared
from sentinode.models.backbones.backbone import Backbone
from sentinode.models.build import build
from sentinode.models.summary import InitialWeights
from sentinode.randomness import Purpose
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override
from sentinode.splits.split import make_split

CPU = torch.device("cpu")
TINY = {
    "model.architecture": "timm",
    "model.backbone": "test_efficientnet",
    "model.pretrained": "none",
    "model.features.kind": "stages",
    "preprocess.size_px": 96,
}


@pytest.fixture
def head_config(run_config: RunConfig) -> RunConfig:
    """A head of two penalties on features in bfloat16."""
    settings = {"fit.train": "head", "fit.penalties": [0.1, 0.01], "predict.precision": "mixed"}
    return override(run_config, {**TINY, **settings})


def cached_material(folder: Path) -> Material:
    patches = make_patches()
    return Material(patches, patches.groups, session=Session(folder, CPU))


def test_a_head_on_frozen_features_is_a_run_like_any_other(head_config: RunConfig, tmp_path: Path) -> None:
    config = override(head_config, {"predict.views": 8})
    run = train_run(cached_material(tmp_path), config, tmp_path / "run")
    assert len(run.history) == 2
    assert run.scores["auc"] > 0.9
    again = Run.open(tmp_path / "run").network(CPU)
    assert isinstance(again, Backbone)
    generator = torch.Generator().manual_seed(0)
    assert again.scale.std() > 0
    untouched = build(head_config.model, input_size_px=96, generator=generator)
    assert again.state_dict().keys() == untouched.state_dict().keys()
    made = run.network_record
    assert made.initial == InitialWeights("drawn", "test_efficientnet")
    assert made.summary.trainable == sum(p.numel() for p in again.head.parameters())
    assert not made.augmentation.ran
    assert made.seeded == ("initial weights",)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each computation of features, how many patches it was of."""
    counts, real = [], features.features_of

    def counted(network: Backbone, prepared: Prepared, *given: Any, **options: Any) -> Any:
        counts.append(len(prepared))
        return real(network, prepared, *given, **options)

    monkeypatch.setattr(features, "features_of", counted)
    return counts


@pytest.mark.parametrize("copies", ["none", {"count": 2, "stain_jitter": 0.3}])
def test_features_are_computed_once_for_all_splits_and_numbers_of_labels(
    head_config: RunConfig, tmp_path: Path, looked_at: list[int], copies: Any
) -> None:
    material = cached_material(tmp_path)
    config = override(head_config, {"fit.copies": copies})
    count = 0 if copies == "none" else 2
    for number, settings in enumerate([{}, {"fit.penalties": [1.0]}, {"sample.training_per_class": 5}]):
        train_run(material, override(config, settings), tmp_path / f"run{number}")
    split, everything = material.split(config), len(material.patches)
    assert looked_at == [len(split.validation), *[len(split.training)] * max(1, count)]
    # Another split asks for what the first one did not need: the other side's plain features, or copies.
    train_run(material, override(config, {"split.seed": 3}), tmp_path / "run3")
    assert sum(looked_at) <= everything * (1 + count)
    known = len(looked_at)
    train_run(material, override(config, {"split.seed": 3, "fit.penalties": [1.0]}), tmp_path / "run4")
    assert len(looked_at) == known
    for number, settings in enumerate([{"model.resize_px": 64}, {"model.features.skipped_maps": 2}]):
        train_run(material, override(config, settings), tmp_path / f"other{number}")
        assert looked_at[-1] == len(split.training)
        assert len(looked_at) > known


def test_a_patchs_copy_does_not_depend_on_which_others_are_asked_for(head_config: RunConfig, tmp_path: Path) -> None:
    config = override(head_config, {"fit.copies.count": 2, "fit.copies.stain_jitter": 0.3})
    assert isinstance(config.fit, FitHead)
    varied = config.fit.copies
    network = build(config.model, input_size_px=96, generator=torch.Generator().manual_seed(1))
    assert isinstance(network, Backbone)
    patches = make_patches(4)

    def store(cache: str) -> features.FeatureStore:
        return features.FeatureStore(patches, config, varied, network, Session(tmp_path / cache, CPU))

    every = np.arange(len(patches))
    whole = store("other").features(every, 1)
    kept = store("kept")
    close = {"rtol": 0.02, "atol": 0.02}  # bfloat16, and other batches
    np.testing.assert_allclose(kept.features(every[5:9], 1), whole[5:9], **close)
    np.testing.assert_allclose(kept.features(every[::-1], 1), whole[::-1], **close)
    assert np.array_equal(store("kept").features(every, 1), kept.features(every, 1))
    others = [store("other").features(every), kept.features(every, 2)]
    assert min(np.abs(whole - other).max() for other in [*others, others[0][::-1]]) > 0.05
    copies = kept.copies(every[:3], patches.labels[:3])
    assert np.array_equal(copies.values, np.concatenate([kept.features(every[:3], number) for number in (1, 2)]))
    assert copies.labels.tolist() == [*patches.labels[:3]] * 2


def test_features_are_those_of_the_pixels_and_not_of_their_ids(
    head_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(head_config.model, input_size_px=96, generator=torch.Generator().manual_seed(1))
    assert isinstance(network, Backbone)
    first = make_patches(4)
    rows = np.arange(len(first))
    changed = replace(first, pixels=255 - first.pixels)
    found = [
        features.FeatureStore(patches, head_config, None, network, Session(tmp_path, CPU)).features(rows)
        for patches in (first, changed, first)
    ]
    assert not np.allclose(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    monkeypatch.setattr(features, "features_of", lambda *_, **__: pytest.fail("computed again"))
    relabelled = replace(first, labels=1 - first.labels)
    features.FeatureStore(relabelled, head_config, None, network, Session(tmp_path, CPU)).features(rows)


def test_few_labels_leave_the_validation_side_whole(material: Material) -> None:
    config = override(StudyConfig(), {"sample.training_per_class": 7, "split.seed": 2}).run_config()
    few, full = material.split(config), material.split(override(config, {"sample.training_per_class": None}))
    labels = np.array([material.labels_by_id[i] for i in few.training.tolist()])
    assert np.bincount(labels).tolist() == [7, 7]
    assert set(few.training) <= set(full.training)
    assert np.array_equal(few.validation, full.validation)
    assert few.left_out["sample: training labels not used"] == len(full.training) - 14
    table = material.candidates
    clipped = make_split(
        table, config.balance, override(config, {"sample.training_per_class": 900}).sample, DrawnSplit()
    )
    assert "sample.training_per_class 900 clipped" in clipped.notices[0]


def test_fine_tuning_moves_what_is_not_frozen(run_config: RunConfig, material: Material, tmp_path: Path) -> None:
    settings = {
        **TINY,
        "fit.train": "stages",
        "fit.frozen_stages": 2,
        "fit.layer_decay": 0.5,
        "fit.epochs": 1,
        "fit.schedule.kind": "cosine",
        "fit.schedule.warmup_epochs": 0.2,
        "fit.weight_decay": 0.01,
        "fit.average.kind": "ema",
        "fit.label_smoothing": 0.1,
        "fit.precision": "mixed",
        "model.resize_px": 48,
    }
    config = override(run_config, settings)
    run = train_run(material, config, tmp_path / "run")
    assert np.isfinite(run.scores["log_loss"])
    state, start = run.network(CPU).state_dict(), build(config.model, input_size_px=96, generator=_first(config))
    assert isinstance(start, Backbone)
    untouched, *_, head = start.stages()
    initial = start.state_dict()
    assert all(torch.equal(state[name], initial[name]) for name in untouched)
    assert not any(torch.equal(state[name], initial[name]) for name in head)


def test_a_network_that_ends_early_and_takes_other_steps_is_kept_as_it_was_trained(
    run_config: RunConfig, material: Material, tmp_path: Path
) -> None:
    settings = {**TINY, "model.features": {"kind": "stages", "cut_maps": 2}, "model.stem_stride": 3, "fit.epochs": 1}
    run = train_run(material, override(run_config, {**settings, "fit.train": "stages"}), tmp_path / "run")
    places = {name: place for place, name in enumerate(material.patches.ids)}
    pixels = material.patches.pixels[[places[name] for name in run.predictions.ids]]
    again = sentinode.load(tmp_path / "run", device="cpu")
    assert again(pixels) == pytest.approx(run.predictions.probabilities, abs=1e-6)


def test_a_head_fitted_first_is_where_training_starts(
    run_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where it resumes after a stop before the first epoch, without the head being fitted again."""
    material = cached_material(tmp_path)
    config = override(
        run_config,
        {
            **TINY,
            "fit.train": "stages",
            "fit.head_first.penalties": [0.1, 0.01],
            "fit.average.kind": "ema",
            "fit.epochs": 1,
            "fit.learning_rate": 1e-12,
            "fit.keep": "best",
        },
    )
    as_head = override(config, {"fit.train": "head", "fit.penalties": [0.1, 0.01]})
    alone = train_run(material, as_head, tmp_path / "head")

    def stop(*_given: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train, "fit_epochs", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(material, config, tmp_path / "run")
    monkeypatch.setattr(train, "fit_head", lambda *_, **__: pytest.fail("fitted again"))
    run = train_run(material, config, tmp_path / "run", resume=True)
    assert len(run.history) == 1
    fitted, started = (of.network(CPU).state_dict() for of in (alone, run))
    for name in ("head.weight", "head.bias", "centre", "scale"):
        torch.testing.assert_close(started[name], fitted[name])
    assert fitted["scale"].std() > 0


def _first(config: RunConfig) -> torch.Generator:
    """The generator of a run's first weights."""
    return torch.Generator().manual_seed(Purpose.INITIAL_WEIGHTS.seed(config.fit.seed))


def test_frozen_stages_stay_and_the_rest_learns_the_more_the_nearer_the_head() -> None:
    model = override(StudyConfig(), TINY).model
    network = build(model, input_size_px=96, generator=torch.Generator().manual_seed(1))
    assert isinstance(network, Backbone)
    fit = override(StudyConfig(), {**TINY, "fit.train": "stages", "fit.frozen_stages": 2, "fit.layer_decay": 0.5}).fit
    # A head at zero would pass no gradient on.
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(2))
    state = FitState.start(network.to(memory_format=torch.contiguous_format), fit)
    stages = network.stages()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    assert not any(module.training for module in network.body.bn1.modules())
    state.optimizer.zero_grad()
    network(torch.rand(4, 3, 96, 96)).sum().backward()
    state.optimizer.step()
    after = network.state_dict()
    moved = {name: (after[name] - before[name]).abs().max().item() for name in after if after[name].is_floating_point()}
    assert all(moved[name] == 0 for stage in stages[:2] for name in stage)
    assert all(moved[f"body.bn1.{statistic}"] == 0 for statistic in ("running_mean", "running_var"))
    # Adam's first step is the learning rate itself, wherever there is a gradient.
    used = [max(moved[name] for name in stage) for stage in stages[2:]]
    steps = [step for step in used if step > 0]
    assert steps == pytest.approx(
        [1e-3 * 0.5 ** (len(stages) - 1 - at) for at in range(2, len(stages)) if used[at - 2]], rel=1e-3
    )
    assert len(steps) >= 3


def test_more_frozen_stages_than_there_are_is_an_error() -> None:
    network = build(override(StudyConfig(), TINY).model, input_size_px=96, generator=torch.Generator())
    with pytest.raises(ConfigError, match=r"fit\.frozen_stages 99: the backbone has \d+ stages"):
        FitState.start(network, override(StudyConfig(), {**TINY, "fit.train": "stages", "fit.frozen_stages": 99}).fit)


def test_a_p4m_run_needs_one_view_only(run_config: RunConfig, material: Material, tmp_path: Path) -> None:
    settings = {"model.architecture": "p4m", "fit.epochs": 1, "model.bn_momentum": 0.5}
    run = train_run(material, override(run_config, settings), tmp_path / "run")
    network, pixels = run.network(CPU), torch.rand(8, 3, 32, 32)
    rounding = Rounding()
    with torch.no_grad():
        straight, truth = network(pixels), copy.deepcopy(network).double()(pixels.double())
        for turns in (1, 2, 3):
            rounding.add("logits", network(pixels.rot90(turns, (2, 3))), straight, truth)
    rounding.check()


def test_a_p4m_network_for_other_sizes_is_refused_before_a_folder_is_begun(
    run_config: RunConfig, material: Material, tmp_path: Path
) -> None:
    config = override(run_config, {"model.architecture": "p4m", "preprocess.size_px": 24})
    with pytest.raises(ConfigError, match=r"preprocess\.size_px: a p4m network takes inputs of 32, 48, 64, 96"):
        train_run(material, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_claims_a_larger_backbone_than_it_has_weights_of_is_refused(
    run_config: RunConfig, material: Material, tmp_path: Path
) -> None:
    run = train_run(material, override(run_config, {**TINY, "fit.epochs": 1}), tmp_path / "run")
    for maps in ({}, {"model.features": {"kind": "stages", "cut_maps": 2}}):
        larger = override(run.config, {"model.backbone": "vit_huge_patch14_224", **maps})
        with pytest.raises(RunError, match="holds fewer weights than 'vit_huge_patch14_224' has"):
            replace(run, config=larger).network(CPU)
