"""Checklists and model card: complete, in order, and answered by the records and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined

from report.altered import with_runs
from sentinode.report.standards.checklists import Checklist, Item, Status, checklists
from sentinode.report.standards.model_card import model_card
from sentinode.runs.study_record import ClassCounts
from sentinode.settings import override
from sentinode.studies.study import FinishedStudy

Write = Callable[..., Path]
NOTE = "phantom: synthetic tissue"
PSEUDO = {
    "teacher": "teacher", "teacher_sha256": "", "calibration": "none", "confidence": 0.95, "share": None,
    "positive": 400, "negative": 800, "left_out": {},
}  # fmt: skip
SUB_ITEMS = {
    3: "abc",
    5: "ab",
    6: "abc",
    8: "abc",
    9: "abc",
    12: "abcdefg",
    18: "abcdef",
    20: "abc",
    23: "ab",
    27: "abc",
}
HEADINGS = [
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Ethical considerations",
    "Caveats and recommendations",
]
VOID = {"br", "img", "meta", "link"}


@pytest.fixture
def study(fixed_study: FinishedStudy) -> FinishedStudy:
    return fixed_study


def recorded(study: FinishedStudy, **facts: Any) -> FinishedStudy:
    """The study with other facts in its record."""
    return replace(study, record=replace(study.record, **facts))


def item(study: FinishedStudy, checklist: str, number: str) -> Item:
    """One item by its list's first letter, T or C, and its number."""
    found = next(each for each in checklists(study) if each.name.startswith(checklist))
    return next(each for each in found.items if each.number == number)


def card_text(study: FinishedStudy) -> str:
    return " ".join(sentence for _, sentences in model_card(study) for sentence in sentences)


def test_every_number_of_tripod_ai_stands_once_and_in_order(study: FinishedStudy) -> None:
    expected = [f"{k}{letter}" for k in range(1, 28) for letter in SUB_ITEMS.get(k, [""])]
    assert [each.number for each in checklists(study)[0].items] == expected
    assert len(expected) == 52


def test_every_number_of_claim_stands_once_and_in_order(study: FinishedStudy) -> None:
    assert [each.number for each in checklists(study)[1].items] == [str(k) for k in range(1, 45)]


@pytest.mark.parametrize("note", ["", NOTE])
def test_every_item_has_an_answer_and_every_sentence_ends(study: FinishedStudy, note: str) -> None:
    for each in checklists(recorded(study, note=note)):
        for entry in each.items:
            assert isinstance(entry.status, Status)
            assert entry.topic
            assert entry.asked.endswith(".")
            assert entry.answer.endswith(".")
            assert "{" not in entry.answer
            assert "nan" not in entry.answer.split()


def test_the_summary_counts_every_item(study: FinishedStudy) -> None:
    for each in checklists(study):
        assert sum(each.counts.values()) == len(each.items)
        assert each.summary.startswith(f"{each.counts[Status.REPORTED]} of {len(each.items)} items reported, ")
    few = Checklist("x", "", (Item("1", "", "", Status.REPORTED, ""), Item("2", "", "", Status.NOT_KNOWN, "")))
    assert few.summary == "1 of 2 items reported, 1 not known"


@pytest.mark.parametrize(
    ("checklist", "number", "facts", "told"),
    [
        ("T", "5a", {"patches": {"training": 1234, "test": 5}}, "1,234 training, 5 test"),
        ("T", "11", {"left_out": {"blank": 7}}, "blank 7"),
        ("T", "11", {"left_out": {}}, "No patch was left out."),
        ("T", "20a", {"classes": {"sampled": ClassCounts(41, 43)}}, "sampled 41 + 43"),
        ("C", "12", {}, "rows without an image 3, unusable images 1"),
        ("C", "19", {"split_in_words": "by luck"}, "The split is by luck."),
        ("C", "33", {"submission_rows": 99}, "99 test patches were predicted, not scored"),
        ("C", "33", {"submission_rows": 0}, "There was no external test set."),
    ],
)
def test_answers_follow_the_record(
    study: FinishedStudy, checklist: str, number: str, facts: dict[str, Any], told: str
) -> None:
    if "classes" in facts:
        facts = {"classes": study.record.classes | facts["classes"]}
    assert told in item(recorded(study, **facts), checklist, number).answer


@pytest.mark.parametrize(
    ("settings", "checklist", "number", "told"),
    [
        ({"fit.learning_rate": 0.02}, "C", "25", "learning rate 0.02"),
        ({"fit.batch_size": 17}, "T", "12c", "batches of 17"),
        ({"fit.augment.symmetries": "none"}, "T", "12b", "Augmentation in training: none."),
        (
            {"fit.augment.stain_jitter": 0.1},
            "T",
            "12b",
            "all 8 rotations and flips, stain strength varied by up to 0.1",
        ),
        ({"preprocess.crop_px": 64, "preprocess.size_px": 32}, "C", "9", "centre 64 × 64 px, resized to 32 × 32 px"),
        ({"preprocess.stain": "macenko"}, "C", "9", "Stains are normalised first (Macenko et al. 2009)."),
        ({"fit.keep": "last"}, "C", "26", "Each run keeps its last epoch."),
        ({"balance.drop_negative_fraction": 0.25}, "T", "13", "25% of the negatives"),
        ({"predict.views": 1}, "C", "27", "a single view"),
    ],
)
def test_answers_follow_the_settings(
    write_study: Write, settings: dict[str, Any], checklist: str, number: str, told: str
) -> None:
    assert told in item(FinishedStudy.open(write_study(settings=settings)), checklist, number).answer


def test_scores_stand_with_their_intervals(study: FinishedStudy) -> None:
    found = study.evidence["compare"].intervals["before"]["auc"]
    told = f"validation: AUC {found.estimate:.3f} ({found.low:.3f} to {found.high:.3f}), "
    assert told in item(study, "T", "23a").answer
    assert told in item(study, "C", "37").answer
    assert "with 95 % intervals." in item(study, "C", "37").answer
    assert told in card_text(study)


def test_scores_without_evidence_are_no_intervals(study: FinishedStudy) -> None:
    bare = replace(study, evidence={})
    assert item(bare, "T", "23a").status == Status.NOT_KNOWN
    assert item(bare, "C", "29").answer == "No intervals are recorded."
    assert "95 % interval" not in card_text(bare)


def test_only_questions_that_were_asked_are_aims(study: FinishedStudy) -> None:
    assert "search over model.bn_momentum" in item(study, "T", "4").answer
    compared = replace(study, comparisons={"compare": study.comparisons["compare"]})
    told = item(compared, "T", "4").answer
    assert "To compare “before”, “after”: 6 runs." in told
    assert "search" not in told


def test_folds_are_told_and_no_single_side_is(study: FinishedStudy) -> None:
    folded = replace(study, config=override(study.config, {"split.folds": 5}))
    told = item(folded, "C", "19").answer
    assert "Cross-validation over 5 folds." in told
    assert "Each of 5 folds is the validation set once: 60 patches (30 positive)." in told
    assert "validation patches" not in told


def test_every_seed_is_named(write_study: Write) -> None:
    assert "3 runs with the seeds 25, 26, 27." in item(FinishedStudy.open(write_study()), "C", "24").answer


def test_one_seed_says_nothing_about_seeds(write_study: Write) -> None:
    found = item(FinishedStudy.open(write_study(seeds=(25,))), "C", "30")
    assert found.status == Status.NOT_DONE
    assert found.answer.startswith("One seed only")


def test_a_phantom_is_called_synthetic_and_has_no_patients(study: FinishedStudy) -> None:
    phantom = recorded(study, note=NOTE)
    for checklist, number in (("T", "5b"), ("T", "17"), ("C", "11"), ("C", "36")):
        assert item(study, checklist, number).status != Status.NOT_APPLICABLE
        found = item(phantom, checklist, number)
        assert found.status == Status.NOT_APPLICABLE
        assert NOTE in found.answer
    assert "The data are synthetic" in card_text(phantom)
    assert "synthetic" not in card_text(study)
    assert "The data are synthetic" in item(phantom, "T", "26").answer
    silent = [entry.answer for each in checklists(phantom) for entry in each.items if "nothing about" in entry.answer]
    assert silent == []


def test_unknown_slides_are_said_to_be_unknown(study: FinishedStudy) -> None:
    assert "1 slide known by name" in item(study, "C", "7").answer
    unknown = with_runs(
        study, lambda run: replace(run, record=replace(run.record, slides_known="none", split_basis="group"))
    )
    assert "Which slide a patch comes from is not known." in item(unknown, "C", "7").answer
    assert "Which slide a patch comes from is not known." in card_text(unknown)
    assert "Slides are not known" in item(unknown, "C", "40").answer


@pytest.mark.parametrize(
    ("basis", "status", "told"),
    [
        ("slide", Status.REPORTED, "no slide has patches in both sets"),
        ("patient", Status.REPORTED, "no patient has patches in both sets"),
        ("slide+group", Status.REPORTED, "Slides where they are known"),
        ("group", Status.REPORTED, "may be in both sets"),
        ("random", Status.REPORTED, "Single patches only"),
        ("file", Status.NOT_KNOWN, "is not recorded"),
    ],
)
def test_what_the_split_keeps_apart_is_not_overstated(
    study: FinishedStudy, basis: str, status: Status, told: str
) -> None:
    found = item(recorded(study, split_basis=basis), "C", "20")
    assert found.status == status
    assert told in found.answer


def test_the_card_has_mitchells_headings_each_with_something_to_say(study: FinishedStudy) -> None:
    assert [heading for heading, _ in model_card(study)] == HEADINGS
    assert all(sentences and all(sentences) for _, sentences in model_card(study))
    assert "sample.per_class 2,000 clipped to 20" in card_text(study)


class Balanced(HTMLParser):
    """Fails on a tag that is not closed in its turn; collects tags and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_macros_write_whole_and_escaped_html(study: FinishedStudy) -> None:
    evil = "<script>alert(1)</script> {data} {0}"
    study = recorded(study, note=evil, notices=[evil])
    environment = Environment(loader=PackageLoader("sentinode.report"), autoescape=True, undefined=StrictUndefined)
    macros = environment.get_template("standards.html").module
    page = Balanced(str(macros.model_card(model_card(study)) + macros.checklists(checklists(study))))
    assert "script" not in page.tags
    assert evil in page.text
    assert page.tags.count("tr") == 2 + 52 + 44
    assert page.tags.count("dt") == len(HEADINGS)
    assert "BMJ 2024;385:e078378" in page.text


def test_the_model_card_tells_of_pseudo_labels(study: FinishedStudy) -> None:
    def training_data(study: FinishedStudy) -> str:
        return " ".join(dict(model_card(study))["Training data"])

    assert "pseudo-labels" not in training_data(study)
    joined = {"teacher": PSEUDO}
    study = with_runs(study, lambda run: replace(run, environment=run.environment | joined))
    told = "For training only, 1,200 test patches (400 positive) were added with labels that a network predicted with a"
    assert f"{told} probability of at least 0.95 (pseudo-labels)." in training_data(study)
