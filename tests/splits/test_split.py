"""Balance, sample and split: right counts, no slide on two sides, both classes alike, reproducible."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinode.config.run import BalanceConfig, DrawnSplit, FileSplit, SampleConfig
from sentinode.data.patches import PatchTable
from sentinode.errors import SplitError
from sentinode.splits.split import (
    assign_units,
    drop_negatives,
    make_split,
    reached_slides,
    sample_classes,
    unite_groups,
)


def candidates(count: int = 600, *, slides: int = 20, seed: int = 0, slides_known: bool = True) -> PatchTable:
    """Patches of slides with very different tumour fractions."""
    rng = np.random.default_rng(seed)
    slide = rng.integers(0, slides, count)
    labels = (rng.random(count) < rng.uniform(0.05, 0.9, slides)[slide]).astype(np.int8)
    ids = np.array([f"p{n}" for n in range(count)])
    none = np.full(count, "", dtype=str)
    return PatchTable(ids, labels, slide.astype(str) if slides_known else none, none)


def split_of(data: PatchTable, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    split = make_split(data, None, None, DrawnSplit(**settings))
    side = dict.fromkeys(split.training, 0) | dict.fromkeys(split.validation, 1)
    return np.array([side[i] for i in data.ids]), data.labels


def test_the_notebooks_own_numbers() -> None:
    """130,908 negatives less 31 % are 90,327; 25,000 a class; 35,000 to train and 15,000 to validate."""
    labels = np.array([0] * 130_908 + [1] * 89_117, dtype=np.int8)
    kept = drop_negatives(labels, BalanceConfig(drop_negative_fraction=0.31))
    assert (labels[kept] == 0).sum() == 130_908 - round(130_908 * 0.31)
    assert (labels[kept] == 1).sum() == 89_117
    notices: list[str] = []
    drawn = sample_classes(labels[kept], SampleConfig(per_class=25_000), "per_class", notices)
    assert np.bincount(labels[kept][drawn]).tolist() == [25_000, 25_000]
    assert notices == []
    units = np.arange(50_000)
    side = assign_units(labels[kept][drawn].astype(int), units, np.array([0.7, 0.3]), np.random.default_rng(25))
    assert np.bincount(side).tolist() == [35_000, 15_000]


def test_a_sample_larger_than_a_class_is_clipped_with_a_notice() -> None:
    data, notices = candidates(100), []
    smaller = int(min(np.bincount(data.labels)))
    drawn = sample_classes(data.labels, SampleConfig(per_class=1000), "per_class", notices)
    assert np.bincount(data.labels[drawn]).tolist() == [smaller, smaller]
    assert len(notices) == 1
    assert f"clipped to {smaller}" in notices[0]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(4, 60), st.floats(0.15, 0.5))
def test_no_slide_stands_on_two_sides(seed: int, slides: int, fraction: float) -> None:
    data = candidates(400, slides=slides, seed=seed)
    side, _ = split_of(data, validation_fraction=fraction, seed=seed)
    for slide in np.unique(data.slides):
        assert len(set(side[data.slides == slide])) == 1


@pytest.mark.parametrize("seed", range(5))
def test_both_sides_have_their_share_of_both_classes(seed: int) -> None:
    side, labels = split_of(candidates(3000, slides=40, seed=seed), seed=seed)
    assert np.mean(side) == pytest.approx(0.3, abs=0.01)
    for label in (0, 1):
        assert np.mean(side[labels == label]) == pytest.approx(0.3, abs=0.02)


def test_with_slides_unknown_groups_stay_together_and_singles_are_free() -> None:
    data = candidates(300, slides_known=False)
    groups = np.array([f"g{n // 5}" if n < 100 else "" for n in range(300)])
    data = PatchTable(data.ids, data.labels, data.slides, groups)
    split = make_split(data, None, None, DrawnSplit())
    assert split.basis == "group"
    on_validation = np.isin(data.ids, split.validation)
    for group in set(groups) - {""}:
        assert len(set(on_validation[groups == group])) == 1
    assert 0 < on_validation[groups == ""].mean() < 1


def partly_known(count: int = 200, slides: int = 10, every: int = 20) -> PatchTable:
    """Patches of some slides; of each `every`-th patch the slide is not known."""
    data = candidates(count, slides=slides)
    return PatchTable(data.ids, data.labels, np.where(np.arange(count) % every, data.slides, ""), data.groups)


@pytest.mark.parametrize("every", [2, 20, 200])
@pytest.mark.parametrize("seed", range(3))
def test_slides_known_for_a_part_stay_whole_and_the_rest_is_counted(every: int, seed: int) -> None:
    data = partly_known(every=every)
    split = make_split(data, None, None, DrawnSplit(seed=seed))
    on_validation = np.isin(data.ids, split.validation)
    for slide in set(data.slides.tolist()) - {""}:
        assert len(set(on_validation[data.slides == slide])) == 1
    unknown = 200 // every
    assert split.basis == "slide+group"
    assert split.describe().startswith("by slide where it is known: no such slide is in both sets")
    assert f"the slide of {unknown} of 200 patches is not known; {unknown} of them share tissue with no" in "".join(
        split.notices
    )


def test_patches_of_unknown_slide_go_where_their_tissue_is() -> None:
    data = partly_known()
    groups = np.full(200, "", dtype=str).astype("<U8")
    groups[[0, 1, 20, 40]] = ["a", "a", "b", "b"]  # 0, 20 and 40 are of unknown slide; 1 is on a known one
    data = PatchTable(data.ids, data.labels, data.slides, groups)
    for seed in range(10):
        split = make_split(data, None, None, DrawnSplit(seed=seed))
        on_validation = np.isin(data.ids, split.validation)
        assert len(set(on_validation[(data.slides == data.slides[1]) | (data.ids == "p0")])) == 1
        assert on_validation[20] == on_validation[40]
        assert "7 of them share tissue with no other" in "".join(split.notices)


def test_tissue_shared_with_two_slides_goes_with_the_one_that_most_of_it_is_on() -> None:
    slides = np.array(["s2", "s1", "s1", "", "s2", "s1", "", ""])
    groups = np.array(["a", "a", "a", "a", "b", "b", "b", ""])
    assert reached_slides(slides, groups).tolist() == ["s2", "s1", "s1", "s1", "s2", "s1", "s1", ""]


def test_slides_asked_for_but_known_for_a_part_only_is_an_error() -> None:
    with pytest.raises(SplitError, match="the slide of 10 of 200 patches is not known"):
        split_of(partly_known(), by="slide")


@pytest.mark.parametrize("by", ["random", "group"])
def test_known_slides_that_a_split_cuts_are_counted(by: Literal["random", "group"]) -> None:
    data = partly_known()
    split = make_split(data, None, None, DrawnSplit(by=by))
    assert "10 of 10 known slides are in both sets: scores may be too good" in split.notices


@pytest.mark.parametrize("by", ["auto", "group"])
def test_groups_that_are_patients_are_called_patients(by: Literal["auto", "group"]) -> None:
    data = candidates(300, slides=12)
    patients = np.array([f"patient{int(slide) // 2}" for slide in data.slides])
    data = PatchTable(data.ids, data.labels, data.slides, patients)
    config = DrawnSplit(by=by)
    split = make_split(data, None, None, config, patients_known=True)
    assert split.describe() == "by patient: no patient is in both sets"
    on_validation = np.isin(data.ids, split.validation)
    assert all(len(set(on_validation[patients == patient])) == 1 for patient in set(patients.tolist()))


def test_a_random_split_says_that_it_ignores_slides() -> None:
    split = make_split(candidates(), None, None, DrawnSplit(by="random"))
    assert split.basis == "random"
    assert "slides are ignored" in split.describe()


def test_the_seed_decides() -> None:
    data = candidates()
    first, _ = split_of(data, seed=1)
    assert np.array_equal(first, split_of(data, seed=1)[0])
    assert not np.array_equal(first, split_of(data, seed=2)[0])


def test_three_parts_can_be_assigned_too() -> None:
    data = candidates(3000, slides=60)
    units = np.unique(data.slides, return_inverse=True)[1]
    part = assign_units(data.labels.astype(int), units, np.full(3, 1 / 3), np.random.default_rng(0))
    assert np.bincount(part) / 3000 == pytest.approx(np.full(3, 1 / 3), abs=0.02)


def test_too_few_slides_is_an_error() -> None:
    with pytest.raises(SplitError, match="at least 2"):
        split_of(candidates(100, slides=1))


def test_a_side_with_one_class_is_an_error() -> None:
    labels = np.array([0] * 50 + [1] * 50, dtype=np.int8)
    slides = np.array(["a"] * 50 + ["b"] * 50)
    data = PatchTable(np.arange(100).astype(str), labels, slides, np.full(100, "", dtype=str))
    with pytest.raises(
        SplitError,
        match=r"has only the class . \(split by slide\): of the slides 0 hold both classes, 1 negative and 1 positive "
        "patches only, so no choice gives both classes to training and validation",
    ):
        split_of(data)


def test_a_refusal_of_folds_says_what_cannot_be() -> None:
    data = candidates(200, slides=6)
    data = PatchTable(data.ids, np.isin(data.slides, ["1", "2"]).astype(np.int8), data.slides, data.groups)
    with pytest.raises(SplitError, match=r"4 negative and 2 positive patches only, so no choice gives .* 3 folds"):
        [split_of(data, folds=3, fold=fold) for fold in (1, 2, 3)]


@pytest.mark.parametrize("seed", range(5))
def test_a_share_that_whole_slides_allow_is_found(seed: int) -> None:
    """Of five slides only the last gives both sides both classes near a share of .2: 111 of 569 patches."""
    sizes = [(157, 0), (89, 0), (9, 119), (84, 0), (2, 109)]
    labels = np.concatenate([np.repeat([0, 1], own) for own in sizes]).astype(np.int8)
    slides = np.repeat(list("abcde"), np.sum(sizes, axis=1))
    data = PatchTable(np.arange(569).astype(str), labels, slides, np.full(569, "", dtype=str))
    split = make_split(data, None, None, DrawnSplit(validation_fraction=0.2, seed=seed))
    assert set(slides[split.validation.astype(int)].tolist()) == {"e"}
    assert split.notices == ()


def test_slides_asked_for_but_not_known_is_an_error() -> None:
    with pytest.raises(SplitError, match="not known"):
        split_of(candidates(slides_known=False), by="slide")


def test_a_split_reads_back_from_its_table(tmp_path: Path) -> None:
    data = candidates(200)
    drawn = make_split(data, None, SampleConfig(per_class=40), DrawnSplit())
    labels, slides = (
        dict(zip(data.ids.tolist(), column.tolist(), strict=True)) for column in (data.labels, data.slides)
    )
    (tmp_path / "split.csv").write_text(drawn.to_csv(labels=labels, clusters=slides))
    table = pd.read_csv(tmp_path / "split.csv", dtype=str)
    assert [slides[i] for i in table["id"]] == table["cluster"].tolist()
    again = make_split(data, None, None, FileSplit(by="file", file=tmp_path / "split.csv"))
    assert set(again.training) == set(drawn.training)
    assert set(again.validation) == set(drawn.validation)
    assert again.left_out == {"split: not in the file": 120}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,side\np1,test\n", "neither"),
        ("id,side\np1,training\np1,validation\n", "duplicate ids"),
        ("id,part\np1,x\n", "columns"),
    ],
)
def test_a_wrong_table_of_sides_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(SplitError, match=said):
        make_split(candidates(), None, None, FileSplit(file=path))


def test_groupings_are_united() -> None:
    first = np.array(["a", "a", "", "", "", ""])
    second = np.array(["", "x", "x", "y", "y", ""])
    united = unite_groups(first, second)
    assert united[0] == united[1] == united[2] != ""
    assert united[3] == united[4] not in ("", united[0])
    assert united[5] == ""


def test_a_share_that_slides_cannot_give_is_noted() -> None:
    split = make_split(candidates(300, slides=4), None, None, DrawnSplit(validation_fraction=0.05))
    assert any("a validation share of 0.05 became" in notice for notice in split.notices)
    even = make_split(candidates(3000, slides=60), None, None, DrawnSplit())
    assert even.notices == ()


def test_folds_validate_every_patch_once_and_cut_no_slide() -> None:
    data = candidates(600, slides=15)
    slide_of = dict(zip(data.ids.tolist(), data.slides.tolist(), strict=True))
    splits = [make_split(data, None, None, DrawnSplit(folds=3, fold=fold)) for fold in (1, 2, 3)]
    validated = np.concatenate([split.validation for split in splits])
    assert sorted(validated.tolist()) == sorted(data.ids.tolist())
    for split in splits:
        assert not {slide_of[i] for i in split.training.tolist()} & {slide_of[i] for i in split.validation.tolist()}
        assert len(split.validation) == pytest.approx(200, rel=0.15)
        assert split.notices == ()


def test_folds_without_a_fold_ask_for_one() -> None:
    with pytest.raises(SplitError, match="none of them was selected"):
        split_of(candidates(100), folds=3)
