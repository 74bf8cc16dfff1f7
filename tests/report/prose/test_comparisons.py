from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sentinode.report.prose import notebook
from sentinode.report.prose import verdicts as words
from sentinode.studies.study import FinishedStudy

Write = Callable[..., Path]


def test_the_notebooks_difference_stands_beside_ours(write_study: Write) -> None:
    study = FinishedStudy.open(write_study())
    assert study.comparison is not None
    told = notebook.difference(study.comparison)
    # The notebook: .8070 - .7460. Here: -.10, -.10, -.25: mean -.15, sqrt(.015 / 2) = .0866.
    assert told is not None
    assert "+0.0610" in told
    assert "-0.1500 ± 0.0866" in told


def test_how_far_variants_and_seeds_lie_apart_is_told_without_a_winner(write_study: Write) -> None:
    study = FinishedStudy.open(write_study())
    assert study.comparison is not None
    told = words.spread(study.comparison.variants, "auc")
    assert told.startswith("Variants differ by up to 0.000 in mean AUC; seeds of the same variant by up to 0.")
    assert told.endswith("Seeds matter as much as variants here.")


def test_one_run_has_no_spread_to_compare_with(write_study: Write) -> None:
    study = FinishedStudy.open(write_study(seeds=(25,)))
    assert study.comparison is not None
    assert "the spread between seeds is not known" in words.spread(study.comparison.variants, "auc")
    assert words.spread(study.comparison.variants[:1], "auc").startswith("One variant, one run: its AUC is 0.")


def test_figures_of_the_notebook_belong_to_exactly_its_variants(write_study: Write) -> None:
    study = FinishedStudy.open(write_study())
    assert study.comparison is not None
    assert study.tuning is not None
    found = [notebook.claim(variant) for variant in (*study.comparison.variants, *study.tuning.variants)]
    assert [each and (each.training_accuracy, each.validation_accuracy) for each in found] == [
        (0.8444, 0.7460),
        (0.8206, 0.8070),
        (0.8409, 0.7505),
    ]


def test_another_momentum_or_another_variant_has_no_figures(write_study: Write) -> None:
    study = FinishedStudy.open(write_study(settings={"model.bn_momentum": 0.6}))
    assert study.comparison is not None
    assert [notebook.claim(variant) for variant in study.comparison.variants] == [None, None]
