"""Scores by subgroup are the scores of those patches; parts of a quantity are named by what they hold."""

from __future__ import annotations

import numpy as np
import pytest

from sentinode.evaluation import metrics
from sentinode.evaluation.subgroups import quantile_groups, scores_by_subgroup


def test_each_line_holds_the_scores_of_its_patches() -> None:
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 200).astype(np.int8), rng.random(200)
    names = np.array(["b", "a", "a", ""] * 50)
    table = scores_by_subgroup(labels, p, names, threshold=0.3, few=60)
    assert table["subgroup"].tolist() == ["unknown", "a", "b"]
    assert table["patches"].tolist() == [50, 100, 50]
    assert table["flag"].tolist() == ["few patches", "", "few patches"]
    own = names == "a"
    line = table.set_index("subgroup").loc["a"]
    assert line["auc"] == metrics.auc(labels[own], p[own])
    assert line["positive"] == labels[own].sum()
    assert line["accuracy"] == metrics.accuracy(labels[own], p[own], 0.3)
    assert line["sensitivity"] == metrics.confusion(labels[own], p[own], 0.3).sensitivity
    assert line["specificity"] == metrics.confusion(labels[own], p[own], 0.3).specificity
    assert line["log_loss"] == metrics.log_loss(labels[own], p[own])


def test_one_class_has_no_auc_and_is_flagged() -> None:
    labels, p = np.array([0, 0, 0, 1, 0]), np.array([0.1, 0.2, 0.7, 0.6, 0.3])
    table = scores_by_subgroup(labels, p, np.array(["x", "x", "x", "y", "y"]), few=3)
    x, y = table.to_dict("records")
    assert np.isnan(x["auc"])
    assert np.isnan(x["sensitivity"])
    assert x["specificity"] == pytest.approx(2 / 3)
    assert (x["flag"], y["flag"]) == ("one class only", "few patches")
    assert y["auc"] == 1.0


def test_parts_have_equal_size_and_say_their_bounds() -> None:
    values = np.r_[np.arange(34, 114, dtype=float), np.nan]
    names = quantile_groups("brightness", np.random.default_rng(0).permutation(values))
    found = dict(zip(*np.unique(names, return_counts=True), strict=True))
    assert found == {
        "": 1,
        "brightness 1 of 4 (34-53)": 20,
        "brightness 2 of 4 (54-73)": 20,
        "brightness 3 of 4 (74-93)": 20,
        "brightness 4 of 4 (94-113)": 20,
    }


def test_equal_values_stay_together() -> None:
    fractions = np.array([0.0] * 7 + [0.25, 0.5, 1.0])
    names = quantile_groups("tumour fraction", fractions)
    assert names[0] == "tumour fraction 1 of 2 (0-0)"
    assert (names[:7] == names[0]).all()
    assert names[7:].tolist() == ["tumour fraction 2 of 2 (0.25-1)"] * 3
    assert set(quantile_groups("density", np.full(3, 0.123456))) == {"density 1 of 1 (0.123-0.123)"}
    assert quantile_groups("density", np.arange(4, dtype=np.int16), parts=2)[0] == "density 1 of 2 (0-1)"
    assert quantile_groups("density", np.full(2, np.nan)).tolist() == ["", ""]


def test_many_parts_sort_by_number() -> None:
    names = quantile_groups("brightness", np.arange(100.0), parts=12)
    assert list(np.unique(names)) == list(dict.fromkeys(names.tolist()))
