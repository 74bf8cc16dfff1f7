"""Evidence in sentences: verdicts, the rule, the notebook's claims, what varied, the leak."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sentinode.config import NotebookModel
from sentinode.evaluation.verdict import Verdict
from sentinode.experiments.comparison import Source
from sentinode.experiments.evidence import Evidence, IndependentTests
from sentinode.report import verdict_words


def evidence_of(
    *,
    patches: int = 1000,
    clusters: int = 40,
    outcome: str = "better",
    a: str = "after",
    folds: int = 1,
    kind: str = "group",
    seeds: int = 10,
    varied: tuple[Source, ...] = ("initial weights", "order of batches", "augmentation"),
) -> Evidence:
    verdict = Verdict(
        a=a, b="before", metric="AUC", outcome=outcome, difference=0.012, low=0.004, high=0.021, p_better=0.97,
        p_value=0.01, p_holm=0.01, seeds=seeds, seeds_run=10, seeds_better=9, smallest_effect=0.005, seeds_needed=4,
        reason="slides with tumour: 2; at least 3 would be needed" if outcome == "too few slides" else None,
    )  # fmt: skip
    return Evidence(
        clusters=clusters, cluster_kind=kind, by_class=(), patches=patches, replicates=2000, seeds=seeds, seeds_run=10,
        varied=varied, folds=folds, intervals={}, verdicts=(verdict,), independent=(), curves={},
    )  # fmt: skip


def test_a_verdict_without_slides_says_what_stands_in_for_them() -> None:
    assert "Slides are not known" not in verdict_words.rule(evidence_of(kind="slide"))
    assert "0.79 and 0.94 times as wide as those from slides" in verdict_words.rule(evidence_of(kind="stain"))
    assert "too narrow" in verdict_words.rule(evidence_of(kind="group"))


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("better", "holds here"),
        ("worse", "does not hold here"),
        ("no evidence", "cannot be told"),
        ("too few seeds", None),
        ("too few slides", None),
        ("same network", None),
    ],
)
def test_the_notebooks_claim_holds_or_does_not_or_cannot_be_told(outcome: str, said: str | None) -> None:
    models = {"after": NotebookModel(norm="after"), "before": NotebookModel()}
    told = verdict_words.notebook_preference(evidence_of(patches=100, clusters=10, outcome=outcome), models)
    assert (told is None) if said is None else (told is not None and said in told)


def test_claims_that_the_notebook_did_not_make_are_not_judged() -> None:
    models = {"after": NotebookModel(bn_momentum=0.5), "before": NotebookModel()}
    assert verdict_words.notebook_preference(evidence_of(patches=100, clusters=10), models) is None


def test_several_verdicts_that_lack_seeds_are_told_in_one_sentence() -> None:
    one = evidence_of(patches=100, clusters=10, outcome="too few seeds")
    assert len(verdict_words.verdicts(one)) == 1
    (told,) = verdict_words.verdicts(replace(one, verdicts=one.verdicts * 3))
    assert told.count("no winner is named") == 1
    assert told.count("+0.012") == 3


def test_what_varies_from_seed_to_seed_is_told() -> None:
    one_split = verdict_words.varied(evidence_of())
    assert "From seed to seed initial weights, order of batches and augmentation vary together." in one_split
    assert "All seeds share one split" in one_split
    in_folds = verdict_words.varied(evidence_of(folds=3, varied=("split", "order of batches")))
    assert "From seed to seed split and order of batches vary together." in in_folds
    assert "its own split into 3 folds" in in_folds
    assert "share one split" not in in_folds
    pretrained = verdict_words.varied(evidence_of(varied=("order of batches",)))
    assert "From seed to seed order of batches varies." in pretrained
    assert "initial weights" not in pretrained
    assert "is not on record" in verdict_words.varied(evidence_of(varied=()))


def test_seeds_that_gave_one_network_are_told() -> None:
    told = verdict_words.varied(evidence_of(seeds=1, varied=()))
    assert "10 seeds gave one network of each variant, to the last bit, and are counted as 1" in told
    assert "--folds" in told
    assert "vary together" not in told
    assert "gave" not in verdict_words.varied(evidence_of())


def test_the_rule_names_what_was_drawn_and_what_it_does_not_cover() -> None:
    assert "draw slides and seeds anew; they do not cover another split" in verdict_words.rule(
        evidence_of(kind="slide")
    )
    with_folds = verdict_words.rule(evidence_of(kind="stain", folds=3))
    assert "clusters of stain (in place of slides)" in with_folds
    assert "another split" not in with_folds


def test_naive_tests_are_counted_by_run_pair_and_side() -> None:
    tests = IndependentTests("after", "before", delong=(0.01, -0.04, 0.2, -0.0), mcnemar=(0.5, 1.0, -1.0, 0.05))
    told = verdict_words.assumed_independent(tests)
    assert "4 pairs of runs" in told
    assert "DeLong (AUC): better in 1, worse in 2 (p ≤ 0.05)." in told
    assert "McNemar (calls at 0.5): better in 1, worse in 0 (p ≤ 0.05)." in told


@pytest.mark.parametrize(
    ("split", "outcome", "said"),
    [
        ("random", "better", "makes the same model look better by 0.012 AUC"),
        ("random", "no evidence", "no evidence that it differs"),
        ("random", "worse", "gives a lower score"),
        ("stain", "too small to matter", "a difference, but less than 0.005"),
        ("random", "too few seeds", "takes 3 seeds or more"),
        ("random", "too few slides", "Too few to tell: slides with tumour: 2; at least 3"),
        ("stain", "same predictions", "the same predictions as the trusted one"),
        ("stain", "better", "still flatters, by 0.012"),
    ],
)
def test_the_leak_is_told_for_every_outcome(split: str, outcome: str, said: str) -> None:
    (told,) = verdict_words.inflation(evidence_of(a=split, outcome=outcome))
    assert said in told
    assert ("95 % interval +0.004 to +0.021" in told) == (outcome != "same predictions")
