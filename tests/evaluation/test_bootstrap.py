"""Weighted metrics against scikit-learn; draws by meaning; coverage of the truth on clustered patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from sentinode.errors import ConfigError
from sentinode.evaluation import metrics
from sentinode.evaluation.bootstrap import METRICS, Replicates, bootstrap, ends, mean_interval
from sentinode.evaluation.clusters import ClassClusters, Clusters, Design, draw_seeds
from sentinode.evaluation.weighted import Prediction, Weights


def weighted_scores(labels: np.ndarray, p: np.ndarray, weights: np.ndarray, metrics: Sequence[str]) -> np.ndarray:
    order = np.argsort(labels != 1, kind="stable")  # positives first
    prediction = Prediction.of(labels[order], p[order], metrics)
    return prediction.measure(Weights.of(weights[:, order], int(np.sum(labels == 1))))


def example(seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, rng.integers(3, 120))].astype(np.int8)
    probabilities = np.clip(rng.normal(0.4 + 0.2 * labels, 0.25), 0, 1)
    weights = rng.integers(0, 4, (3, len(labels)))
    weights[:, :2] = 1  # both classes in every replicate
    return labels, np.round(probabilities, 1) if ties else probabilities, weights


@settings(max_examples=25)
@given(st.integers(0, 100_000), st.booleans())
def test_weighted_metrics_agree_with_scikit_learn(seed: int, ties: bool) -> None:
    labels, p, weights = example(seed, ties=ties)
    inside = np.clip(p, 1e-7, 1 - 1e-7)
    found = weighted_scores(labels, p, weights, METRICS)
    for row, w in zip(found, weights, strict=True):
        expected = {
            "auc": reference.roc_auc_score(labels, p, sample_weight=w),
            "average_precision": reference.average_precision_score(labels, p, sample_weight=w),
            "accuracy": reference.accuracy_score(labels, p > 0.5, sample_weight=w),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, p > 0.5, sample_weight=w),
            "brier_score": reference.brier_score_loss(labels, p, sample_weight=w),
            "log_loss": reference.log_loss(labels, inside, sample_weight=w),
        }
        got = dict(zip(METRICS, row.tolist(), strict=True))
        assert {name: got[name] for name in expected} == pytest.approx(expected, abs=2e-6)


@settings(max_examples=40)
@given(st.integers(0, 100_000), st.booleans())
def test_a_weight_is_a_number_of_copies(seed: int, ties: bool) -> None:
    labels, p, weights = example(seed, ties=ties)
    weights[0] = 1
    names = (*METRICS, "sensitivity", "specificity")
    for row, w in zip(weighted_scores(labels, p, weights, names), weights, strict=True):
        copied = metrics.scores(np.repeat(labels, w), np.repeat(p, w))
        assert row.tolist() == pytest.approx([copied[name] for name in names], abs=2e-6)


def test_a_subset_of_metrics_is_the_same() -> None:
    labels, p, weights = example(3, ties=True)
    everything = weighted_scores(labels, p, weights, METRICS)
    for column, metric in enumerate(METRICS):
        assert weighted_scores(labels, p, weights, [metric])[:, 0] == pytest.approx(everything[:, column])


def study(seed: int = 0, clusters: int = 30, patches: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two variants of three seeds; the second variant has noise added."""
    rng = np.random.default_rng(seed)
    slides = np.repeat([f"slide{k}" for k in range(clusters)], patches)
    labels = rng.integers(0, 2, len(slides))
    logits = np.repeat(rng.normal(0, 0.5, clusters), patches) + 2 * labels - 1 + rng.normal(0, 1, (2, 3, len(slides)))
    logits[1] += rng.normal(0, 2, logits[1].shape)
    return labels, 1 / (1 + np.exp(-logits)), slides


def test_observed_is_the_mean_over_seeds() -> None:
    labels, p, slides = study()
    found = bootstrap(labels, p, slides, rng=np.random.default_rng(0), replicates=200)
    for variant in range(2):
        each = [metrics.scores(labels, seed) for seed in p[variant]]
        for metric in METRICS:
            interval = found.interval(variant, metric)
            assert interval.estimate == pytest.approx(np.mean([s[metric] for s in each]))
            assert interval.low < interval.high
    assert found.values.shape == (200, 2, 8)
    assert found.left_out == 0


def test_the_seed_alone_decides() -> None:
    labels, p, slides = study(patches=2000)  # several chunks

    def drawn(seed: int, workers: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        found = bootstrap(labels, p, slides, metrics=["auc"], replicates=40, rng=rng, workers=workers)
        return found.values

    assert np.array_equal(drawn(7, workers=1), drawn(7, workers=3))
    assert not np.array_equal(drawn(7, workers=1), drawn(8, workers=1))


def test_variants_are_paired() -> None:
    labels, p, slides = study()
    p[1] = p[0]
    found = bootstrap(labels, p, slides, rng=np.random.default_rng(0), replicates=50)
    assert np.array_equal(found.values[:, 0], found.values[:, 1])
    same = found.difference(0, 1, "auc")
    assert (same.estimate, same.share_a_better, same.still) == (0, 0.5, True)


def test_better_is_lower_for_losses() -> None:
    labels, p, slides = study()
    found = bootstrap(labels, p, slides, rng=np.random.default_rng(0), replicates=200)
    for metric in METRICS:
        difference = found.difference(0, 1, metric)
        assert (difference.estimate < 0) == (metric in metrics.LOWER_IS_BETTER)
        assert difference.share_a_better > 0.95
        assert found.difference(1, 0, metric).share_a_better == pytest.approx(1 - difference.share_a_better)


def test_pairing_narrows_the_difference() -> None:
    labels, p, slides = study()
    p[1] = np.clip(p[0] + 0.02, 0, 1)
    found = bootstrap(labels, p, slides, rng=np.random.default_rng(0), replicates=300)
    alone, difference = found.interval(0, "brier_score"), found.difference(0, 1, "brier_score")
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)


def test_clusters_stay_whole_and_the_unnamed_are_their_own() -> None:
    # Slide a is all wrong, slide b all right: accuracy can only be 0, 1/2 or 1 of their 4 patches.
    labels, p = np.array([0, 1, 0, 1]), np.array([0.9, 0.1, 0.1, 0.9])
    named = bootstrap(labels, p[None, None], np.array(["a", "a", "b", "b"]), rng=np.random.default_rng(0))
    assert set(named.values[:, 0, METRICS.index("accuracy")]) == {0, 0.5, 1}
    assert (named.clusters, named.left_out) == (2, 0)
    unnamed = bootstrap(labels, p[None, None], np.array(["", "", "b", "b"]), rng=np.random.default_rng(0))
    assert (unnamed.clusters, unnamed.left_out) == (3, 0)


def design_of(clusters: float) -> Design:
    """So many equal slides that hold both classes."""
    each = tuple(ClassClusters(label, round(clusters), float(clusters)) for label in (0, 1))
    return Design(float(clusters - 1), clusters / (clusters - 1), each)


def test_replicates_are_the_ways_to_draw_the_clusters() -> None:
    labels, p, slides = study(clusters=3)
    found = bootstrap(labels, p[:, :1], slides, metrics=["brier_score"], rng=np.random.default_rng(0))
    assert len(np.unique(found.values[:, 0, 0].round(6))) == 10


def test_seeds_add_their_spread() -> None:
    labels, p, slides = study()
    p[0, 1:] = p[0, 0]
    p[0, 2] = 1 - p[0, 0]  # one of three seeds is upside down
    found = bootstrap(labels, p, slides, metrics=["auc"], rng=np.random.default_rng(0))
    one = found.values[:, 0, 0]
    assert one.max() > 0.8  # that seed was not drawn: (2/3)^3 of the replicates
    assert one.min() < 0.2  # it was drawn three times: 1/27
    assert np.mean(one > 0.8) == pytest.approx(8 / 27, abs=0.05)


def test_few_clusters_widen_and_fewer_say_nothing() -> None:
    values = np.random.default_rng(0).normal(size=(2000, 1))
    for clusters, t in ((10_000, 1.960), (10, 2.262), (3, 4.303)):  # with 9,999, 9 and 2 degrees of freedom
        low, high = ends(values, np.zeros((1, 1)), design_of(clusters), 0.95, scale="difference")
        assert high[0] - low[0] == pytest.approx(2 * t * values.std() * np.sqrt(clusters / (clusters - 1)), rel=1e-3)
    assert np.isnan(ends(values, np.zeros((1, 1)), design_of(2), 0.95, scale="difference")).all()
    for slides_of, reason in ((1, "slides with tumour: 1; at least 3"), (2, "slides with tumour: 2; at least 3")):
        labels, p, slides = study(clusters=slides_of)
        found = bootstrap(labels, p, slides, replicates=20, rng=np.random.default_rng(0))
        for metric in METRICS:
            for interval in (found.interval(0, metric), found.difference(0, 1, metric)):
                assert np.isnan([interval.low, interval.high]).all()
                assert not np.isnan(interval.estimate)
                assert interval.reason is not None
                assert reason in interval.reason
        assert np.isnan(found.difference(0, 1, "auc").p_value)


def test_few_seeds_widen() -> None:
    # All the variance is between seeds: Student's interval of their mean is the answer.
    by_seed = np.array([[-0.2], [0.0], [0.3]])
    values = draw_seeds(3, 20_000, np.random.default_rng(0)) @ by_seed
    error = by_seed.std(ddof=1) / np.sqrt(3)
    assert values.std() == pytest.approx(error, rel=0.02)
    low, high = ends(values, by_seed, design_of(1e6), 0.95, scale="difference")
    assert high[0] - low[0] == pytest.approx(2 * 4.303 * error, rel=0.05)  # t with 2 degrees of freedom
    # Seeds that agree cost nothing.
    clusters = np.random.default_rng(0).normal(size=(2000, 1))
    three, one = (
        np.ravel(ends(clusters, np.zeros((seeds, 1)), design_of(50), 0.95, scale="difference")) for seeds in (3, 1)
    )
    assert three == pytest.approx(one)


def test_a_score_is_told_on_its_probit_and_a_loss_on_its_logarithm() -> None:
    far = stats.t.ppf(0.975, 19) * np.sqrt(20 / 19)
    around = np.random.default_rng(0).normal(size=(4000, 1))
    share = stats.norm.cdf(1.5 + 0.3 * around)
    low, high = ends(share, np.array([[stats.norm.cdf(1.5)]]), design_of(20), 0.95, scale="share")
    assert stats.norm.ppf([low[0], high[0]]) == pytest.approx([1.5 - 0.3 * far, 1.5 + 0.3 * far], rel=0.03)
    low, high = ends(np.exp(0.3 * around), np.ones((1, 1)), design_of(20), 0.95, scale="positive")
    assert np.log([low[0], high[0]]) == pytest.approx([-0.3 * far, 0.3 * far], rel=0.03)


def perfect(slides: int, patches: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A variant that is right everywhere, and sure of it."""
    labels, names = np.tile([0, 1], slides * patches // 2), np.repeat(np.arange(slides), patches)
    return labels, np.where(labels == 1, 1.0, 0.0)[None, None], names


@pytest.mark.parametrize("slides", [3, 10, 40])
def test_a_perfect_score_is_bounded_by_how_many_slides_were_looked_at(slides: int) -> None:
    labels, p, names = perfect(slides)
    found = bootstrap(labels, p, names, rng=np.random.default_rng(0), replicates=200)
    bound = 0.05 ** (1 / slides)  # Clopper and Pearson: as many successes, one side; near 1 - 3 / n
    for metric in ("auc", "average_precision", "accuracy", "balanced_accuracy", "sensitivity_at_95_specificity"):
        interval = found.interval(0, metric)
        assert (interval.estimate, interval.high) == (1, 1)
        assert interval.low == pytest.approx(bound, abs=0.01)
    for metric in ("brier_score", "ece"):
        interval = found.interval(0, metric)
        assert interval.low == 0
        assert interval.high == pytest.approx(1 - bound, abs=0.01)
    assert found.interval(0, "auc", 0.9).low == pytest.approx(0.1 ** (1 / slides), abs=0.01)


def test_a_perfect_variant_is_not_sure_to_be_better() -> None:
    labels, p, names = perfect(10)
    rng = np.random.default_rng(1)
    worse = np.where(rng.random(labels.shape) < 0.01, 1 - p[0, 0], p[0, 0])
    found = bootstrap(labels, np.array([p[0], worse[None], p[0] * 0.9]), names, rng=rng, replicates=300)
    difference = found.difference(0, 1, "auc")
    assert difference.low < 0 < difference.high
    assert difference.p_value > 0.05
    both = found.difference(0, 2, "auc")  # both perfect: no difference seen, and none ruled out
    assert both.estimate == 0
    assert both.low == pytest.approx(0.05**0.1 - 1, abs=0.01)
    assert both.high == -both.low
    assert both.p_value == 1


def test_a_score_that_is_nearly_perfect_is_no_surer_than_a_perfect_one_on_few_slides() -> None:
    labels, p, names = perfect(10)
    p[0, 0, 0] = 0.6  # one negative of one slide is called positive
    accuracy = bootstrap(labels, p, names, rng=np.random.default_rng(0)).interval(0, "accuracy")
    assert accuracy.high == 1
    assert accuracy.low < accuracy.estimate - 0.01


@pytest.mark.parametrize("label", [0, 1])
def test_of_one_class_what_is_defined_has_an_interval(label: int) -> None:
    _, p, slides = study()
    found = bootstrap(np.full(len(slides), label), p, slides, rng=np.random.default_rng(0), replicates=200)
    for metric in ("accuracy", "brier_score", "log_loss", "ece"):
        interval = found.interval(0, metric)
        assert interval.low < interval.estimate < interval.high
        assert interval.reason is None
    auc = found.interval(0, "auc")
    assert np.isnan([auc.estimate, auc.low, auc.high]).all()
    assert auc.reason == "undefined: all patches are of one class"
    assert found.left_out == 0


def test_intervals_stay_in_the_range_of_their_metric() -> None:
    labels, p, slides = study()
    p[0, 0], p[0, 1:] = labels, 1 - labels
    found = bootstrap(labels, p, slides, rng=np.random.default_rng(0), replicates=100)
    assert (found.interval(0, "auc").low, found.interval(0, "auc").high) == (0, 1)
    assert found.difference(0, 1, "auc").low == -1
    assert found.interval(0, "log_loss").high > 1


def folds_of(slides: np.ndarray, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Three folds of whole slides."""
    names, at = np.unique(slides, return_inverse=True)
    return rng.permuted(np.broadcast_to(np.arange(len(names)) % 3, (*shape, len(names))), axis=-1)[..., at]


def by_scikit_learn(labels: np.ndarray, p: np.ndarray) -> list[float]:
    """The metrics in order; the two that scikit-learn lacks are those of `metrics`, tested there."""
    return [
        reference.roc_auc_score(labels, p),
        reference.average_precision_score(labels, p),
        reference.accuracy_score(labels, p > 0.5),
        reference.balanced_accuracy_score(labels, p > 0.5),
        metrics.sensitivity_at_specificity(labels, p),
        reference.brier_score_loss(labels, p),
        reference.log_loss(labels, np.clip(p, 1e-7, 1 - 1e-7)),
        metrics.expected_calibration_error(labels, p),
    ]


@pytest.mark.parametrize("shared", [True, False])
def test_parts_are_scored_apart(shared: bool) -> None:
    labels, p, slides = study(clusters=24, patches=8)
    rng = np.random.default_rng(5)
    parts = np.repeat(folds_of(slides, rng, (1, 3)), 2, axis=0) if shared else folds_of(slides, rng, (2, 3))
    found = bootstrap(labels, p, slides, parts=parts, replicates=5, rng=np.random.default_rng(1))
    # All replicates are one chunk, so that its draws can be made again.
    own_rng = np.random.default_rng(1).spawn(1)[0]
    clusters = Clusters.of(slides, labels)
    times = clusters.patches(clusters.draw(5, own_rng))
    seeds = draw_seeds(3, 5, own_rng)

    def score(variant: int, seed: int, weights: np.ndarray) -> np.ndarray:
        rows = [
            np.repeat(np.flatnonzero(inside), weights[inside]) for inside in parts[variant, seed] == [[0], [1], [2]]
        ]
        return np.mean([by_scikit_learn(labels[part], p[variant, seed, part]) for part in rows], axis=0)

    for variant in range(2):
        plain = [score(variant, seed, np.ones(len(labels), int)) for seed in range(3)]
        assert found.by_seed[variant] == pytest.approx(np.array(plain))
        for replicate in range(5):
            by_seed = [score(variant, seed, times[replicate]) for seed in range(3)]
            assert found.values[replicate, variant] == pytest.approx(seeds[replicate] @ by_seed, abs=5e-6)


def test_one_part_is_no_parts() -> None:
    labels, p, slides = study()
    none, one = (
        bootstrap(labels, p, slides, parts=parts, replicates=20, rng=np.random.default_rng(0))
        for parts in (None, np.full(p.shape, 4))
    )
    assert np.array_equal(none.values, one.values)
    assert np.array_equal(none.by_seed, one.by_seed)


def test_parts_on_other_scales_are_not_ranked_together() -> None:
    labels, slides = np.tile([0, 1], 60), np.repeat(np.arange(30), 4)
    fold = np.repeat([0, 1], 60)
    p = np.where(fold == 0, 0.1, 0.6) + 0.3 * labels  # perfect within a fold, not across
    apart = bootstrap(labels, p[None, None], slides, parts=fold[None, None], rng=np.random.default_rng(0))
    together = bootstrap(labels, p[None, None], slides, rng=np.random.default_rng(0))
    assert apart.interval(0, "auc").estimate == 1
    assert together.interval(0, "auc").estimate == 0.75


def test_workers_do_not_matter_with_parts() -> None:
    labels, p, slides = study(patches=1000)
    parts = folds_of(slides, np.random.default_rng(0), (2, 3))
    one, three = (
        bootstrap(
            labels, p, slides, parts=parts, metrics=["auc"], replicates=40, workers=n, rng=np.random.default_rng(0)
        ).values
        for n in (1, 3)
    )
    assert np.array_equal(one, three)


def test_a_part_that_lacks_a_class_in_a_replicate_does_not_count_in_it() -> None:
    # Under the second variant's folds, three slides are a fold: often none is drawn.
    labels, p, slides = study(clusters=12, patches=20)
    parts = np.zeros(p.shape, int)
    few = np.isin(slides, ["slide0", "slide1", "slide2"])
    parts[1, :, few] = 1
    found = bootstrap(labels, p, slides, parts=parts, rng=np.random.default_rng(0))
    assert found.left_out == 0
    assert not np.isnan(found.values).any()
    assert found.designs[1].freedom < found.designs[0].freedom
    alone = bootstrap(labels, p[:1], slides, rng=np.random.default_rng(0))
    assert np.array_equal(found.values[:, 0], alone.values[:, 0])
    for interval in (found.interval(1, "auc"), found.difference(0, 1, "auc"), found.difference(1, 0, "auc")):
        assert interval.low < interval.estimate < interval.high
    assert found.difference(0, 1, "auc").share_a_better > 0.9


def clustered(
    rng: np.random.Generator, clusters: int, patches: int, spread: float, balance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score = slide's shift + label's shift + noise; slides differ in their share of positives as well."""
    slides = np.repeat(np.arange(clusters), patches)
    labels = (rng.random(len(slides)) < rng.beta(balance, balance, clusters)[slides]).astype(np.int8)
    scores = rng.normal(0, spread, clusters)[slides] + SHIFT * labels + rng.normal(size=len(slides))
    return labels, stats.norm.cdf(scores), slides


def least_held(repetitions: int) -> float:
    """How often 95 % intervals that are right hold the truth at least, in all but one of 1,000 such simulations."""
    return float(stats.binom.ppf(0.001, repetitions, 0.95))


def scores_of_slides(rng: np.random.Generator, slides: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """8 patches a slide; slides differ as much as patches, and in their share of positives; classes by 1.2 of that."""
    names = np.repeat(np.arange(slides), 8)
    labels = (rng.random(len(names)) < rng.uniform(size=slides)[names]).astype(np.int8)
    scores = rng.normal(size=slides)[names] + 1.2 * labels + rng.normal(size=len(names))
    return labels, stats.norm.cdf(scores), names


def held(rng: np.random.Generator, samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> int:
    """How often the interval holds the AUC of two patches of different slides."""
    truth, count = stats.norm.cdf(1.2 / np.sqrt(2 * (1 + 1))), 0
    for labels, p, clusters in samples:
        found = bootstrap(labels, p[None, None], clusters, metrics=["auc"], replicates=200, rng=rng, workers=1)
        interval = found.interval(0, "auc")
        count += int(interval.low <= truth <= interval.high)
    return count


@pytest.mark.parametrize("slides", [10, 20, 40])
def test_coverage(slides: int) -> None:
    """Sizes double from 10 on, and each size seeds its own draws: so it was laid down before any result was seen.

    Few slides are where intervals fail, so of them most samples are drawn; of each size as many slides.
    """
    rng = np.random.default_rng(slides)
    samples = [scores_of_slides(rng, slides) for _ in range(2000 // slides)]
    assert held(rng, samples) >= least_held(len(samples))


def test_patches_in_place_of_slides_hold_the_truth_too_seldom() -> None:
    """Slides of one class each: patches of one slide are then never compared with each other."""
    rng, samples = np.random.default_rng(0), []
    for _ in range(36):
        slides = np.repeat(np.arange(30), 8)
        scores = rng.normal(size=30)[slides] + 1.2 * (slides % 2) + rng.normal(size=len(slides))
        samples.append((slides % 2, stats.norm.cdf(scores), slides))
    assert held(rng, samples) >= least_held(len(samples))
    assert held(rng, [(labels, p, np.arange(len(p))) for labels, p, _ in samples]) < least_held(len(samples))


def two_models(
    rng: np.random.Generator, seeds: int, seed_spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Two models of several seeds on 20 slides, and the true difference of their mean AUCs over all seeds.

    Slides shift both models alike and each by itself; seeds differ in how far they shift positives.
    """
    clusters, patches, both, each, noise, shifts = 20, 16, 1.0, 0.7, 0.5, np.array([1.6, 1.2])
    slides = np.repeat(np.arange(clusters), patches)
    labels = (rng.random(len(slides)) < rng.random(clusters)[slides]).astype(np.int8)
    own_shifts = shifts[:, None] + rng.normal(0, seed_spread, (2, seeds))
    scores = rng.normal(0, both, clusters)[slides] + rng.normal(size=len(slides))  # of slides, of patches
    scores = scores + rng.normal(0, each, (2, 1, clusters))[..., slides] + own_shifts[..., None] * labels
    scores += rng.normal(0, noise, scores.shape)
    # A positive's lead over a negative of another slide varies with both patches, and with the seed.
    variance = 2 * (both**2 + 1 + each**2 + noise**2) + seed_spread**2
    true_a, true_b = stats.norm.cdf(shifts / np.sqrt(variance)).tolist()
    return labels, stats.norm.cdf(scores / 2), slides, true_a - true_b


@pytest.mark.parametrize(("seeds", "seed_spread"), [(1, 0.0), (3, 0.4)])
def test_coverage_of_a_paired_difference(seeds: int, seed_spread: float) -> None:
    rng = np.random.default_rng(2024)

    def covers(labels: np.ndarray, p: np.ndarray, clusters: np.ndarray, truth: float) -> bool:
        found = bootstrap(labels, p, clusters, metrics=["auc"], replicates=200, rng=rng, workers=1)
        interval = found.difference(0, 1, "auc")
        return bool(interval.low <= truth <= interval.high)

    samples = [two_models(rng, seeds, seed_spread) for _ in range(100)]
    held = sum(covers(*sample) for sample in samples)
    assert least_held(len(samples)) <= held <= stats.binom.ppf(0.999, len(samples), 0.95)
    if seeds == 1:  # the spread of several seeds would hide that slides are ignored
        naive = [covers(labels, p, np.arange(len(labels)), truth) for labels, p, _, truth in samples[::4]]
        assert sum(naive) < least_held(len(naive))


def test_the_p_value_is_where_the_interval_begins_to_hold_zero() -> None:
    rng = np.random.default_rng(3)
    clusters, labels = np.repeat(np.arange(400).astype(str), 4), rng.integers(0, 2, 1600)
    quality = rng.normal(0, 1, 1600)
    pair = [expit(slope * labels + quality + rng.normal(0, 0.7, 1600)) for slope in (1.2, 1.23)]
    found = bootstrap(labels, np.array(pair)[:, None], clusters, rng=np.random.default_rng(0), metrics=["auc"])
    told = found.difference(0, 1, "auc")
    assert 0.001 < told.p_value < 0.5
    wider, narrower = (found.difference(0, 1, "auc", 1 - told.p_value * factor) for factor in (0.99, 1.01))
    assert wider.low < 0 < wider.high
    assert narrower.low > 0 or narrower.high < 0
    # With 400 clusters and one seed next to nothing is widened: the plain share of replicates beyond zero, twice.
    differences = found.values[:, 0, 0] - found.values[:, 1, 0]
    plain = 2 * min(np.mean(differences <= 0), np.mean(differences >= 0))
    chance = 2 * np.sqrt(plain / 2 * (1 - plain / 2) / len(differences))  # of a share of so many replicates
    assert told.p_value == pytest.approx(plain, abs=4 * chance)


def test_what_is_equal_in_every_replicate_has_no_interval_of_width_zero() -> None:
    """Scores that differ in their order within a class alone, and one that is the same for all patches."""
    labels, slides = np.tile([0, 1], 40), np.repeat(np.arange(10), 8)
    p = np.stack([0.2 + 0.6 * labels, 0.3 + 0.4 * labels, np.full(80, 0.5)])[:, None]
    p[0, 0, :8] = 0.5 - 0.01 * labels[:8]  # one slide is wrong: an AUC below 1, and equal accuracy
    p[1, 0, :8] = 0.49 - 0.02 * labels[:8]
    found = bootstrap(labels, p, slides, rng=np.random.default_rng(0), replicates=200)
    for told in (found.difference(0, 1, "auc"), found.difference(0, 1, "accuracy"), found.interval(2, "auc")):
        assert np.isnan([told.low, told.high]).all()
        assert told.reason == "equal in every replicate, which says nothing of other slides"
        assert told.ends_in_words() == "unknown"
    difference = found.difference(0, 1, "auc")
    assert difference.still
    assert difference.estimate == 0
    assert np.isnan(difference.p_value)
    brier = found.difference(0, 1, "brier_score")  # where they do differ, it is known
    assert brier.reason is None
    assert brier.low < brier.high
    assert not brier.still


def test_equal_replicates_of_too_few_slides_are_called_too_few() -> None:
    labels, slides = np.tile([0, 1], 8), np.repeat(np.arange(2), 8)
    p = np.full((2, 1, 16), 0.5)
    told = bootstrap(labels, p, slides, rng=np.random.default_rng(0), replicates=50).difference(0, 1, "auc")
    assert not told.still
    assert told.reason is not None
    assert "at least 3 would be needed" in told.reason


@settings(max_examples=40)
@given(
    st.integers(0, 100_000),
    st.integers(1, 5),
    st.sampled_from([3, 5, 12, 60]),
    st.floats(0, 0.05),
    st.booleans(),
)
def test_p_value_and_interval_never_disagree(
    seed: int, seeds: int, clusters: int, distance: float, perfect: bool
) -> None:
    rng = np.random.default_rng(seed)
    by_seed = np.clip(rng.normal([[0.9], [0.9 - distance]], 0.01, (2, seeds)), 0, 1)
    values = np.clip(by_seed.mean(axis=1) + rng.normal(0, 0.015, (400, 2)), 0, 1)
    if perfect:
        by_seed[0], values[:, 0] = 1, 1
    found = Replicates(("auc",), "slides", clusters, (design_of(clusters),) * 2, by_seed[..., None], values[..., None])
    told = found.difference(0, 1, "auc")
    assert 0 < told.p_value <= 1
    if abs(told.p_value - 0.05) > 1e-4:
        assert (told.p_value < 0.05) == (told.low > 0 or told.high < 0)
    mirrored = found.difference(1, 0, "auc")
    assert mirrored.p_value == pytest.approx(told.p_value, rel=1e-3)
    assert (mirrored.low, mirrored.high) == pytest.approx((-told.high, -told.low))


def few_slides(
    rng: np.random.Generator, slides: int, one_class: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Two equal variants of three seeds on so many slides (of each class, where each holds one), and their AUC."""
    count = 2 * slides if one_class else slides
    names = np.repeat(np.arange(count), 8)
    labels = (names < slides).astype(int) if one_class else np.tile([0, 1], count * 4)
    shared = rng.normal(size=count)[names] + rng.normal(size=len(names))
    own = rng.normal(0, 0.7, (2, 1, count))[..., names] + rng.normal(0, 0.7, (2, 1, count))[..., names] * labels
    scores = shared + own + rng.normal(0, 0.5, (2, 3, len(names))) + 3 * labels
    variance = 2 * (1 + 1 + 0.5**2) + 3 * 0.7**2
    return labels, stats.norm.cdf((scores - 1.5) / 2), names, float(stats.norm.cdf(3 / np.sqrt(variance)))


@pytest.mark.parametrize(
    ("slides", "one_class"), [(2, True), (2, False), (3, True), (3, False), (5, True), (5, False), (10, False)]
)
def test_few_slides_are_told_rightly_or_not_at_all(slides: int, one_class: bool) -> None:
    rng, known, held, apart = np.random.default_rng(slides), 0, 0, 0
    studies = 80 if slides >= 3 else 8
    for _ in range(studies):
        labels, p, names, auc = few_slides(rng, slides, one_class)
        found = bootstrap(labels, p, names, metrics=["auc"], replicates=150, rng=rng, workers=1)
        single, difference = found.interval(0, "auc"), found.difference(0, 1, "auc")
        known += single.reason is None
        held += single.low <= auc <= single.high
        apart += difference.p_value <= 0.05
    if slides < 3:
        assert known == 0
    else:
        assert known == studies
        assert held >= least_held(studies)
        assert apart <= studies - least_held(studies)


@pytest.mark.parametrize(("positives", "folds"), [(2, 1), (4, 4), (12, 4)])
def test_a_rare_class_is_told_rightly_or_not_at_all(positives: int, folds: int) -> None:
    rng, known, held, apart = np.random.default_rng(positives + folds), 0, 0, 0
    labels = (np.arange(80) < positives).astype(int)
    auc = float(stats.norm.cdf(1.5 / np.sqrt(2 * (1 + 0.3**2))))
    for _ in range(40):
        scores = 1.5 * labels + rng.normal(size=(2, 1, 80)) + rng.normal(0, 0.3, (2, 3, 80))
        dealt = [np.r_[np.arange(positives) % folds, rng.permutation(80 - positives) % folds] for _ in range(3)]
        found = bootstrap(
            labels,
            stats.norm.cdf(scores - 1),
            np.full(80, ""),
            metrics=["auc"],
            replicates=150,
            rng=rng,
            workers=1,
            parts=np.array([dealt, dealt]),
        )
        single = found.interval(0, "auc")
        known += single.reason is None
        held += single.low <= auc <= single.high
        apart += found.difference(0, 1, "auc").p_value <= 0.05
    assert found.left_out == 0
    if positives < 3:
        assert known == 0
    else:
        assert known == 40
        assert held >= least_held(40)
        assert apart <= 40 - least_held(40)


def own_example() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 160).astype(np.int8)
    probabilities = np.clip(rng.normal(0.4 + 0.2 * labels, 0.25, (2, 3, 160)), 0, 1)
    parts = np.broadcast_to(np.arange(160) % 2, probabilities.shape).copy()
    clusters = np.array([f"s{i}" for i in rng.integers(0, 16, 160)])
    return {"labels": labels, "probabilities": probabilities, "clusters": clusters, "parts": parts}


def test_a_built_in_score_given_as_ones_own_has_the_same_replicates_intervals_and_differences() -> None:
    own = metrics.own_metrics(
        {
            "my AUC": metrics.OwnMetric(metrics.auc, share=True),
            "my Brier": metrics.OwnMetric(metrics.brier_score, share=True, lower_is_better=True),
        }
    )
    asked = own_example()
    found = bootstrap(**asked, rng=np.random.default_rng(1), replicates=150, own=own)
    alone = bootstrap(**asked, rng=np.random.default_rng(1), replicates=150)
    assert np.array_equal(found.values[:, :, : len(METRICS)], alone.values, equal_nan=True)
    for name, built_in in (("my AUC", "auc"), ("my Brier", "brier_score")):
        mine, theirs = (found.values[:, :, found.metrics.index(of)] for of in (name, built_in))
        np.testing.assert_allclose(mine, theirs, atol=2e-6)  # under weights: single precision
        assert found.gain(name) == found.gain(built_in)
        for of_mine, of_theirs in (
            (found.interval(0, name), found.interval(0, built_in)),
            (found.difference(1, 0, name), found.difference(1, 0, built_in)),
        ):
            for value in ("estimate", "low", "high"):
                assert getattr(of_mine, value) == pytest.approx(getattr(of_theirs, value), abs=2e-5)


def test_a_score_of_ones_own_without_bounds_may_be_any_number() -> None:
    own = metrics.own_metrics({"cost": lambda labels, said: 100.0 * float(np.mean((said > 0.5) != labels))})
    found = bootstrap(**own_example(), rng=np.random.default_rng(1), replicates=120, metrics=(), own=own)
    interval = found.interval(0, "cost")
    assert 1 < interval.low < interval.estimate < interval.high < 100


def fails(_labels: np.ndarray, _probabilities: np.ndarray) -> float:
    raise ZeroDivisionError("no such share")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"auc": metrics.auc}, "'auc' is already a metric"),
        ({"AUC": metrics.auc}, "'AUC' is already a metric"),
        ({"": metrics.auc}, "is not a name for a metric"),
        ({"two\nlines": metrics.auc}, "is not a name for a metric"),
        ({"mine": fails}, "'mine' failed on 4 patches .ZeroDivisionError: no such share"),
        ({"mine": lambda labels, _said: labels}, "'mine' failed on 4 patches .TypeError"),
    ],
)
def test_what_is_no_metric_is_told_in_one_line_before_anything_is_done(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        metrics.own_metrics(given)
    assert "\n" not in str(told.value)


def test_a_metric_that_fails_on_a_resample_is_told_by_its_name() -> None:
    def few(labels: np.ndarray, _said: np.ndarray) -> float:
        return float(labels[3]) if len(labels) == 4 else fails(labels, _said)

    asked = own_example()
    own = metrics.own_metrics({"mine": few})
    with pytest.raises(ConfigError, match=r"'mine' failed on .* patches .ZeroDivisionError: no such share"):
        bootstrap(**asked, rng=np.random.default_rng(1), replicates=100, metrics=(), own=own)


def test_intervals_of_means_hold_the_truth_over_clusters_of_unequal_size() -> None:
    """Clusters share an effect, so patches are not independent; 95 % of 200 intervals should hold 0."""
    rng, held = np.random.default_rng(8), 0
    for _ in range(200):
        sizes = rng.integers(5, 25, 12)
        clusters = np.repeat([f"s{k}" for k in range(12)], sizes)
        values = np.repeat(rng.normal(size=12), sizes) + rng.normal(size=sizes.sum())
        found = mean_interval(values, clusters, rng=rng, replicates=300)
        held += found.low <= 0 <= found.high
    assert stats.binomtest(held, 200, 0.95).pvalue > 1e-3


def test_the_p_value_of_a_mean_agrees_with_its_interval() -> None:
    rng = np.random.default_rng(1)
    clusters = np.repeat([f"s{k}" for k in range(15)], 6)
    effects = np.repeat(rng.normal(size=15), 6)
    for shift in (0.1, 0.5, 0.8, 3.0):
        found = mean_interval(effects + shift, clusters, rng=np.random.default_rng(2))
        assert (found.p_value < 0.05) == (found.low > 0)
        assert found.estimate == pytest.approx((effects + shift).mean())


def test_means_leave_out_what_is_unknown_and_say_why_they_are() -> None:
    values = np.array([0.2, 0.4, np.nan, 0.6, 0.8, np.nan])
    clusters = np.array(["a", "a", "b", "b", "c", "d"])
    found = mean_interval(values, clusters, rng=np.random.default_rng(0))
    assert found.estimate == pytest.approx(0.5)
    assert mean_interval(values[:2], clusters[:2], rng=np.random.default_rng(0)).reason == (
        "slides: 1; at least 3 would be needed"
    )
    even = mean_interval(np.full(6, 0.5), clusters, rng=np.random.default_rng(0), unit="patients")
    assert even.still
    assert "equal in every replicate, which says nothing of other patients" in str(even.reason)
    nothing = mean_interval(np.full(6, np.nan), clusters, rng=np.random.default_rng(0))
    assert np.isnan(nothing.estimate)
    assert nothing.reason == "undefined for every patch"
