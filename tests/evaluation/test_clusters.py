"""Numbers of clusters by hand; draws by what must stay together and by their moments."""

from __future__ import annotations

import numpy as np
import pytest

from sentinode.evaluation.clusters import Clusters, cluster_numbers, draw_seeds


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
    times = Clusters.of(names).draw(500, np.random.default_rng(0))
    assert (times[:, names == "a"] == times[:, [0]]).all()
    assert (times[:, names == "b"] == times[:, [2]]).all()
    assert (times[:, [0, 1, 2, 6]].sum(axis=1) == 4).all()  # one patch of each cluster
    assert times.mean(axis=0) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_mean_over_drawn_seeds_varies_as_that_of_new_seeds_would(seeds: int) -> None:
    by_seed = np.random.default_rng(seeds).normal(size=seeds)
    weights = draw_seeds(seeds, 40_000, np.random.default_rng(0))
    assert weights.sum(axis=1) == pytest.approx(1)
    means = weights @ by_seed
    assert means.mean() == pytest.approx(by_seed.mean(), abs=0.02)
    assert means.std() == pytest.approx(by_seed.std(ddof=1) / np.sqrt(seeds), rel=0.03)


def test_one_seed_is_itself() -> None:
    assert draw_seeds(1, 3, np.random.default_rng(0)).tolist() == [[1.0]] * 3
