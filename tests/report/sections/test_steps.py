"""The page of the preset `seed` shows the notebook's steps in its order, each where its link leads."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from report.altered import with_runs
from sentinode.report.pages.page import write_study_page
from sentinode.report.sections.steps import PRESET, steps
from sentinode.studies.study import FinishedStudy

pytestmark = pytest.mark.usefixtures("undrawn")

IN_ORDER = [
    "tables", "examples", "anomalies", "charts", "charts", "stages", "stages", "inputs", "network-1", "network-1",
    "runs", "plots-compared", "table-1", "plots-tuned", "table-2", "conclusion", "conclusion",
]  # fmt: skip


@pytest.fixture
def study(fixed_study: FinishedStudy) -> FinishedStudy:
    return replace(fixed_study, record=replace(fixed_study.record, preset=PRESET))


def test_there_are_17_steps_in_the_notebooks_order(study: FinishedStudy) -> None:
    found = steps(study)
    assert len(found) == 17
    assert [step.anchor for step in found] == IN_ORDER
    assert all(step.here.endswith(".") and step.notebook.endswith(".") for step in found)


def test_each_step_tells_what_the_records_say(study: FinishedStudy) -> None:
    told = [step.here for step in steps(study)]
    assert told[0] == "train_labels.csv: 60 rows."
    assert told[3] == "30 negative, 30 positive."
    assert told[8] == "1,025 parameters, 1,025 of them trainable."
    assert told[12].startswith("before 0.8000 ± 0.1000 in training, 0.8000 ± 0.1000 in validation; after 0.6500")
    assert told[16] == "submission.csv: 5 rows."


def test_what_was_not_asked_for_has_no_link(study: FinishedStudy) -> None:
    compared = replace(study, comparisons={"compare": study.comparisons["compare"]})
    missing = [step.title for step in steps(compared) if not step.anchor]
    assert missing == ["Tune the momentum: plots 5 and 6", "Table 2, and its verdict"]


def test_the_page_links_every_step_and_has_the_notebooks_column_for_its_own_data_alone(
    write_study: Callable[..., Path],
) -> None:
    folder = write_study(preset=PRESET)
    own = write_study_page(FinishedStudy.open(folder)).read_text(encoding="utf-8")
    links = re.findall(r'<tr><th scope="row">(\d+)\. <a href="#([\w-]+)">', own)
    assert [(int(number), anchor) for number, anchor in links] == list(enumerate(IN_ORDER, 1))
    assert all(own.count(f'id="{anchor}"') == 1 for anchor in IN_ORDER)
    assert '<th scope="col">in the notebook</th>' in own
    assert "Plot 5. Training accuracy by momentum" in own
    assert "Plot 6. Validation accuracy by momentum" in own


def test_other_data_have_steps_without_the_notebook(study: FinishedStudy) -> None:
    other = with_runs(study, lambda run: replace(run, record=replace(run.record, origin="PatchCamelyon")))
    assert "notebook" not in " ".join(f"{step.title} {step.here}" for step in steps(other)).replace(
        "architecture notebook", ""
    )
