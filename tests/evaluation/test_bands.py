"""Curves against scikit-learn on the same draws; coverage of the band; degenerate labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as reference
from scipy import stats

from sentinode.evaluation.bands import Band, Bands, curve_bands
from sentinode.evaluation.bootstrap import ends
from sentinode.evaluation.clusters import Clusters, draw_seeds
from sentinode.records import read_record, write_record


def study(*, ties: bool = False, seeds: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    slides = np.repeat(np.arange(20), 12)
    labels = rng.integers(0, 2, len(slides))
    p = stats.norm.cdf(rng.normal(0, 0.5, 20)[slides] + 1.2 * labels - 0.6 + rng.normal(size=(seeds, len(slides))))
    return labels, np.round(p, 1) if ties else p, slides


def by_scikit_learn(labels: np.ndarray, p: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Sensitivities, then precisions, on the grid."""
    rates, sensitivities, _ = reference.roc_curve(labels, p, drop_intermediate=False)
    rounded = np.round(rates, 12)
    precision, recall, _ = reference.precision_recall_curve(labels, p)
    # Thresholds rise, so the last that reaches a recall calls the fewest positive; the end (0, 1) is no threshold.
    reaching = [np.flatnonzero(recall[:-1] >= max(at - 1e-9, 1e-9))[-1] for at in grid]
    return np.r_[np.interp(np.round(grid, 12), rounded, sensitivities), precision[reaching]]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("folds", [1, 3])
def test_bands_agree_with_a_loop_of_scikit_learn(ties: bool, folds: int) -> None:
    labels, p, slides = study(ties=ties)
    parts = np.random.default_rng(1).integers(folds, size=p.shape)
    found = curve_bands(
        labels, p, slides, rng=np.random.default_rng(3), replicates=25, points=21, parts=parts, level=0.9
    )
    grid = np.linspace(0, 1, 21)

    def by_seed(weights: np.ndarray) -> np.ndarray:
        def score(seed: int, part: int) -> np.ndarray:
            rows = np.repeat(np.arange(len(labels)), weights * (parts[seed] == part))
            return by_scikit_learn(labels[rows], p[seed, rows], grid)

        return np.array([np.mean([score(seed, part) for part in range(folds)], axis=0) for seed in range(3)])

    rng = np.random.default_rng(3)  # all replicates are one chunk: its draws are made again
    clusters = Clusters.of(slides, labels)
    times, seeds = clusters.patches(clusters.draw(25, rng)), draw_seeds(3, 25, rng)
    observed = by_seed(np.ones(len(labels), int))
    values = np.array([share @ by_seed(weights) for share, weights in zip(seeds, times, strict=True)])
    low, high = ends(values, observed, clusters.design(parts, rng), 0.9, scale="share")
    low[20] = 1  # at a rate of 1 all are called positive
    for k in range(1, 21):  # a sensitivity never falls with the rate, nor do its bounds
        low[k] = max(low[k], low[k - 1])
        high[20 - k] = min(high[20 - k], high[21 - k])
    for band, half in ((found.roc, slice(21)), (found.precision_recall, slice(21, None))):
        assert band.x == pytest.approx(grid)
        assert band.mean == pytest.approx(observed.mean(axis=0)[half])
        assert band.low == pytest.approx(low[half])
        assert band.high == pytest.approx(high[half])


@pytest.mark.parametrize("ties", [False, True])
def test_areas_are_the_metrics(ties: bool) -> None:
    labels, p, slides = study(ties=ties, seeds=1)
    found = curve_bands(labels, p, slides, rng=np.random.default_rng(0), replicates=2, points=20_001)
    auc, precision = reference.roc_auc_score(labels, p[0]), reference.average_precision_score(labels, p[0])
    assert np.trapezoid(found.roc.mean, found.roc.x) == pytest.approx(auc, abs=1e-3)
    assert found.precision_recall.mean[1:].mean() == pytest.approx(precision, abs=1e-3)


def test_curves_by_hand() -> None:
    # From the top: +, then + and - tied, then -; at rate 0 the first alone, then linear to (0.5, 1).
    labels, p = np.array([1, 0, 1, 0]), np.array([[0.9, 0.5, 0.5, 0.1]])
    found = curve_bands(labels, p, np.array(["", "", "", ""]), rng=np.random.default_rng(0), points=5)
    assert found.roc.mean.tolist() == [0.5, 0.75, 1, 1, 1]
    assert found.precision_recall.mean.tolist() == pytest.approx([1, 1, 1, 2 / 3, 2 / 3])


def test_coverage_at_single_rates() -> None:
    rng, rates = np.random.default_rng(5), [2, 5, 10]
    # Scores are normal with the slides' variance in them: sensitivity at a rate f is cdf((shift + quantile(f)) / sd).
    truth = stats.norm.cdf(1.5 / np.sqrt(1.25) + stats.norm.ppf(np.array(rates) / 20))
    covered = []
    for _ in range(150):
        slides = np.repeat(np.arange(40), 15)
        labels = rng.integers(0, 2, len(slides))
        scores = rng.normal(0, 0.5, 40)[slides] + 1.5 * labels + rng.normal(size=len(slides))
        band = curve_bands(labels, stats.norm.cdf(scores)[None], slides, rng=rng, replicates=200, points=21).roc
        covered.append((band.low[rates] <= truth) & (truth <= band.high[rates]))
    shares = 100 * np.mean(covered, axis=0)
    assert (shares >= 91).all()
    assert (shares <= 99).all()


def test_one_class_has_no_curve_and_one_slide_no_band() -> None:
    labels, p, slides = study()
    for degenerate in (np.zeros_like(labels), np.ones_like(labels)):
        found = curve_bands(degenerate, p, slides, rng=np.random.default_rng(0), replicates=5)
        for band in (found.roc, found.precision_recall):
            assert np.isnan([band.mean, band.low, band.high]).all()
    alone = curve_bands(labels, p, np.full(len(labels), "a"), rng=np.random.default_rng(0), replicates=5).roc
    assert not np.isnan(alone.mean).any()
    assert np.isnan([alone.low, alone.high]).all()


def test_a_perfect_curve_has_a_band_and_slides_of_one_class_a_few_have_none() -> None:
    labels, p = np.repeat([0, 1], 20), np.repeat([[0.2, 0.8]], 20, axis=1).reshape(1, -1)
    rng = np.random.default_rng(0)
    found = curve_bands(labels, p, np.repeat(np.arange(10), 4), rng=rng, replicates=50)
    bound = 0.05 ** (1 / 5)  # five slides of each class, all of them right
    for band in (found.roc, found.precision_recall):
        assert (band.mean == 1).all()
        assert (band.high == 1).all()
        assert band.low[:-1] == pytest.approx(bound, abs=0.02)
    assert found.roc.low[-1] == 1
    few = curve_bands(labels, p, np.repeat(np.arange(4), 10), rng=rng, replicates=50).roc
    assert (few.mean == 1).all()
    assert np.isnan([few.low, few.high]).all()


def test_a_record_keeps_five_digits(tmp_path: Path) -> None:
    labels, p, slides = study()
    found = curve_bands(labels, p, slides, rng=np.random.default_rng(0), replicates=50, points=7, level=0.9)
    write_record(tmp_path / "bands.json", found)
    read = read_record(tmp_path / "bands.json", Bands)
    assert read.level == 0.9
    for ours, theirs in ((found.roc, read.roc), (found.precision_recall, read.precision_recall)):
        for name in ("x", "mean", "low", "high"):
            assert getattr(theirs, name) == pytest.approx(getattr(ours, name), abs=5.1e-6)
    nothing = Band(np.array([0.0]), *np.full((3, 1), np.nan))
    write_record(tmp_path / "band.json", nothing)
    kept = json.loads((tmp_path / "band.json").read_text())
    assert kept == {"version": 1, "x": [0.0], "mean": [None], "low": [None], "high": [None]}
    assert np.isnan(read_record(tmp_path / "band.json", Band).low).all()
