"""Comparisons over folds: every patch scored once a seed by a network that did not see it, paired over variants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from tests.conftest import make_patches

from sentinode.config.presets import load_preset
from sentinode.config.run import RunConfig
from sentinode.config.study import StudyConfig
from sentinode.errors import ConfigError, RunError
from sentinode.runs.material import Material
from sentinode.runs.variant import Variant
from sentinode.settings import override
from sentinode.studies.comparison import Comparison, paired
from sentinode.studies.evidence import weigh
from sentinode.studies.training import RunStore, audit_leak, compare_variants, grid

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    settings = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1, "split.folds": 3, "seeds": [25, 26]}
    return override(load_preset("fair"), {**settings, "compare.replicates": 200})


@pytest.fixture(scope="module")
def comparison(material: Material, config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare_variants(config, RunStore(material, tmp_path_factory.mktemp("folds") / "runs"))


def test_the_grid_names_a_run_for_every_seed_and_fold(config: StudyConfig) -> None:
    places = grid(config)
    assert [name for name, _ in places] == [f"seed{seed}-fold{fold}" for seed in (25, 26) for fold in (1, 2, 3)]
    assert places[4][1] == {"fit.seed": 26, "split.seed": 26, "split.fold": 2}
    single = override(config, {"split.folds": "none"})
    assert grid(single) == [("seed25", {"fit.seed": 25}), ("seed26", {"fit.seed": 26})]


def test_every_patch_is_scored_once_a_seed_by_a_network_that_did_not_see_it(
    comparison: Comparison, material: Material
) -> None:
    assert comparison.folds == 3
    assert comparison.ids.tolist() == sorted(material.candidates.ids.tolist())
    for variant in comparison.variants:
        for repeat in variant.repeats:
            assert np.array_equal(repeat.predictions.ids, comparison.ids)
            for number, run in enumerate(repeat.runs):
                split = material.split(run.config)
                mine = set(comparison.ids[repeat.parts == number].tolist())
                assert mine == set(split.validation.tolist())
                assert not mine & set(split.training.tolist())
                known = dict(zip(run.predictions.ids.tolist(), run.predictions.probabilities.tolist(), strict=True))
                told = repeat.predictions.probabilities[repeat.parts == number]
                assert told.tolist() == [known[i] for i in comparison.ids[repeat.parts == number].tolist()]


def test_variants_share_each_seeds_split_and_seeds_draw_their_own(comparison: Comparison) -> None:
    before, after = comparison.variants
    for mine, theirs in zip(before.repeats, after.repeats, strict=True):
        assert np.array_equal(mine.parts, theirs.parts)
    assert not np.array_equal(before.repeats[0].parts, before.repeats[1].parts)


def test_a_seeds_score_is_the_mean_over_its_folds(comparison: Comparison) -> None:
    for repeat in comparison.variants[0].repeats:
        by_fold = [roc_auc_score(run.predictions.labels, run.predictions.probabilities) for run in repeat.runs]
        assert repeat.score("auc") == pytest.approx(np.mean(by_fold))


def test_evidence_ranks_within_folds(comparison: Comparison, material: Material, config: StudyConfig) -> None:
    clusters = material.clusters_by_id(config)
    evidence = weigh(comparison, clusters, "slide", config.compare)
    assert (evidence.folds, evidence.seeds, evidence.patches, evidence.clusters) == (3, 2, 96, 6)
    for variant in comparison.variants:
        assert evidence.intervals[variant.name]["auc"].estimate == pytest.approx(variant.mean("auc"), abs=1e-6)
        losses = [
            log_loss(run.predictions.labels, run.predictions.probabilities)
            for repeat in variant.repeats
            for run in repeat.runs
        ]
        assert evidence.intervals[variant.name]["log_loss"].estimate == pytest.approx(np.mean(losses), rel=1e-5)
    (tests,) = evidence.independent
    assert len(tests.delong) == len(tests.mcnemar) == 6


def test_the_same_patches_in_other_folds_do_not_pair(comparison: Comparison) -> None:
    before, after = comparison.variants
    shuffled = Variant("after", {}, (*after.runs[1:3], after.runs[0], *after.runs[3:]))
    with pytest.raises(RunError, match="has another validation set than"):
        paired([before, shuffled])
    assert paired([before, shuffled], same_split=False).folds == 3


def test_the_leak_audit_pairs_a_grouped_split_with_a_random_one(
    material: Material, config: StudyConfig, tmp_path: Path
) -> None:
    one_seed = override(config, {"seeds": [25], "split.folds": 2})
    leak = audit_leak(one_seed, RunStore(material, tmp_path / "runs"))
    assert [variant.name for variant in leak.variants] == ["grouped", "random"]
    slides = dict(zip(material.candidates.ids.tolist(), material.candidates.slides.tolist(), strict=True))
    grouped, scattered = (
        [{slides[i] for i in run.predictions.ids.tolist()} for run in variant.runs] for variant in leak.variants
    )
    assert not grouped[0] & grouped[1]
    assert all(len(of_fold) == 6 for of_fold in scattered)
    evidence = weigh(leak, material.clusters_by_id(one_seed), "slide", config.compare, same_split=False)
    assert evidence.independent == ()
    assert evidence.verdicts[0].a == "random"


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"split.folds": "none"}, "needs folds"), ({"split.by": "random"}, "not with split.by 'random'")],
)
def test_a_leak_audit_that_cannot_be_is_refused(
    material: Material, config: StudyConfig, tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        audit_leak(override(config, settings), RunStore(material, tmp_path / "runs"))


def test_stain_clusters_keep_shared_tissue_whole_and_stand_in_for_slides_that_are_not_known() -> None:
    patches = make_patches()
    groups = np.array([f"g{k // 2}" if k < 20 else "" for k in range(len(patches))])
    unknown = Material(replace(patches, slides=np.full(len(patches), "", dtype=str), groups=groups), groups)
    clusters = unknown.clusters_by_id(override(RunConfig(), {"data.stain_clusters": 12}))
    assert unknown.cluster_kind == "stain"
    assert set(clusters.values()) <= {f"stain{k}" for k in range(12)}
    for name in set(groups.tolist()) - {""}:
        assert len({clusters[i] for i in patches.ids[groups == name].tolist()}) == 1


def test_coarse_groups_are_taken_at_their_word() -> None:
    patches = make_patches()
    patients = np.array([f"patient{k % 7}" for k in range(len(patches))])
    unknown = Material(replace(patches, slides=np.full(len(patches), "", dtype=str)), patients)
    assert unknown.cluster_kind == "group"
    assert set(unknown.clusters_by_id(RunConfig()).values()) == set(patients.tolist())
