"""Numbers of clusters by hand; draws by what must stay together and by their moments; what a design can tell."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sentinode.evaluation.clusters import _DESIGN_DRAWS, Clusters, Design, cluster_numbers, draw_seeds


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["b", "a", "b", "c"], [1, 0, 1, 2]),
        (["", "b", "", "a", "b"], [2, 1, 3, 0, 1]),
        (["", "", ""], [0, 1, 2]),
        ([30, 7, 30], [1, 0, 1]),
        ([], []),
    ],
)
def test_numbers_by_hand(names: list[str], numbers: list[int]) -> None:
    assert cluster_numbers(np.array(names)).tolist() == numbers
    assert cluster_numbers(np.array(names, dtype=object)).tolist() == numbers


def test_a_name_does_not_collide_with_the_number_of_a_nameless_patch() -> None:
    assert cluster_numbers(np.array(["", "3", "", "5", "4"])).tolist() == [3, 0, 4, 2, 1]


def test_draws_keep_clusters_whole_and_are_as_many_as_there_are() -> None:
    names = np.array(["a", "", "b", "a", "b", "a", ""])
    labels = np.array([0, 1, 0, 1, 1, 1, 1])  # a and b hold both classes, the two others positives alone
    clusters, rng = Clusters.of(names, labels), np.random.default_rng(0)
    times = clusters.patches(clusters.draw(500, rng))
    assert (times[:, names == "a"] == times[:, [0]]).all()
    assert (times[:, names == "b"] == times[:, [2]]).all()
    assert (times[:, [0, 2]].sum(axis=1) == 2).all()
    assert (times[:, [1, 6]].sum(axis=1) == 2).all()
    variance = 1 / 2  # of how often one of two clusters is drawn in two draws
    assert times.mean(axis=0) == pytest.approx(1, abs=4 * np.sqrt(variance / len(times)))


def test_no_replicate_lacks_a_class() -> None:
    labels = np.r_[1, np.zeros(5, int)]
    clusters, rng = Clusters.of(np.full(6, ""), labels), np.random.default_rng(0)
    times = clusters.patches(clusters.draw(200, rng))
    assert (times[:, 0] == 1).all()
    assert (times[:, 1:].sum(axis=1) == 5).all()


GENERATORS = 20


def design_of(
    sizes: list[tuple[int, int]], parts: list[int] | None = None, others: list[int] | None = None, *, draws: int = 0
) -> Design:
    """Of clusters with so many negatives and positives, each wholly in its part; a second seed's parts are `others`."""
    names = np.repeat(np.arange(len(sizes)), [sum(size) for size in sizes])
    labels = np.concatenate([np.repeat([0, 1], size) for size in sizes])
    seeds = [np.zeros(len(sizes), int)] if parts is None else [np.array(each) for each in (parts, others or parts)]
    return Clusters.of(names, labels).design(np.array([each[names] for each in seeds]), np.random.default_rng(draws))


def designs_of(*of: list, **keywords: list[int]) -> list[Design]:
    """From many generators: what a design tells comes from random draws."""
    return [design_of(*of, **keywords, draws=draws) for draws in range(GENERATORS)]


def near(values: list[float], expected: float, at_most: float = np.inf) -> bool:
    """Whether the mean of what so many generators gave is the expected one, to four of its own standard errors.

    The inverse of what is told is a ratio of means over draws, which is off by the inverse of their number at most.
    What is cut off at its largest value has a mean that is too small by 0.7 of the standard deviation that is left.
    """
    spread = np.std(values, ddof=1)
    reach = 4 * spread / np.sqrt(len(values)) + (0.7 * spread if at_most == expected else 0)
    return bool(abs(np.mean(values) - expected) <= reach + expected**2 / _DESIGN_DRAWS)


@pytest.mark.parametrize(
    ("sizes", "freedom", "widening", "effective"),
    [
        ([(5, 5)] * 10, 9, 10 / 9, (10, 10)),
        ([(0, 8)] * 5 + [(8, 0)] * 5, 8, 5 / 4, (5, 5)),
        # (2/9 + 11/144)^2 / ((2/9)^2 / 2 + (11/144)^2 / 11)
        ([(0, 8)] * 3 + [(8, 0)] * 12, 3.535, (1 / 3 + 1 / 12) / (2 / 9 + 11 / 144), (12, 3)),
        ([(1, 0)] * 40 + [(0, 1)] * 4, 3.826, (1 / 4 + 1 / 40) / (3 / 16 + 39 / 1600), (40, 4)),
        ([(0, 8)] * 2 + [(8, 0)] * 2, 2, 2, (2, 2)),
    ],
)
def test_what_equal_clusters_tell_by_hand(
    sizes: list[tuple[int, int]], freedom: float, widening: float, effective: tuple[int, int]
) -> None:
    found = designs_of(sizes)
    assert near([design.freedom for design in found], freedom)
    assert near([design.widening for design in found], widening)
    for label, count in enumerate(effective):
        assert near([design.classes[label].effective for design in found], count, at_most=count)
    assert all(design.shortage("slides") is None for design in found) == (min(effective) >= 3)


def test_clusters_of_other_sizes_tell_less_than_as_many_equal_ones() -> None:
    found = design_of([(40, 40), (10, 10), (10, 10), (10, 10), (10, 10)])
    assert all(1.5 < each.effective < 4 for each in found.classes)
    assert found.widening > 5 / 4


def test_parts_take_their_share() -> None:
    # Of two slides in a part one degree of freedom is lost; some is won back where a replicate lacks a part.
    whole, in_parts = (designs_of([(5, 5)] * 8, parts) for parts in (None, [0, 0, 1, 1, 2, 2, 3, 3]))
    assert near([design.freedom for design in whole], 7)
    assert all(4 < design.freedom < 6 for design in in_parts)
    assert min(design.widening for design in in_parts) > max(design.widening for design in whole)
    # Parts that differ from seed to seed tell no more: the slides are the same.
    once, twice = (
        designs_of([(5, 5)] * 8, [0, 0, 0, 0, 1, 1, 1, 1], other)
        for other in ([0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1, 0, 1])
    )
    assert near([one.freedom - other.freedom for one, other in zip(once, twice, strict=True)], 0)


def test_a_shortage_is_told_with_what_it_would_take() -> None:
    assert design_of([(5, 5)] * 3).shortage("slides") is None
    told = design_of([(0, 5)] * 2 + [(5, 0)] * 6).shortage("slides")
    assert told == "slides with tumour: 2; at least 3 would be needed"
    both = design_of([(0, 5), (5, 0)]).shortage("groups")
    assert both == (
        "groups with tumour-free patches: 1; at least 3 would be needed and groups with tumour: 1; at least 3 would be "
        "needed"
    )
    unequal = design_of([(5, 500), (5, 5), (5, 5), (5, 5)]).shortage("slides")
    assert unequal is not None
    assert unequal.startswith("slides with tumour: 4, which tell as much as 2.")
    assert "such would be needed" in unequal


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_mean_over_drawn_seeds_varies_as_that_of_new_seeds_would(seeds: int) -> None:
    by_seed = np.random.default_rng(seeds).normal(size=seeds)
    weights = draw_seeds(seeds, 40_000, np.random.default_rng(0))
    assert weights.sum(axis=1) == pytest.approx(1)
    means = weights @ by_seed
    error = means.std() / np.sqrt(len(means))
    assert means.mean() == pytest.approx(by_seed.mean(), abs=4 * error)
    of_spread = error * np.sqrt((stats.kurtosis(means, fisher=False) - 1) / 4)
    assert means.std() == pytest.approx(by_seed.std(ddof=1) / np.sqrt(seeds), abs=4 * of_spread)


def test_one_seed_is_itself() -> None:
    assert draw_seeds(1, 3, np.random.default_rng(0)).tolist() == [[1.0]] * 3
