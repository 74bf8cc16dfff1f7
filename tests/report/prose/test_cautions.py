"""Cautions are said of the runs that they are true of, and of no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sentinode.report.prose.cautions import cautions, split_caution
from sentinode.runs.run import Run
from sentinode.splits.split import Basis
from sentinode.studies.study import FinishedStudy

Write = Callable[..., Path]


def runs_of(study: FinishedStudy) -> list[Run]:
    assert study.comparison is not None
    return [run for variant in study.comparison.variants for run in variant.runs]


def titles(folder: Path) -> list[str]:
    return [remark.title for remark in cautions(runs_of(FinishedStudy.open(folder)))]


def test_cautions_are_said_only_where_they_are_true(write_study: Write) -> None:
    seed_like = {
        "fit.keep": "last",
        "fit.metric": "accuracy",
        "fit.augment.zoom_across_centre": 0.2,
        "preprocess.resize": "nearest",
    }
    assert titles(write_study(seeds=(25,), settings=seed_like, trained_patches=20)) == [
        "Epochs are incomplete",
        "One seed only",
        "The labelled centre is downsampled",
        "Zoom can make labels wrong",
        "The last epoch is kept, not the best",
        "Accuracy decides",
    ]


def test_a_fair_study_has_few_cautions(write_study: Write) -> None:
    fair = {"preprocess.crop_px": 32, "preprocess.size_px": 32}
    assert titles(write_study(settings=fair)) == ["The epoch was selected on the validation set"]


def test_a_crop_below_the_centre_square_is_named(write_study: Write) -> None:
    small = {"preprocess.crop_px": 24, "preprocess.size_px": 24}
    assert "The labelled centre is cropped" in titles(write_study(settings=small))


def test_epochs_without_a_score_are_told(fixed_study: FinishedStudy) -> None:
    run = runs_of(fixed_study)[0]
    rows = run.history.assign(validation_auc=[0.5, float("nan"), 0.7])
    assert "Some epochs have no score" not in [remark.title for remark in cautions([run])]
    other = replace(run)
    vars(other)["history"] = rows
    (told, *_) = cautions([other])
    assert told.title == "Some epochs have no score"
    assert told.text.startswith("In 1 of 1 runs")


def test_half_epochs_are_told_in_numbers(fixed_study: FinishedStudy) -> None:
    run = runs_of(fixed_study)[0]
    (told, *_) = cautions([replace(run, record=replace(run.record, training=80, validation=45))])
    assert told.text.startswith(
        "An epoch trains on 40 of 80 patches and validates on 20 of 45. Each epoch is validated on different patches"
    )


@pytest.mark.parametrize(("basis", "warned"), [("slide", False), ("group", True), ("random", True), ("file", True)])
def test_a_split_that_may_leak_is_named(fixed_study: FinishedStudy, basis: Basis, warned: bool) -> None:
    run = runs_of(fixed_study)[0]
    assert (split_caution(replace(run.record, split_basis=basis)) is not None) == warned


def test_slides_that_are_known_are_not_called_unknown(fixed_study: FinishedStudy) -> None:
    record = replace(runs_of(fixed_study)[0].record, split_basis="group")
    known, unknown = split_caution(record), split_caution(replace(record, slides_known="none"))
    assert known is not None
    assert unknown is not None
    assert (known.title, unknown.title) == ("The split does not go by slide", "Slides are not known")
