"""The page's words on concepts: each sentence for the record that it is true of, and not for another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sentinode.audit.concepts import CONCEPTS
from sentinode.evaluation.bootstrap import Interval, PairedInterval
from sentinode.explain.concepts import ConceptCurve, ConceptReport, ConceptShare, Matched, MatchedBin
from sentinode.report.sections.concepts import concepts_in_words, concepts_part


def around(value: float, by: float = 0.02) -> Interval:
    return Interval(value, value - by, value + by, 0.95)


def matched(within: float, gain: float, by: float = 0.02) -> Matched:
    bins = (MatchedBin(0.0, 1.0, 100, 40, around(within)),)
    return Matched("concepts", bins, around(within, by), around(0.55), around(gain, by))


RISING = np.linspace(-1, 1, 25)
REPORT = ConceptReport(
    model="run",
    patches=1000,
    positive=400,
    clusters=20,
    cluster_kind="slide",
    folds=10,
    r2=around(0.8),
    colour_r2=around(0.5),
    shares=tuple(ConceptShare(of.name, around(0.1), around(0.3)) for of in CONCEPTS),
    curves=(
        ConceptCurve("eosin", RISING, 2 * RISING, 2 * RISING - 0.1, 2 * RISING + 0.1),
        ConceptCurve("centre_eosin", RISING, -RISING, -RISING - 0.1, -RISING + 0.1),
        ConceptCurve("brightness", RISING, 1 - RISING**2, 0.9 - RISING**2, 1.1 - RISING**2),
        ConceptCurve("sharpness", RISING, RISING / 9, RISING / 9 - 1, RISING / 9 + 1),
    ),
    auc=around(0.9),
    concepts_auc=around(0.8),
    colour_auc=around(0.7),
    gain=PairedInterval(0.1, 0.08, 0.12, 0.95, 1.0, 0.001),
    matched=(matched(0.85, 0.3),),
)


def test_how_much_is_explained_is_said_with_its_interval() -> None:
    told = concepts_in_words(REPORT)
    assert told.startswith("Concepts explain 80% of the variance of its logit on other slides (78% to 82%)")
    assert "mostly a measure" not in told


def test_a_network_that_is_a_measure_of_one_concept_is_called_so() -> None:
    shares = [replace(of, alone=around(0.78)) if of.concept == "brightness" else of for of in REPORT.shares]
    told = concepts_in_words(replace(REPORT, shares=tuple(shares)))
    assert "It is mostly a measure of brightness, which alone explains 78%." in told
    low = [replace(of, alone=around(0.29)) for of in shares]
    assert "mostly a measure" not in concepts_in_words(replace(REPORT, r2=around(0.3), shares=tuple(low)))


def test_of_equal_logits_nothing_is_explained() -> None:
    told = concepts_in_words(replace(REPORT, r2=around(float("nan"))))
    assert told == "Its logit is the same for all patches: there is nothing to explain."


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.08, 0.12), "It tells tumour better than"),
        ((-0.12, -0.08), "It tells tumour worse than"),
        ((-0.1, 0.1), "not shown to tell tumour better"),
        ((float("nan"), float("nan")), "not shown to tell tumour better"),
    ],
)
def test_network_and_rival_are_told_apart_by_the_interval(ends: tuple[float, float], said: str) -> None:
    gain = replace(REPORT.gain, low=ends[0], high=ends[1])
    assert said in concepts_in_words(replace(REPORT, gain=gain))


@pytest.mark.parametrize(
    ("found", "knows"),
    [
        (matched(0.85, 0.3), True),
        (matched(0.85, 0.3, by=0.4), False),
        (matched(0.6, 0.01), False),
        (matched(0.51, 0.3), False),
        (replace(matched(0.85, 0.3), gain=around(float("nan"))), False),
    ],
)
def test_knowing_more_asks_for_both_intervals(found: Matched, knows: bool) -> None:
    told = concepts_in_words(replace(REPORT, matched=(found,)))
    assert ("It knows more than they do" in told) == knows
    assert ("nothing more is shown to be known" in told) != knows


def test_curves_say_what_they_do_and_the_steepest_come_first() -> None:
    part = concepts_part(REPORT)
    assert [(chart.title, chart.caption) for chart in part.curves] == [
        ("Eosin", "Rises by 4.0 logits, the others held."),
        ("Eosin of the centre", "Falls by 2.0 logits, the others held."),
        ("Brightness", "Highest at 0; from end to end it changes by +0.0 logits."),
        ("Sharpness", "Not told apart from none."),
    ]
    assert all("<svg" in chart.svg for chart in part.curves)


def test_tables_have_a_row_for_each_concept_and_unknown_ends_are_said() -> None:
    unknown = Interval(0.7, float("nan"), float("nan"), 0.95, reason="slides with tumour: 2")
    part = concepts_part(replace(REPORT, auc=unknown))
    assert [row[0] for row in part.shares.rows] == ["all concepts", "colour", *(of.title for of in CONCEPTS)]
    assert part.known.rows[0] == ["the network", "0.700 (unknown)"]
    assert part.matched.rows[0] == ["what concepts say", "0.850 (0.830 to 0.870)", "0.550 (0.530 to 0.570)",
                                    "+0.300 (+0.280 to +0.320)"]  # fmt: skip
    assert len(part.meanings) == len(CONCEPTS)
