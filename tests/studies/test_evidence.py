"""Evidence: drawn from the runs' own predictions, by slide, and read back as written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sentinode.config.presets import load_preset
from sentinode.config.study import StudyConfig
from sentinode.records import plain, read_record, write_record
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.runs.variant import Variant
from sentinode.settings import override
from sentinode.studies.comparison import Comparison, paired
from sentinode.studies.evidence import Evidence, weigh
from sentinode.studies.training import RunStore, compare_variants


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    settings = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1, "seeds": [25, 26, 27]}
    return override(load_preset("fair"), {**settings, "compare.replicates": 300})


@pytest.fixture(scope="module")
def comparison(material: Material, config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("evidence") / "runs"
    return compare_variants(config, RunStore(material, folder))


def weighed(comparison: Comparison, config: StudyConfig, clusters: Mapping[str, str]) -> Evidence:
    return weigh(comparison, clusters, "slide", config.compare)


@pytest.fixture(scope="module")
def slides(material: Material, config: StudyConfig) -> dict[str, str]:
    return material.clusters_by_id(config)


def test_estimates_are_the_runs_own_means(comparison: Comparison, config: StudyConfig, slides: dict[str, str]) -> None:
    evidence = weighed(comparison, config, slides)
    for variant in comparison.variants:
        for metric in ("auc", "accuracy", "log_loss", "ece"):
            interval = evidence.intervals[variant.name][metric]
            assert interval.estimate == pytest.approx(variant.mean(metric), abs=1e-6)
    (verdict,) = evidence.verdicts
    before, after = comparison.variants
    assert verdict.difference == pytest.approx(after.mean("auc") - before.mean("auc"))
    assert verdict.seeds == 3


def test_clusters_are_the_slides_of_the_validation_side(
    comparison: Comparison, config: StudyConfig, slides: dict[str, str]
) -> None:
    ids = comparison.variants[0].runs[0].predictions.ids
    here = {slides[i] for i in ids.tolist()}
    assert weighed(comparison, config, slides).clusters == len(here)
    assert weighed(comparison, config, {}).clusters == len(ids)


def as_text(found: Evidence) -> str:
    return json.dumps(plain(found))  # in which NaN equals NaN


def test_it_is_the_same_every_time_and_reads_back(
    comparison: Comparison, config: StudyConfig, slides: dict[str, str], tmp_path: Path
) -> None:
    first, second = (weighed(comparison, config, slides) for _ in range(2))
    assert as_text(first) == as_text(second)
    write_record(tmp_path / "evidence.json", first)
    assert as_text(read_record(tmp_path / "evidence.json", Evidence)) == as_text(first)


def test_one_cluster_cannot_tell_how_clusters_differ(
    comparison: Comparison, config: StudyConfig, slides: dict[str, str], tmp_path: Path
) -> None:
    one = dict.fromkeys(slides, "the only slide")
    evidence = weighed(comparison, config, one)
    interval = evidence.intervals["before"]["auc"]
    assert np.isnan([interval.low, interval.high]).all()
    assert interval.reason is not None
    assert "slides with tumour: 1; at least 3 would be needed" in interval.reason
    assert np.isnan(evidence.curves["before"].roc.low).all()
    assert evidence.verdicts[0].outcome == "too few slides"
    write_record(tmp_path / "evidence.json", evidence)
    assert json.loads((tmp_path / "evidence.json").read_text())["intervals"]["before"]["auc"]["low"] is None
    assert as_text(read_record(tmp_path / "evidence.json", Evidence)) == as_text(evidence)


def of_seed(run: Run, seed: int) -> Run:
    """The same network, as another seed's run would have it that left nothing to chance."""
    return replace(run, config=override(run.config, {"fit.seed": seed}))


def test_seeds_that_gave_one_network_count_once(comparison: Comparison, config: StudyConfig) -> None:
    before, after = comparison.variants
    one = paired(
        [
            replace(variant, runs=tuple(of_seed(variant.runs[0], seed) for seed in (25, 26, 27)))
            for variant in (before, after)
        ]
    )
    assert (one.seeds, one.repeated_seeds, one.varied) == ((25,), (26, 27), ())
    assert one.variants[0].standard_deviation("auc") is None
    evidence = weighed(one, config, {})  # each patch is its own: enough of them for an interval
    assert (evidence.seeds, evidence.seeds_run) == (1, 3)
    (verdict,) = evidence.verdicts
    assert verdict.outcome == "too few seeds"
    assert "3 seeds gave one network" in verdict.in_words()


def test_a_seed_counts_where_any_variant_differs_under_it(comparison: Comparison) -> None:
    before, after = comparison.variants
    fixed = replace(before, runs=tuple(of_seed(before.runs[0], seed) for seed in (25, 26, 27)))
    found = paired([fixed, after])
    assert found.seeds == (25, 26, 27)
    assert found.variants[0].standard_deviation("auc") is None  # its own spread is that of one network
    assert len(found.variants[0].distinct_scores("auc")) == 1
    assert found.variants[1].standard_deviation("auc") == after.standard_deviation("auc")


def test_what_varies_is_told_from_the_runs(comparison: Comparison) -> None:
    assert comparison.varied == ("initial weights", "order of batches", "augmentation")
    assert comparison.repeated_seeds == ()


def test_variants_of_equal_weights_are_the_same_network(
    comparison: Comparison, config: StudyConfig, slides: dict[str, str], tmp_path: Path
) -> None:
    before, after = comparison.variants
    evidence = weighed(paired([before, Variant("twin", {}, before.runs), after]), config, slides)
    twin, other = evidence.verdicts
    assert twin.outcome == "same network"
    assert np.isnan([twin.p_value, twin.p_holm]).all()
    assert "twin and before are the same network" in twin.in_words()
    assert other.p_holm == pytest.approx(other.p_value, nan_ok=True)  # Holm counts one question
    write_record(tmp_path / "evidence.json", evidence)
    assert as_text(read_record(tmp_path / "evidence.json", Evidence)) == as_text(evidence)


def test_one_network_that_predicts_in_another_way_is_compared(comparison: Comparison) -> None:
    before = comparison.variants[0]

    def shifted(run: Run) -> Run:
        said = run.predictions
        return replace(run, elsewhere=replace(said, probabilities=said.probabilities / 2))

    other = replace(before, name="other", runs=tuple(shifted(run) for run in before.runs))
    assert other.same_as(before) is None
    assert before.same_as(before) == "network"
