"""Evidence: drawn from the runs' own predictions, by slide, and read back as written."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from sentinode.config import StudyConfig, load_preset
from sentinode.experiments.compare import RunStore, compare
from sentinode.experiments.comparison import Comparison
from sentinode.experiments.evidence import Evidence, weigh
from sentinode.experiments.material import Material
from sentinode.settings import override


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    settings = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1, "seeds": [25, 26, 27]}
    return override(load_preset("fair"), {**settings, "compare.replicates": 300})


@pytest.fixture(scope="module")
def comparison(material: Material, config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("evidence") / "runs"
    return compare(config, RunStore(material, folder, device=torch.device("cpu")))


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
    assert verdict.difference == pytest.approx(np.mean(comparison.differences("auc")[0].by_seed))
    assert verdict.seeds == 3


def test_clusters_are_the_slides_of_the_validation_side(
    comparison: Comparison, config: StudyConfig, slides: dict[str, str]
) -> None:
    ids = comparison.variants[0].runs[0].predictions.ids
    here = {slides[i] for i in ids.tolist()}
    assert weighed(comparison, config, slides).clusters == len(here)
    assert weighed(comparison, config, {}).clusters == len(ids)


def test_it_is_the_same_every_time_and_reads_back(
    comparison: Comparison, config: StudyConfig, slides: dict[str, str]
) -> None:
    first, second = (weighed(comparison, config, slides) for _ in range(2))
    assert first.to_json() == second.to_json()
    read = Evidence.from_json(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    assert read.to_json() == first.to_json()


def test_one_cluster_cannot_tell_how_clusters_differ(
    comparison: Comparison, config: StudyConfig, slides: dict[str, str]
) -> None:
    one = dict.fromkeys(slides, "the only slide")
    evidence = weighed(comparison, config, one)
    assert np.isnan(evidence.intervals["before"]["auc"].low)
    assert evidence.verdicts[0].outcome == "no evidence"
    assert Evidence.from_json(json.loads(json.dumps(evidence.to_json()))).to_json() == evidence.to_json()
