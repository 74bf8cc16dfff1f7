"""A study in a notebook: the numbers of its records, the figures and tables of its page."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from report.conftest import FakeStudy, write_fake
from sentinode import Study
from sentinode.errors import ConfigError
from sentinode.report.pages.page import write_study_page


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    found = Study.open(write_fake(tmp_path_factory.mktemp("fake") / "study", FakeStudy()))
    write_study_page(found)
    return found


def test_scores_are_numbers_of_the_record(study: Study) -> None:
    table = study.table()
    row = table[(table["question"] == "compare") & (table["metric"] == "auc")].iloc[0]
    variant = study.comparisons["compare"].variants[0]
    interval = study.evidence["compare"].intervals[variant.name]["auc"]
    assert row["variant"] == variant.name
    assert row["mean"] == interval.estimate
    np.testing.assert_equal((row["low"], row["high"]), (interval.low, interval.high))
    assert row["standard deviation"] == variant.standard_deviation("auc")
    assert set(table["question"]) == set(study.comparisons)


def test_verdicts_are_those_of_the_record(study: Study) -> None:
    table = study.table("verdicts")
    verdict = study.evidence["compare"].verdicts[0]
    first = table[table["question"] == "compare"].iloc[0]
    assert (first["a"], first["b"], first["outcome"]) == (verdict.a, verdict.b, verdict.outcome)
    assert len(table) == sum(len(found.verdicts) for found in study.evidence.values())


def test_figures_and_tables_are_those_of_the_report(study: Study, tmp_path: Path) -> None:
    page = (study.folder / "report.html").read_text(encoding="utf-8")
    assert "compare-forest" in study.figures
    assert page.count('<svg viewBox="') >= len(study.figures)
    drawing = study.figure("compare-forest")
    assert ElementTree.fromstring(drawing._repr_svg_()).tag == "{http://www.w3.org/2000/svg}svg"
    drawing.save(tmp_path / "forest.pdf")
    assert (tmp_path / "forest.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ConfigError, match=r"no \.svg, \.pdf or \.png"):
        drawing.save(tmp_path / "forest.gif")
    for name in study.tables:
        assert len(study.table(name))


def test_an_unknown_name_is_told_with_the_known(study: Study) -> None:
    with pytest.raises(ConfigError, match=r"unknown figure 'compare-forrest'.*Did you mean 'compare-forest'"):
        study.figure("compare-forrest")
    with pytest.raises(ConfigError, match="unknown table 'score'"):
        study.table("score")


def test_a_notebook_shows_question_and_answer_and_no_markup_of_names(study: Study) -> None:
    html = study._repr_html_()
    assert "<svg" in html
    assert "better than" in html
    assert study.record.note in html
    assert html.count("<h4>") == html.count("</h4>") == 2  # the comparison, and which variant predicts
    assert len(repr(study)) < 300
