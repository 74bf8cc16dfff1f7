"""What pages show of a decision: its numbers unchanged, and in words what they say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sentinode.config.run import DecisionConfig
from sentinode.evaluation.calibration import Reliability, Temperature
from sentinode.inference.predictions import Predictions
from sentinode.report.pages.page import write_run_page
from sentinode.report.sections.decision import decision_part, reliability_diagram
from sentinode.runs.decision import Decision, decide
from sentinode.runs.run import Run


@pytest.fixture(scope="module")
def decision() -> Decision:
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < 0.5).astype(np.int8)
    probabilities = np.clip(0.25 + 0.5 * labels + rng.normal(0, 0.2, 200), 0.01, 0.99)
    groups = np.array([f"s{i % 8}" for i in range(200)])
    return decide(Predictions(groups, labels, probabilities), groups, DecisionConfig(), seed=25)


def test_the_tables_hold_the_decisions_numbers(decision: Decision) -> None:
    part = decision_part("key", decision)
    assert [row[0] for row in part.agreements.rows] == ["raw", "temperature", "isotonic"]
    isotonic = decision.agreements["isotonic"]
    assert part.agreements.rows[2][1:] == [f"{x:.4f}" for x in (isotonic.ece, isotonic.brier_score, isotonic.log_loss)]
    assert part.points is not None
    point, rates = decision.points["cost"], decision.cross_fitted["cost"]
    shares = (point.sensitivity, point.specificity, rates.sensitivity, rates.specificity)
    assert part.points.rows[2] == ["cost", f"{point.threshold:.4f}", *(f"{x:.3f}" for x in shares), point.rule]
    assert len(part.diagrams) == 2
    assert not part.absent


@pytest.mark.parametrize(
    ("temperature", "said"),
    [(1.7, "above 1 the model is over-confident"), (0.6, "below 1 the model is under-confident"),
     (1.001, "the model is well calibrated"), (20.0, "no temperature calibrates")],
)  # fmt: skip
def test_a_temperature_is_told_in_words(decision: Decision, temperature: float, said: str) -> None:
    other = replace(decision, calibrations={"temperature": Temperature(temperature)})
    assert f"T = {temperature:.2f}" in (told := decision_part("key", other).temperature)
    assert said in told


def test_what_is_absent_is_told_with_its_reason(decision: Decision) -> None:
    bare = Decision(3, 1, {}, {}, {"raw": decision.agreements["raw"]}, {}, "one class only", "one slide only")
    part = decision_part("key", bare)
    assert part.points is None
    assert part.temperature == ""
    assert [chart.title for chart in part.diagrams] == ["Reliability of the raw probabilities"]
    assert "one class only" in part.absent[0]
    assert "one slide only" in part.absent[1]
    lone = decision_part("key", replace(decision, cross_fitted={}))
    assert lone.points is not None
    assert lone.points.rows[0][4:6] == ["–", "–"]


def test_empty_bins_are_left_out_and_lone_ones_have_no_bar() -> None:
    nan = np.nan
    found = Reliability(
        np.linspace(0, 1, 4), np.array([0.2, nan, 0.8]), np.array([0.1, nan, 0.9]), np.array([5, 0, 4]),
        np.array([0.0, nan, nan]), np.array([0.3, nan, nan]),
    )  # fmt: skip
    svg = reliability_diagram("name", {"raw": found})
    assert 'aria-label="Reliability diagram: observed share of tumour by probability: raw"' in svg
    assert "nan" not in svg
    assert svg == reliability_diagram("name", {"raw": found})
    assert not re.search(r"url\((?!#)", svg)


def test_a_runs_page_shows_what_it_carries(run_folder: Path) -> None:
    page = write_run_page(Run.open(run_folder)).read_text(encoding="utf-8")
    found = Run.open(run_folder).decision
    assert 'id="decision"' in page
    assert "Reliability after calibration" in page
    for name, point in found.points.items():
        assert f'<th scope="row">{name}</th><td class="n">{point.threshold:.4f}</td>' in page
