"""The pages of ensembles: members in place of curves, and nothing that only a network has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import blank_figures
from sentinode.api.study import study
from sentinode.config.presets import load_preset
from sentinode.config.run import Weighting
from sentinode.report.pages.page import write_report
from sentinode.report.prose.numbers import number
from sentinode.runs.ensemble import join_runs
from sentinode.runs.material import Material
from sentinode.runs.run import Run
from sentinode.runs.train import train_run
from sentinode.session import Session
from sentinode.settings import override

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(material: Material, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    root = tmp_path_factory.mktemp("runs")
    base = override(load_preset("fair").run_config(), {"fit.epochs": 1, "predict.views": 1, "fit.batch_size": 16})
    own = {"one": {}, "<b>two": {"model.norm": "after", "preprocess.size_px": 48}}
    return [train_run(material, override(base, each), root / name) for name, each in own.items()]


@pytest.mark.parametrize("weights", ["fitted", "equal"])
def test_a_page_shows_members_in_place_of_curves(runs: list[Run], tmp_path: Path, weights: Weighting) -> None:
    run = join_runs(runs, tmp_path / "run", weights, Session(device=CPU))
    (page,) = write_report(run.folder)
    text = page.read_text(encoding="utf-8")
    assert 'id="members"' in text
    assert 'id="curves"' not in text
    assert [member.name for member in run.members] == ["one", "_b_two"]
    for member, weight in zip(run.members, run.weights, strict=True):
        cells = [number(weight, 3), number(member.scores["auc"])]
        row = text[text.index(f'<th scope="row">{member.name}</th>') :].split("</tr>")[0]
        assert all(f">{cell}</td>" in row for cell in cells)
        assert f"{run.name}/{member.name}" in text  # among the runs, with its epochs
    assert "notebook, norm after, input px 48" in text
    assert ("Weights with the lowest log loss" in text) == (weights == "fitted")
    assert ("Equal weights" in text) == (weights == "equal")
    assert ("weights were fitted on the validation set" in text) == (weights == "fitted")
    assert "One ensemble only" in text
    assert text.count("<summary>Network of") == 2


def test_a_study_whose_runs_are_ensembles_is_reported(phantom_folder: Path, session: Session, tmp_path: Path) -> None:
    settings = {
        "fit.epochs": 1,
        "seeds": [25],
        "ensemble.members": {"a": {"model.norm": "before"}, "b": {"model.norm": "after"}},
        "compare.variants": {"fitted": {}, "equal": {"ensemble.weights": "equal"}},
        "compare.replicates": 100,
        "tune.search": {"model.bn_momentum": [0.75, 0.5]},
        "tune.base": {},
    }
    with blank_figures():
        found = study(phantom_folder, override(load_preset("quick"), settings), tmp_path / "out", session)
    assert found.tuning is not None
    assert {len(run.members) for variant in found.variants for run in variant.runs} == {2}
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "An ensemble of 2 convolutional networks with" in text
    assert "fitted-seed25/b" in text
    assert (tmp_path / "out" / "submission.csv").is_file()
