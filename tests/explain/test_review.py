"""The review of a variant: scores by subgroup against pandas and scikit-learn, everything else by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from conftest import make_patches
from sentinode.audit.appearance import appearance
from sentinode.errors import DataError, RunError
from sentinode.explain.attributes import attributes, parts_of
from sentinode.explain.review import review
from sentinode.inference.predictions import Predictions
from sentinode.records import read_record, write_record
from sentinode.runs.variant import Variant
from sentinode.studies.review_record import Review, Subgroups

IDS = np.array(["a", "b", "c", "d", "e", "f"])
LABELS = np.array([0, 0, 0, 1, 1, 1], dtype=np.int8)
SLIDES = {"a": "s1", "b": "s1", "c": "s2", "d": "s2", "e": "s1", "f": "s2"}


@dataclass(frozen=True)
class Said:
    """As much of a run as a review reads."""

    seed: int
    predictions: Predictions


def variant(name: str, *by_seed: Any, ids: np.ndarray = IDS, labels: np.ndarray = LABELS) -> Variant:
    runs: Any = tuple(Said(seed, Predictions(ids, labels, np.array(p))) for seed, p in enumerate(by_seed, start=25))
    return Variant(name, {}, runs)


FIRST = [0.1, 0.9, 0.2, 0.8, 0.4, 0.3]
SECOND = [0.1, 0.7, 0.6, 0.8, 0.2, 0.1]  # the mean: 0.1, 0.8, 0.4, 0.8, 0.3, 0.2


def test_mistakes_are_those_of_the_mean_over_seeds() -> None:
    found = review(variant("v", FIRST, SECOND), None, SLIDES, count=1)
    false_positives, false_negatives = found.mistakes
    assert (false_positives.total, false_negatives.total) == (1, 2)
    (worst,) = false_positives.first
    assert (worst.id, worst.label, worst.slide, worst.probabilities) == ("b", 0, "s1", (pytest.approx(0.8),))
    assert [seen.id for seen in false_negatives.first] == ["f"]
    assert (found.seeds, found.folds, found.patches) == ((25, 26), 1, 6)


def test_disagreements_of_models_and_of_seeds() -> None:
    rival = variant("w", [0.2, 0.1, 0.6, 0.9, 0.4, 0.9])
    found = review(variant("v", FIRST, SECOND), rival, SLIDES, count=2)
    assert found.disagreements is not None
    assert found.disagreements.total == 3  # b, c and f
    assert [(seen.id, seen.slide) for seen in found.disagreements.first] == [("b", "s1"), ("f", "s2")]
    assert found.disagreements.first[1].probabilities == pytest.approx((0.2, 0.9))
    assert found.seed_spread is not None
    assert [seen.id for seen in found.seed_spread] == ["c", "b"]
    assert found.seed_spread[0].probabilities == (0.2, 0.6)


def test_without_a_rival_or_a_second_seed_there_are_no_disagreements() -> None:
    found = review(variant("v", FIRST), None, {})
    assert (found.rival, found.disagreements, found.seed_spread) == (None, None, None)
    assert {seen.slide for mistakes in found.mistakes for seen in mistakes.first} == {""}


def test_suspects_are_the_first_to_look_at() -> None:
    found = review(variant("v", [0.1, 0.9, 0.2, 0.8, 0.9, 0.3]), None, SLIDES, count=1).suspects
    # Self-confidence of class 0: mean of 0.9, 0.1, 0.8; of class 1: mean of 0.8, 0.9, 0.3.
    assert found.class_thresholds == pytest.approx((0.6, 2 / 3))
    assert found.confident_joint == ((2, 1), (1, 2))
    assert (found.found.total, [seen.id for seen in found.found.first]) == (2, ["b"])


def test_pictures_are_needed_of_each_patch_once() -> None:
    found = review(variant("v", FIRST, SECOND), variant("w", FIRST), SLIDES, count=1)
    shown = found.ids_to_show()
    assert len(shown) == len(set(shown))
    assert set(shown) == {"b", "f", "c"}


def test_a_review_is_read_back_as_it_was(tmp_path: Path) -> None:
    table = pd.DataFrame({"scanner": ["x", "", "x", "y", "x", "y"], "size": [1.0, 2, 1, 2, np.nan, 1]}, index=IDS)
    for found in (
        review(variant("v", FIRST, SECOND), variant("w", FIRST), SLIDES, table),
        review(variant("v", FIRST), None, {}, cluster_kind="group"),
    ):
        write_record(tmp_path / "errors.json", found)
        assert read_record(tmp_path / "errors.json", Review) == found


def test_rivals_on_other_patches_and_one_class_are_refused() -> None:
    other = variant("w", FIRST, ids=np.array(["a", "b", "c", "d", "e", "z"]))
    with pytest.raises(RunError, match="different patches"):
        review(variant("v", FIRST), other, SLIDES)
    with pytest.raises(DataError, match="one class"):
        review(variant("v", FIRST, labels=np.ones(6, np.int8)), None, SLIDES)


# --- subgroups --------------------------------------------------------------------------------------


def many(count: int = 600, seeds: int = 3) -> tuple[Variant, pd.DataFrame]:
    """A variant of random predictions, and the slide and brightness of its patches."""
    rng = np.random.default_rng(1)
    ids = np.array([f"p{i:03d}" for i in range(count)])
    labels = rng.integers(0, 2, count).astype(np.int8)
    by_seed = [np.clip(0.3 + 0.4 * labels + rng.normal(0, 0.3, count), 0, 1) for _ in range(seeds)]
    slides = rng.choice(["s1", "s2", "s3", "s4", "s5"], count, p=[0.3, 0.3, 0.3, 0.06, 0.04])
    known = pd.DataFrame({"label": labels, "slide": slides, "brightness": rng.normal(150, 20, count)}, index=ids)
    return variant("v", *by_seed, ids=ids, labels=labels), known


def reference(chosen: Variant, groups: Any) -> dict[str, dict[str, float]]:
    """Means over seeds of scikit-learn's AUC and plain shares, by group."""
    by_seed = []
    for run in chosen.runs:
        said = run.predictions
        table = pd.DataFrame(
            {"y": said.labels.astype(int), "p": said.probabilities, "right": (said.probabilities > 0.5)}
        )
        table["right"] = table["right"] == (table["y"] == 1)
        grouped = table.groupby(np.asarray(groups))
        scores = {
            "patches": grouped.size(),
            "positive": grouped["y"].sum(),
            "auc": grouped[["y", "p"]].apply(lambda part: roc_auc_score(part["y"], part["p"])),
            "accuracy": grouped["right"].mean(),
            "sensitivity": table[table["y"] == 1].groupby(np.asarray(groups)[table["y"] == 1])["right"].mean(),
            "specificity": table[table["y"] == 0].groupby(np.asarray(groups)[table["y"] == 0])["right"].mean(),
        }
        by_seed.append(pd.DataFrame(scores))
    return (sum(by_seed[1:], by_seed[0]) / len(by_seed)).to_dict("index")


def scores_of(found: Subgroups) -> dict[str, dict[str, Any]]:
    names = ("patches", "positive", "auc", "accuracy", "sensitivity", "specificity")
    return {line.subgroup: {name: getattr(line, name) for name in names} for line in found.lines}


def test_subgroups_have_the_mean_scores_over_seeds_the_worst_first_and_flagged_ones_last() -> None:
    chosen, known = many()
    found = review(chosen, None, known["slide"].to_dict(), known[["brightness"]], few=50)
    by_slide, by_brightness = found.subgroups
    expected = reference(chosen, known["slide"])
    assert by_slide.by == "slide"
    assert scores_of(by_slide).keys() == expected.keys()
    for name, scores in scores_of(by_slide).items():
        assert scores == pytest.approx(expected[name])
    first = sorted(["s1", "s2", "s3"], key=lambda name: expected[name]["auc"])
    last = sorted(["s4", "s5"], key=lambda name: expected[name]["auc"])
    assert [line.subgroup for line in by_slide.lines] == first + last
    assert [line.flag for line in by_slide.lines] == ["", "", "", "few patches", "few patches"]

    quarters = reference(chosen, pd.qcut(known["brightness"], 4, labels=False))
    assert by_brightness.ordered
    assert [line.auc for line in by_brightness.lines] == pytest.approx([quarters[part]["auc"] for part in range(4)])
    assert [line.patches for line in by_brightness.lines] == [150] * 4


def test_out_of_fold_predictions_are_pooled() -> None:
    whole, known = many(seeds=1)
    said = whole.predictions
    folds = [Predictions(said.ids[k::3], said.labels[k::3], said.probabilities[k::3]) for k in (2, 0, 1)]
    runs: Any = tuple(Said(25, fold) for fold in folds)
    found = review(Variant("v", {}, runs), None, known["slide"].to_dict())
    assert found == replace(review(whole, None, known["slide"].to_dict()), folds=3)


def test_attributes_are_joined_by_id_and_a_subgroup_of_one_class_has_no_auc() -> None:
    chosen, known = many(seeds=1)
    fraction = pd.Series(np.where(known["label"] == 1, np.linspace(0.01, 1, len(known)), 0), index=known.index)
    shuffled = pd.DataFrame({"tumour_fraction": fraction}).sample(frac=1, random_state=0)
    _, found = review(chosen, None, {}, shuffled).subgroups
    none, *rest = found.lines
    assert (none.subgroup, none.patches, none.positive) == ("0", (known["label"] == 0).sum(), 0)
    assert (none.auc, none.sensitivity, none.flag) == (None, None, "one class only")
    assert len(rest) == 4
    assert all(line.positive == line.patches and line.specificity is None for line in rest)
    assert [line.subgroup[:11] for line in rest] == [f"part {k} of 4" for k in (1, 2, 3, 4)]


@pytest.mark.parametrize("kind", ["slide", "group"])
def test_where_almost_every_patch_is_alone_there_is_no_table(kind: Any) -> None:
    groups = {"a": "g1", "b": "g1"} if kind == "group" else {i: f"s{i}" for i in IDS}
    (found,) = review(variant("v", FIRST), None, groups, cluster_kind=kind).subgroups
    assert found.lines == ()
    assert found.count == (5 if kind == "group" else 6)


def test_patches_without_a_group_are_one_line() -> None:
    groups = dict.fromkeys("abcd", "g1") | {"e": "", "f": "g2"}
    (found,) = review(variant("v", FIRST), None, groups, cluster_kind="group").subgroups
    assert found.count == 3
    assert {line.subgroup: line.patches for line in found.lines} == {"g1": 4, "g2": 1, "patches on their own": 1}


# --- attributes and their parts ---------------------------------------------------------------------


def test_attributes_come_from_the_pixels_and_from_the_table() -> None:
    patches = make_patches(6)
    given = pd.DataFrame({"size": [3.0, 1.0], "scanner": ["x", "y"]}, index=["patch0003", "elsewhere"])
    table = attributes(patches, np.array(["patch0003", "patch0001"]), given)
    assert table.index.tolist() == ["patch0003", "patch0001"]
    seen = appearance(patches.pixels).loc[[3, 1]]
    for name in ("brightness", "optical_density", "saturation"):
        assert table[name].tolist() == seen[name].tolist()
    assert table["size"].tolist() == pytest.approx([3.0, np.nan], nan_ok=True)
    assert table["scanner"].tolist() == ["x", ""]


def test_words_and_few_numbers_are_taken_as_they_are() -> None:
    words = parts_of(pd.Series(["b", "", "a"]))
    assert (words.names.tolist(), words.order) == (["b", "", "a"], None)
    numbers = parts_of(pd.Series([10.0, 2.0, np.nan, 0.5, 2.0]))
    assert numbers.names.tolist() == ["10", "2", "", "0.5", "2"]
    assert numbers.order == ("0.5", "2", "10")


def test_many_numbers_are_cut_into_quarters_with_zeros_apart_where_they_are_many() -> None:
    plain = parts_of(pd.Series([*np.arange(16.0), np.nan]))
    assert plain.order == tuple(f"part {k + 1} of 4 ({4 * k}-{4 * k + 3})" for k in range(4))
    assert np.unique(plain.names, return_counts=True)[1].tolist() == [1, 4, 4, 4, 4]
    zeros = parts_of(pd.Series([0.0] * 16 + list(range(1, 17))))
    assert zeros.order == ("0", *(f"part {k + 1} of 4 ({4 * k + 1}-{4 * k + 4})" for k in range(4)))
    assert np.unique(zeros.names, return_counts=True)[1].tolist() == [16, 4, 4, 4, 4]
