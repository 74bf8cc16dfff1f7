"""Evidence: drawn from the runs' own predictions, by slide, and read back as written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sentinode.config import StudyConfig, load_preset, override
from sentinode.experiments.compare import Comparison, RunStore, compare
from sentinode.experiments.evidence import Evidence, weigh
from sentinode.experiments.material import Material


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    settings = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1, "seeds": [25, 26, 27]}
    return override(load_preset("fair"), {**settings, "compare.replicates": 300})


@pytest.fixture(scope="module")
def comparison(material: Material, config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("evidence") / "runs"
    return compare(config, RunStore(material, folder, device=torch.device("cpu")))


def test_estimates_are_the_runs_own_means(comparison: Comparison, material: Material, config: StudyConfig) -> None:
    evidence = weigh(comparison, material.clusters_by_id, config)
    for variant in comparison.variants:
        for metric in ("auc", "accuracy", "log_loss", "ece"):
            interval = evidence.intervals[variant.name][metric]
            assert interval.estimate == pytest.approx(variant.mean(metric), abs=1e-6)
    (verdict,) = evidence.verdicts
    assert verdict.difference == pytest.approx(np.mean(comparison.differences("auc")[0].by_seed))
    assert verdict.seeds == 3


def test_clusters_are_the_slides_of_the_validation_side(
    comparison: Comparison, material: Material, config: StudyConfig
) -> None:
    ids = comparison.variants[0].runs[0].predictions.ids
    slides = {material.clusters_by_id[i] for i in ids.tolist()}
    assert weigh(comparison, material.clusters_by_id, config).clusters == len(slides)
    assert weigh(comparison, {}, config).clusters == len(ids)


def test_it_is_the_same_every_time_and_reads_back(
    comparison: Comparison, material: Material, config: StudyConfig
) -> None:
    first, second = (weigh(comparison, material.clusters_by_id, config) for _ in range(2))
    assert first.to_json() == second.to_json()
    read = Evidence.from_json(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    assert read.to_json() == first.to_json()


def test_one_cluster_cannot_tell_how_clusters_differ(
    comparison: Comparison, material: Material, config: StudyConfig, tmp_path: Path
) -> None:
    one = dict.fromkeys(material.clusters_by_id, "the only slide")
    evidence = weigh(comparison, one, config)
    assert np.isnan(evidence.intervals["before"]["auc"].low)
    assert evidence.verdicts[0].outcome == "no evidence"
    assert Evidence.from_json(json.loads(json.dumps(evidence.to_json()))).to_json() == evidence.to_json()
