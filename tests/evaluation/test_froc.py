"""FROC by hand-computed cases and by a plain implementation of the same rules; intervals that draw slides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from sentinode.evaluation.froc import (
    BINS,
    RATES,
    SLIDE_SCORES,
    SlideOutcome,
    binned,
    kappa,
    official_froc,
    sensitivities,
    slide_replicates,
)

NO_CELLS = np.zeros((2, BINS), np.int64)


def slide(
    name: str, false: list[float], lesions: list[float] | None = None, *, score: float = 0.5, isolated: int = 0
) -> SlideOutcome:
    found = np.array(lesions or [])
    dice = math.nan if lesions is None else 0.5
    return SlideOutcome(name, lesions is not None, score, np.array(false), found, NO_CELLS, dice, isolated)


BY_HAND = [
    slide("a", [0.9, 0.2], [0.8, 0.0]),
    slide("b", [0.7, 0.6, 0.5], [0.95, 0.6]),
    slide("c", [0.3]),
    slide("d", []),
]


def test_sensitivities_by_hand() -> None:
    """Falling: TP .95, FP .9, TP .8, FP .7, TP and FP .6, FP .5, .3, .2; 4 lesions, 4 slides.

    1/4 false positive per slide is one: hits above .7 are two of four. With the third, at .6, comes a third hit.
    """
    assert sensitivities(BY_HAND, np.ones((1, 4)))[0].tolist() == [0.5, 0.5, 0.75, 0.75, 0.75, 0.75]


def test_a_slide_that_counts_twice_is_two_slides() -> None:
    twice = sensitivities(BY_HAND, np.array([[2.0, 1, 0, 1]]))
    assert np.array_equal(twice, sensitivities([BY_HAND[0], BY_HAND[0], BY_HAND[1], BY_HAND[3]], np.ones((1, 4))))
    assert np.isnan(sensitivities(BY_HAND, np.array([[0.0, 0, 1, 1]]))).all()


def test_the_challenges_rules_by_hand() -> None:
    """Thresholds rise from .2, for 0, of the lesion that was missed, is the smallest and skipped.

    At .2, .3, .5, .6, .7, .8, .9, .95: false positives per slide 6/4, 5/4, 1, 3/4, 1/2, 1/4, 1/4, 0, and hits 3, 3, 3,
    3, 2, 2, 1, 1. At 1/4, interpolation takes the last of the points with that rate as they fall, a share of 2/4.
    """
    at, mean = official_froc(BY_HAND)
    assert at.tolist() == pytest.approx([0.5, 0.5, 0.75, 0.75, 0.75, 0.75], abs=1e-12)
    assert mean == pytest.approx(np.mean(at), abs=1e-12)


def test_the_smallest_probability_is_no_threshold_unless_something_was_missed() -> None:
    """.4 is skipped where nothing has 0, so its false positive is never counted; a lesion that does not count has 0."""
    alone = [slide("a", [0.4], [0.9]), slide("b", [0.6])]
    # thresholds .6 and .9: rates 1/2, 0; both find the lesion.
    assert official_froc(alone)[0].tolist() == [1, 1, 1, 1, 1, 1]
    hidden = [slide("a", [0.8], [0.4]), slide("b", [])]
    assert official_froc(hidden)[0].tolist() == [0, 0, 0, 0, 0, 0]
    beside = [slide("a", [0.8], [0.4], isolated=1), slide("b", [])]
    assert official_froc(beside)[0].tolist() == [0, 1, 1, 1, 1, 1]


def plain_official(slides: list[SlideOutcome]) -> list[float]:
    """The same rules, one loop after the other."""
    false = [p for s in slides for p in s.false_positives]
    hits = [p for s in slides for p in s.lesions]
    everything = sorted(set(false + hits + [0.0 for s in slides for _ in range(s.isolated)]))
    points = []
    for threshold in everything[1:]:
        wrong = sum(p >= threshold for p in false) / len(slides)
        points.append((wrong, sum(p >= threshold for p in hits) / len(hits)))
    points.append((0.0, 0.0))
    points.reverse()
    found = []
    for rate in RATES:
        before = [point for point in points if point[0] <= rate]
        after = [point for point in points if point[0] > rate]
        if not after:
            found.append(points[-1][1])
            continue
        (x0, y0), (x1, y1) = before[-1], after[0]
        found.append(y0 + (y1 - y0) * (rate - x0) / (x1 - x0))
    return found


probabilities = st.integers(1, 20).map(lambda n: n / 20)


@given(
    st.lists(
        st.tuples(st.lists(probabilities, max_size=12), st.lists(st.one_of(st.just(0.0), probabilities), max_size=3)),
        min_size=1,
        max_size=6,
    ).filter(lambda slides: any(lesions for _, lesions in slides)),
    st.integers(0, 2),
)
def test_the_challenges_rules_are_those_written_out(
    slides: list[tuple[list[float], list[float]]], isolated: int
) -> None:
    made = [slide(str(k), false, lesions, isolated=isolated) for k, (false, lesions) in enumerate(slides)]
    assert official_froc(made)[0].tolist() == pytest.approx(plain_official(made), abs=1e-12)


def test_every_score_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    outcomes = []
    for k in range(24):
        tumour = k % 2 == 0
        cells = np.stack([np.bincount(rng.integers(0, 3000, 200), minlength=BINS), np.zeros(BINS, np.int64)])
        if tumour:
            cells[1] = np.bincount(rng.integers(1500, BINS, 50), minlength=BINS)
        lesions = rng.uniform(0.4, 1, 2) if tumour else np.empty(0)
        score = rng.uniform(0.3 if tumour else 0, 1 if tumour else 0.8)
        outcomes.append(
            SlideOutcome(
                f"s{k}",
                tumour,
                score,
                rng.uniform(0, 0.9, 5),
                lesions,
                cells,
                rng.uniform(0.4, 0.9) if tumour else math.nan,
            )
        )
    found = slide_replicates([outcomes], replicates=300)
    labels, scores = [o.tumour for o in outcomes], [o.score for o in outcomes]
    assert found.interval(0, "slide_auc").estimate == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    counts = sum(o.cells for o in outcomes)
    truth = np.repeat([0, 1], BINS)
    of_cells = roc_auc_score(truth, np.tile(np.arange(BINS), 2), sample_weight=counts.ravel())
    assert found.interval(0, "cell_auc").estimate == pytest.approx(of_cells, abs=1e-9)
    assert found.interval(0, "dice").estimate == pytest.approx(np.nanmean([o.dice for o in outcomes]))
    for name in SLIDE_SCORES:
        interval = found.interval(0, name)
        assert interval.low <= interval.estimate <= interval.high
        assert interval.low < interval.high


def test_intervals_are_unknown_with_two_slides_of_a_class() -> None:
    few = [slide("a", [0.1], [0.9]), slide("b", [0.2], [0.8]), slide("c", [0.3]), slide("d", []), slide("e", [])]
    interval = slide_replicates([few], replicates=50).interval(0, "froc")
    assert math.isnan(interval.low)
    assert "slides with tumour: 2" in str(interval.reason)


def test_two_models_are_compared_on_the_same_draws() -> None:
    rng = np.random.default_rng(1)
    weak, strong = [], []
    for k in range(20):
        lesions = rng.uniform(0.2, 0.7, 2)
        false = rng.uniform(0, 0.6, 6)
        weak.append(slide(f"s{k}", false.tolist(), lesions.tolist() if k % 2 else None))
        strong.append(slide(f"s{k}", false.tolist(), (lesions + 0.3).tolist() if k % 2 else None))
    both = slide_replicates([strong, weak], replicates=400)
    difference = both.difference(0, 1, "froc")
    assert difference.low > 0
    assert difference.p_value < 0.05
    same = slide_replicates([weak, weak], replicates=50).difference(0, 1, "froc")
    assert same.estimate == 0
    assert same.still
    with pytest.raises(ValueError, match="same slides"):
        slide_replicates([strong, weak[::-1]])


def test_cells_are_counted_in_equal_bins() -> None:
    found = binned(np.array([0.0, 1.0, 0.5, 0.5], np.float32), np.array([False, True, True, False]))
    assert found.sum() == 4
    assert (found[0, 0], found[1, BINS - 1], found[1, BINS // 2], found[0, BINS // 2]) == (1, 1, 1, 1)


def test_kappa_is_cohens_with_quadratic_weights() -> None:
    order = ["a", "b", "c", "d"]
    rng = np.random.default_rng(0)
    truth, said = ([order[k] for k in rng.integers(0, 4, 40)] for _ in range(2))
    assert kappa(truth, said, order) == pytest.approx(cohen_kappa_score(truth, said, labels=order, weights="quadratic"))
    assert kappa(truth, truth, order) == 1
    assert math.isnan(kappa(["a", "a"], ["a", "a"], order))
