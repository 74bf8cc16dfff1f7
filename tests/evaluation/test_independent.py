"""DeLong against pROC's published numbers and the definition over all pairs; McNemar by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2, norm

from sentinode.evaluation import independent

# pROC's aSAH patients (Robin et al. 2011): 41 with a poor outcome, then 72 with a good one. Only the order of scores
# matters to an AUC: wfns are the grades; ndka and s100b are ranks that give back, value for value, the placement of
# every patient published in pROC's own tests (helper-deLongPlacementsCpp-expected.R).
POOR, GOOD = 41, 72
OUTCOME = np.r_[np.ones(POOR, np.int8), np.zeros(GOOD, np.int8)]
WFNS = np.fromstring(
    """
3 2 4 5 5 5 5 2 5 2 1 2 5 4 4 2 5 5 5 2 5 2 5 2 4 5 4 4 1 4 4 2 2 5 5 2 2 5 5 5 5 1 1 1 1 5 1 2 2 1 2 2 1 1 1 2 1 2
1 1 3 4 1 4 1 5 5 1 1 2 4 1 1 2 2 1 2 1 2 2 1 1 1 1 2 1 2 1 1 3 2 4 2 1 4 1 1 5 4 2 2 1 1 1 3 1 2 2 4 4 1 1 1
""",
    sep=" ",
)
S100B = np.fromstring(
    """
13 9 19 12 36 42 40 3 29 7 3 34 32 39 42 24 42 42 42 3 42 26 0 7 22 42 24 42 5 24 13 9 11 22 42 15 42 27 42 42 36 13
15 9 1 37 21 9 9 1 5 1 7 11 3 21 3 11 13 21 1 19 15 31 7 41 37 19 3 35 37 11 5 7 5 1 13 9 15 17 1 1 7 1 7 5 19 7 5
29 11 25 3 9 27 3 1 23 33 9 17 5 15 9 3 1 21 17 37 21 17 41 39
""",
    sep=" ",
)
NDKA = np.fromstring(
    """
42 26 32 40 4 10 20 48 52 48 48 16 36 44 6 8 34 2 56 44 18 20 24 34 46 29 44 8 54 39 4 13 44 4 12 48 22 36 50 20 40
1 9 7 19 5 39 5 43 33 43 41 51 11 5 25 5 5 55 27 15 15 43 3 7 5 13 31 7 37 49 7 5 25 11 7 31 47 45 17 23 53 5 41 15
19 19 37 3 41 25 11 19 43 19 23 7 15 19 47 9 25 29 49 21 25 11 47 17 35 45 5 33
""",
    sep=" ",
)


@pytest.mark.parametrize(
    ("a", "b", "p_value"),
    [
        (WFNS, S100B, 0.0271757822291882),
        (WFNS, NDKA, 0.00514557970691098),
        (NDKA, S100B, -0.164295175223054),
    ],
)
def test_agreement_with_proc(a: np.ndarray, b: np.ndarray, p_value: float) -> None:
    # Published in pROC's tests/testthat/test-roc.test.R; the sign is that of its z.
    assert independent.delong(OUTCOME, a, b) == pytest.approx(p_value, rel=1e-10)
    assert independent.delong(OUTCOME, b, a) == pytest.approx(-p_value, rel=1e-10)


@settings(max_examples=30)
@given(st.integers(0, 100_000), st.booleans())
def test_agreement_with_the_definition_over_all_pairs(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 0, 1, 1, rng.integers(0, 2, rng.integers(3, 40))]
    scores = rng.normal(labels, 1, (2, len(labels)))
    scores = np.round(scores) if ties else scores
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    pairs = (np.sign(positive[:, :, None] - negative[:, None]) + 1) / 2
    covariance = np.cov(pairs.mean(axis=2)) / positive.shape[1] + np.cov(pairs.mean(axis=1)) / negative.shape[1]
    variance = covariance.trace() - 2 * covariance[0, 1]
    difference = np.subtract(*(reference.roc_auc_score(labels, one) for one in scores))
    if variance > 1e-9 and abs(difference) > 1e-9:
        expected = np.sign(difference) * 2 * norm.sf(abs(difference) / np.sqrt(variance))
        assert independent.delong(labels, *scores) == pytest.approx(expected, rel=1e-6)


def test_identical_curves_and_missing_classes() -> None:
    assert independent.delong(OUTCOME, WFNS, WFNS) == 1.0
    assert np.isnan(independent.delong(np.ones(4, int), np.arange(4.0), np.arange(4.0)))


def errors(only_a_right: int, only_b_right: int, both_right: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = (only_a_right, only_b_right, both_right)
    said_a, said_b = np.repeat([True, False, True], counts), np.repeat([False, True, True], counts)
    return np.ones(sum(counts), np.int8), said_a, said_b


def test_mcnemar_by_hand() -> None:
    # Agresti (2013), approval of the prime minister: 150 and 86 changed their minds; (150 - 86 - 1)^2 / 236 = 16.8.
    assert independent.mcnemar(*errors(86, 150, 794 + 570)) == pytest.approx(-4.115e-5, rel=1e-3)
    # 9 of 10: two-sided binomial, 2 (1 + 10) / 2^10.
    assert independent.mcnemar(*errors(1, 9)) == pytest.approx(-22 / 1024)
    assert independent.mcnemar(*errors(9, 1)) == pytest.approx(22 / 1024)
    assert independent.mcnemar(*errors(0, 0)) == 1.0


def test_mcnemar_switches_at_25_discordant_patches() -> None:
    exact, approximate = independent.mcnemar(*errors(16, 8)), independent.mcnemar(*errors(16, 9))
    assert exact == pytest.approx(binomtest(16, 24).pvalue)
    assert approximate == pytest.approx(chi2.sf(36 / 25, 1))
    labels, said_a, said_b = errors(20, 30)
    assert independent.mcnemar(1 - labels, ~said_a, ~said_b) == independent.mcnemar(labels, said_a, said_b)
