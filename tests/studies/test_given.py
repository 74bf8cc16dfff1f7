"""Finished runs given as folders: grouped into variants by their settings, paired, or refused with the reason."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sentinode.api.experiments import compare_runs
from sentinode.config.presets import load_preset
from sentinode.config.study import StudyConfig
from sentinode.errors import DataError, RunError
from sentinode.evaluation import metrics
from sentinode.evaluation.clusters import ClusterKind
from sentinode.evaluation.metrics import OwnMetric
from sentinode.report.pages.page import write_report
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.settings import override
from sentinode.studies.comparison import Comparison
from sentinode.studies.evidence import weigh
from sentinode.studies.given import clusters_of, open_given, pair_given
from sentinode.studies.training import RunStore, compare_variants

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    settings = {"fit.epochs": 1, "fit.batch_size": 16, "predict.views": 1, "seeds": [25, 26, 27]}
    return override(load_preset("fair"), {**settings, "compare.replicates": 200})


@pytest.fixture(scope="module")
def trained(material: Material, config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare_variants(config, RunStore(material, tmp_path_factory.mktemp("given") / "runs"))


@pytest.fixture
def folders(trained: Comparison) -> list[Path]:
    return [run.folder for variant in trained.variants for run in variant.runs]


def test_runs_that_differ_in_their_seed_only_are_one_variant(folders: list[Path]) -> None:
    found = pair_given(open_given(folders[::-1]))
    assert [variant.name for variant in found.variants] == ["norm after", "norm before"]
    assert [dict(variant.settings) for variant in found.variants] == [{"model.norm": "after"}, {"model.norm": "before"}]
    assert found.seeds == (25, 26, 27)


def test_a_folder_of_runs_stands_for_all_of_them(folders: list[Path], tmp_path: Path) -> None:
    assert len(open_given([folders[0].parent])) == 6
    with pytest.raises(RunError, match="is not a run"):
        open_given([tmp_path])


def test_they_are_weighed_as_if_trained_for_it(
    trained: Comparison, folders: list[Path], material: Material, config: StudyConfig, tmp_path: Path
) -> None:
    _, evidence = compare_runs(folders, tmp_path / "out", config)
    asked = weigh(trained, material.clusters_by_id(config), "slide", config.compare)
    assert evidence.cluster_kind == "slide"
    assert evidence.verdicts[0].difference == pytest.approx(asked.verdicts[0].difference)
    assert evidence.verdicts[0].p_better == pytest.approx(asked.verdicts[0].p_better)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "A comparison of finished runs" in page
    assert "norm after" in page
    (tmp_path / "out" / "report.html").unlink()
    assert write_report(tmp_path / "out") == [tmp_path / "out" / "report.html"]
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == page


def test_a_comparison_is_drawn_again_with_its_runs_from_wherever_both_were_moved(
    folders: list[Path], config: StudyConfig, tmp_path: Path
) -> None:
    before, after = tmp_path / os.fsdecode(b"K\xf6ln"), tmp_path / "elsewhere"
    given = [shutil.copytree(folder, before / "runs" / folder.name) for folder in folders]
    compare_runs(given, before / "out", config)
    before.rename(after)
    (page,) = write_report(after / "out")
    assert "norm after" in page.read_text(encoding="utf-8")
    run = after / "runs" / folders[0].name
    retrained = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(retrained, indent=3))
    with pytest.raises(RunError, match="is not the run that was compared"):
        write_report(after / "out")
    shutil.rmtree(run)
    with pytest.raises(RunError, match=f"{folders[0].name}: holds no finished run any more"):
        write_report(after / "out")


def test_metrics_of_ones_own_are_compared_as_those_of_trained_variants_are(
    folders: list[Path], config: StudyConfig, tmp_path: Path
) -> None:
    mine = OwnMetric(metrics.auc, share=True)
    _, evidence = compare_runs(folders, tmp_path / "out", config, metrics={"my AUC": mine})
    (own,), (asked,) = evidence.own_verdicts, evidence.verdicts
    assert own.metric == "my AUC"
    assert own.difference == pytest.approx(asked.difference)


def test_a_table_of_slides_overrules_what_the_runs_knew(
    folders: list[Path], tmp_path: Path, trained: Comparison
) -> None:
    table = tmp_path / "slides.csv"
    pd.DataFrame({"id": trained.ids, "slide": np.arange(len(trained.ids)) % 2}).to_csv(table, index=False)
    clusters, kind = clusters_of(trained, table)
    assert (kind, len(set(clusters.values()))) == ("slide", 2)
    pd.DataFrame({"id": ["of", "another"], "slide": "a"}).to_csv(table, index=False)
    with pytest.raises(DataError, match="none with the slide of a validation patch"):
        clusters_of(trained, table)


@pytest.mark.parametrize(
    ("of_runs", "together"), [("slide", "slide"), ("stain", "slide+stain"), ("group", "slide+group")]
)
def test_a_table_of_some_slides_leaves_the_other_patches_to_what_the_runs_knew(
    trained: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_runs: ClusterKind, together: ClusterKind
) -> None:
    monkeypatch.setattr(Run, "cluster_kind", of_runs)
    before, _ = clusters_of(trained)
    table = tmp_path / "slides.csv"
    named = trained.ids[::2].tolist()
    empty = [i for i in trained.ids.tolist() if i not in named][:2]
    pd.DataFrame({"id": named + empty, "slide": ["a"] * len(named) + [""] * 2}).to_csv(table, index=False)
    clusters, kind = clusters_of(trained, table)
    assert kind == together
    assert {clusters[i] for i in named} == {"a"}
    rest = [i for i in trained.ids.tolist() if i not in named]
    assert [clusters[i] for i in rest] == [before[i] for i in rest]


def test_runs_that_do_not_pair_are_refused_with_the_reason(
    folders: list[Path], material: Material, config: StudyConfig, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="nothing to compare"):
        pair_given(open_given(folders[:3]))
    with pytest.raises(RunError, match="other seeds"):
        pair_given(open_given([*folders[:3], *folders[4:]]))
    twin = tmp_path / "twin"
    shutil.copytree(folders[0], twin)
    with pytest.raises(RunError, match="has the settings, the seed and the fold of"):
        pair_given(open_given([*folders, twin]))
    elsewhere = override(config, {"split.validation_fraction": 0.5, "seeds": [25]})
    other = compare_variants(elsewhere, RunStore(material, tmp_path / "other")).variants[1].runs[0]
    with pytest.raises(RunError, match="has another validation set than"):
        pair_given(open_given([folders[0], other.folder]))
    with pytest.raises(RunError, match="is not empty"):
        compare_runs(folders, twin)
