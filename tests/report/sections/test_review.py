"""A review on a page: what is counted, in which order, and that names from the data stay text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from sentinode.report.sections.review import MOST_LINES, review_part
from sentinode.studies.review_record import (
    Found,
    Neighbour,
    Neighbourhood,
    Review,
    Seen,
    Subgroups,
    SubgroupScores,
    Suspects,
    Tie,
)

EVIL = "<script>alert(1)</script>"
MISS = Seen("missed", 1, "s1", (0.02,))
FALSE = Seen("imagined", 0, EVIL, (0.97,))
SPLIT = Seen("split", 1, "", (0.1, 0.9))


def line(name: str, auc: float | None, flag: str = "") -> SubgroupScores:
    return SubgroupScores(name, 1200, 300, auc, 0.8, 0.7, 0.9, flag)


REVIEW = Review(
    variant="after",
    rival="before",
    seeds=(25, 26),
    folds=1,
    patches=4000,
    few=50,
    cluster_kind="slide",
    mistakes=(Found(30, (FALSE,)), Found(1, (MISS,))),
    disagreements=Found(0, ()),
    seed_spread=(SPLIT,),
    suspects=Suspects(Found(7, (MISS, FALSE)), (0.8, 0.7), ((2000, 4), (3, 1900))),
    subgroups=(
        Subgroups("slide", False, 2, (line("s2", 0.71), line("s1", None, "one class only"))),
        Subgroups("tumour_fraction", True, 1, (line("0", 0.75),)),
        Subgroups("of", False, 3100, ()),
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for patch_id in REVIEW.ids_to_show():
        Image.new("RGB", (96, 96), (200, 80, 120)).save(tmp_path / "pictures" / f"{patch_id}.png")
    return tmp_path


def rendered(folder: Path, review: Review) -> str:
    environment = Environment(loader=PackageLoader("sentinode.report"), autoescape=True, undefined=StrictUndefined)
    page = environment.from_string('{% from "review.html" import review with context %}{{ review(r) }}')
    return page.render(r=review_part(folder, review), centre_square="")


def text_of(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def test_every_entry_has_its_picture_probability_label_and_slide(folder: Path) -> None:
    part = review_part(folder, REVIEW)
    false_positives, false_negatives = part.mistakes
    assert [card.caption for card in false_positives.pictures] == ["p = 0.970"]
    assert [card.caption for card in part.suspects.pictures] == ["1. p = 0.020", "2. p = 0.970"]
    assert false_positives.caption.endswith("1 of 30.")
    assert false_negatives.caption.endswith("all 1.")
    html = rendered(folder, REVIEW)
    assert html.count("data:image/png") == 5
    assert "labelled tumour" in html
    assert "slide s1" in html
    assert "0.10 to 0.90" in html


def test_a_dot_stands_where_the_seed_does(folder: Path) -> None:
    html = rendered(folder, REVIEW)
    assert 'aria-label="p of each seed: 0.10, 0.90"' in html
    assert re.findall(r"left:([\d.]+)%", html) == ["10.0", "90.0"]


def test_all_counts_are_said(folder: Path) -> None:
    text = text_of(rendered(folder, REVIEW))
    assert "“after” (the mean of its 2 seeds) gets 31 of 4,000 validation patches wrong" in text
    assert "Where two variants disagree: 0 of 4,000 patches" in text
    assert "Labels that may be wrong: 7 of 4,000 patches" in text
    assert "labelled tumour 3 1,900 0.700" in text
    assert "not a proof" in text


def test_subgroups_are_told_in_order_with_their_flags(folder: Path) -> None:
    text = text_of(rendered(folder, REVIEW))
    assert "By slide The slide that a patch was cut from. Lowest AUC first; then those too small to judge" in text
    assert "s2 1,200 300 0.710 0.800 0.700 0.900 s1 1,200 300 – 0.800 0.700 0.900 one class only" in text
    assert "By tumour fraction" in text
    assert "fewer than 50" in text
    assert "means over 2 seeds" in text
    assert "By of From the table of attributes. The 4,000 patches fall into 3,100 subgroups" in text


def test_a_flag_column_is_there_only_where_something_is_flagged(folder: Path) -> None:
    tables = [explained.table for explained in review_part(folder, REVIEW).by_subgroup]
    assert tables[0] is not None
    assert tables[0].head[-1] == "flag"
    assert tables[1] is not None
    assert tables[1].head[-1] == "specificity"
    assert tables[2] is None


def test_a_long_table_is_cut_and_says_so(folder: Path) -> None:
    lines = tuple(line(f"s{k}", 0.5 + k / 100) for k in range(MOST_LINES + 5))
    (explained,) = review_part(folder, replace(REVIEW, subgroups=(Subgroups("slide", False, 25, lines),))).by_subgroup
    assert explained.table is not None
    assert len(explained.table.rows) == MOST_LINES
    assert f"; {MOST_LINES} of {MOST_LINES + 5} are shown." in explained.note


def test_folds_are_said_to_be_pooled_and_one_seed_has_no_mean(folder: Path) -> None:
    single = replace(REVIEW, seeds=(25,), folds=5, rival=None, disagreements=None, seed_spread=None)
    text = text_of(rendered(folder, single))
    assert "all 5 folds are pooled" in text
    assert "seeds" not in text
    assert "Where two variants disagree" not in text


@pytest.mark.parametrize(("kind", "slide", "said"), [("stain", "stain3", "stain3"), ("group", "g7", "group g7")])
def test_what_stands_in_for_a_slide_is_named(kind: str, slide: str, said: str, folder: Path) -> None:
    mistakes = (Found(1, (replace(MISS, slide=slide),)), Found(0, ()))
    stand_in = replace(REVIEW, cluster_kind=kind, mistakes=mistakes, subgroups=(Subgroups(kind, False, 3100, ()),))
    part = review_part(folder, stand_in)
    assert part.mistakes[0].pictures[0].lines == (said,)
    assert "Slides are not known" in part.by_subgroup[0].note


def test_names_from_the_data_stay_text(folder: Path) -> None:
    evil = (Subgroups(EVIL, False, 1, (line(EVIL, 0.5),)),)
    assert "<script" not in rendered(folder, replace(REVIEW, variant=EVIL, rival=EVIL, subgroups=evil))


def neighbourhood(of: Seen, other_class: int, tie: Tie = "") -> Neighbourhood:
    alike = tuple(
        (Neighbour(f"{of.id}-{label}", label, EVIL, 0.91 - label / 10, tie if label else ""),) for label in (0, 1)
    )
    return Neighbourhood(of.id, of.label, of.slide, (alike[0], alike[1]), 10, other_class)


def test_each_mistake_stands_beside_the_training_patches_most_like_it(folder: Path) -> None:
    found = replace(REVIEW, neighbours=(neighbourhood(FALSE, 7), neighbourhood(MISS, 9)))
    for patch_id in found.ids_to_show_small():
        Image.new("RGB", (48, 48), (200, 80, 120)).save(folder / "pictures" / f"{patch_id}.small.jpg")
    assert found.ids_to_show_small() == [
        "imagined",
        "missed",
        *(f"{i}-{k}" for i in ("imagined", "missed") for k in (0, 1)),
    ]
    html = rendered(folder, found)
    assert html.count("data:image/jpeg") == 6
    assert EVIL not in html
    told = text_of(html)
    assert "0.91 &lt;script&gt;" in told
    assert "No training patch among these is a copy" in told
    assert "For 1 of 2 mistakes, at least 8 of the 10 most similar training patches have the other label." in told
    assert "Training patches that the network takes for like" not in rendered(folder, REVIEW)


@pytest.mark.parametrize("tie", ["equal", "shared tissue", "nearly equal"])
def test_a_copy_in_the_training_set_is_said(folder: Path, tie: Tie) -> None:
    found = replace(REVIEW, neighbours=(neighbourhood(FALSE, 0, tie), neighbourhood(MISS, 0)))
    told = text_of(rendered(folder, found))
    assert "1 of 2 mistakes has a copy or some of its tissue in the training set" in told
    assert "No training patch" not in told
    assert tie in told
