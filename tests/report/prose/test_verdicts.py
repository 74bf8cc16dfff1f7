"""Evidence in sentences: verdicts, the rule, the notebook's claims, what varied, the leak."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sentinode.config.run import NotebookModel
from sentinode.evaluation.verdict import Verdict
from sentinode.report.prose import verdicts as verdict_words
from sentinode.studies.comparison import Source
from sentinode.studies.evidence import Evidence, IndependentTests

REASONS = {
    "too few slides": "slides with tumour: 2; at least 3 would be needed",
    "no spread": "equal in every replicate, which says nothing of other slides",
}


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
        reason=REASONS.get(outcome),
    )  # fmt: skip
    return Evidence(
        clusters=clusters, cluster_kind=kind, by_class=(), patches=patches, replicates=2000, seeds=seeds, seeds_run=10,
        varied=varied, folds=folds, intervals={}, verdicts=(verdict,), independent=(), curves={},
    )  # fmt: skip


def rule_of(**facts: Any) -> str:
    return " ".join(verdict_words.rule([evidence_of(**facts)]))


def test_a_verdict_without_slides_says_what_stands_in_for_them() -> None:
    assert "Slides are not known" not in rule_of(kind="slide")
    assert "0.79 and 0.94 times as wide as those from slides" in rule_of(kind="stain")
    assert "too narrow" in rule_of(kind="group")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("better", "holds here"),
        ("worse", "is reversed here"),
        ("no evidence", "is not confirmed"),
        ("too few seeds", None),
        ("too few slides", None),
        ("no spread", None),
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
    several = replace(one, verdicts=one.verdicts * 3)
    assert verdict_words.answer(several) == verdict_words.answer(one)
    assert (
        verdict_words.answer(one)
        == "Not known: 10 seeds cannot tell a difference from chance. A verdict needs at least 3."
    )


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("better", "Yes: “after” scores 0.012 AUC higher than “before”."),
        ("worse", "Worse: “after” scores 0.012 AUC lower than “before”."),
        ("too small to matter", "“after” differs from “before”, but by less than 0.005 AUC."),
        ("no evidence", "No difference in AUC from “before” was shown. About 4 seeds would be needed"),
        ("too few slides", "Not known: there are too few slides or groups."),
        ("no spread", "Not known: the difference is equal in every replicate"),
        ("same network", "“after” is the same network as “before”"),
        ("same predictions", "“after” gives the same predictions as “before”"),
    ],
)
def test_every_outcome_has_its_answer(outcome: str, said: str) -> None:
    assert verdict_words.question(evidence_of(outcome=outcome)) == "Is “after” better than “before”?"
    assert verdict_words.answer(evidence_of(outcome=outcome)).startswith(said)
    same = outcome.startswith("same")
    sure = " ".join(verdict_words.how_sure(evidence_of(outcome=outcome)))
    assert ("95 % interval +0.004 to +0.021" in sure) != same
    assert ("slides with tumour: 2" in sure) == (outcome == "too few slides")
    assert ("equal in every replicate" in sure) == (outcome == "no spread")


def test_verdicts_of_one_outcome_are_told_together_and_what_was_shown_first() -> None:
    better, none = evidence_of().verdicts[0], evidence_of(outcome="no evidence").verdicts[0]
    told = verdict_words.answer(
        replace(evidence_of(), verdicts=(none, better, replace(better, a="late"), replace(none, a="other")))
    )
    assert told.startswith("Yes: “after” by 0.012 and “late” by 0.012 AUC score higher than “before”. No difference")
    assert "No difference in AUC from “before” was shown for “after” and “other”." in told


def test_a_rule_that_questions_share_is_told_once() -> None:
    told = verdict_words.rule([evidence_of(), evidence_of(folds=3)])
    assert sum(sentence.startswith("The rule was fixed") for sentence in told) == 1
    assert sum("not cover" in sentence for sentence in told) == 2


def test_what_varies_from_seed_to_seed_is_told() -> None:
    one_split = verdict_words.varied(evidence_of())
    assert "Between seeds, initial weights, order of batches and augmentation vary together." in one_split
    assert "All seeds share one split" in one_split
    in_folds = verdict_words.varied(evidence_of(folds=3, varied=("split", "order of batches")))
    assert "Between seeds, split and order of batches vary together." in in_folds
    assert "its own split into 3 folds" in in_folds
    assert "share one split" not in in_folds
    pretrained = verdict_words.varied(evidence_of(varied=("order of batches",)))
    assert "Between seeds, order of batches varies." in pretrained
    assert "initial weights" not in pretrained
    assert "is not recorded" in verdict_words.varied(evidence_of(varied=()))


def test_seeds_that_gave_one_network_are_told() -> None:
    told = verdict_words.varied(evidence_of(seeds=1, varied=()))
    assert "10 seeds gave one network of each variant, identical to the last bit, and count as 1" in told
    assert "--folds" in told
    assert "vary together" not in told
    assert "gave" not in verdict_words.varied(evidence_of())


def test_the_rule_names_what_was_drawn_and_what_it_does_not_cover() -> None:
    assert "a bootstrap over slides and seeds; they do not cover another split" in rule_of(kind="slide")
    with_folds = rule_of(kind="stain", folds=3)
    assert "clusters of stain (in place of slides)" in with_folds
    assert "another split" not in with_folds


def test_naive_tests_are_counted_by_run_pair_and_side() -> None:
    tests = IndependentTests("after", "before", delong=(0.01, -0.04, 0.2, -0.0), mcnemar=(0.5, 1.0, -1.0, 0.05))
    told = verdict_words.assumed_independent(tests)
    assert told == [
        "DeLong's test (AUC): “after” is significantly better in 1 and worse in 2 of 4 run pairs than “before” "
        "(p ≤ 0.05).",
        "McNemar's test (threshold 0.5): “after” is significantly better in 1 of 4 run pairs than “before” (p ≤ 0.05).",
    ]


@pytest.mark.parametrize(
    ("split", "outcome", "said"),
    [
        ("random", "better", "inflates the score by 0.012 AUC"),
        ("random", "no evidence", "no evidence of a difference"),
        ("random", "worse", "gives a lower score"),
        ("random", "too small to matter", "a difference, but less than 0.005"),
        ("random", "too few seeds", "needs at least 3 seeds"),
        ("random", "too few slides", "too few slides or groups (slides with tumour: 2; at least 3"),
        ("random", "no spread", "not known: the difference is equal in every replicate"),
        ("random", "same predictions", "the same predictions as the trusted one"),
    ],
)
def test_the_leak_is_told_for_every_outcome(split: str, outcome: str, said: str) -> None:
    (told,) = verdict_words.inflation(evidence_of(a=split, outcome=outcome))
    assert said in told
    assert ("95 % interval +0.004 to +0.021" in told) == (outcome != "same predictions")
